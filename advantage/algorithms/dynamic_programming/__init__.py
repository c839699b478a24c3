"""Solvers of known Markov decision processes, one method a file."""

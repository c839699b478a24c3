"""Solvers of known Markov decision processes, one method per file."""

"""Finite worlds: tables of transitions and rewards, and the standard examples of the literature."""

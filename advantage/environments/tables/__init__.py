"""Finite worlds: tables of transitions and rewards, and the classics of the literature."""

"""Bandit methods, which learn the best of several arms, one method per file."""

"""Recorded episodes: their form in memory, the file that holds them, and Minari's files."""

"""Comparison of runs: learning curves, final scores and their intervals over seeds, as numbers and pictures."""

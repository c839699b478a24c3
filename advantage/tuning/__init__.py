"""Tuning: a study tries settings of an algorithm, and repeats the best ones with other seeds."""

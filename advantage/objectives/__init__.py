"""Objectives of updates: surrogate and value losses."""

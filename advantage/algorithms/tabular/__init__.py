"""Tabular learning, one method per file."""

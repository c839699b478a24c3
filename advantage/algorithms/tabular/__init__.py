"""Learning in tables: one method a file."""

"""Drivers: they run algorithms in environments."""

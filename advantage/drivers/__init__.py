"""Drivers: they let algorithms meet environments."""

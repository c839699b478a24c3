"""The driver of searches for a policy."""

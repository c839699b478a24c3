"""Environments and wrappers, one per file, and a check that reports what is wrong with a user's environment."""

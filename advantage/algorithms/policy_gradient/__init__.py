"""Policy-gradient methods."""

"""A trained policy for programs that do not have this library."""

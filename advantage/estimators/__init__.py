"""Returns and advantages: pure functions of time-major arrays."""

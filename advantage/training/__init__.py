"""The training loop that all algorithms and drivers share, its run folder, and resuming a run."""

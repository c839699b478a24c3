"""The loop that every algorithm and every driver share, its run folder, and resuming it."""

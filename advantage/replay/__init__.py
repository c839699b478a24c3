"""The replay buffer: past transitions from which updates draw."""

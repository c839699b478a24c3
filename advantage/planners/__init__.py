"""Planners: choose actions by looking ahead in a model, pure functions of a model, a state and a key."""

"""What agents that plan share."""

"""What policy-gradient methods share."""

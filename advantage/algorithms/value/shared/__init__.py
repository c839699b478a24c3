"""What methods that learn from replayed experience share."""

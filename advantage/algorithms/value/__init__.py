"""Methods that learn action values from replayed experience."""

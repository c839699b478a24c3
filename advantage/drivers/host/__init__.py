"""The driver of Gymnasium environments."""

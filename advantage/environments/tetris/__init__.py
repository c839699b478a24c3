"""Tetris, on the device and in Gymnasium's interface."""

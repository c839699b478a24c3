"""On-device worlds with dynamics of their own."""

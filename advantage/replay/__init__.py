"""Past transitions that updates draw from."""

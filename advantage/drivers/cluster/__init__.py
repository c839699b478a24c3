"""Drivers whose environments are stepped by the actors of a Ray cluster: the only folder that imports Ray."""

"""Agents that plan: with the world's own rules, or with a model that they learn."""

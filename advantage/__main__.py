"""`python -m advantage` is `advantage`."""

from advantage.cli import run

run()

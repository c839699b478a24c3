"""Worlds and adapters, one a file, and the check that tells a newcomer what is wrong with theirs."""

"""The commands of `advantage`, one a file, imported when it is called."""

"""The commands of `advantage`, one per file. A file is imported when its command is called."""

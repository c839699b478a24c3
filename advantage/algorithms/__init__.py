"""One method per file, written like the algorithm box of its paper."""

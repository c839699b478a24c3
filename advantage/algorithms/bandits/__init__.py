"""Learning which of several arms pays most: one method a file."""

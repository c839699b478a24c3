"""One method a file, each reading like its paper's box."""

"""One package for each resource, with the same file names in each."""

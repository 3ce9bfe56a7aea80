"""One package for each resource, with the same module names in each."""

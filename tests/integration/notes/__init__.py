"""A resource for the tests: what a new one takes. See docs/development/adding-a-resource.md."""

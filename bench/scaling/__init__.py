"""The plans of the service's statements over a large table."""

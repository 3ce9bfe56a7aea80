"""HTTP semantics of the API. Knows no resource and no SQL."""

"""A state machine that compares the service with a model of the contract."""

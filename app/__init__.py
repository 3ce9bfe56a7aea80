"""Tasks API: the service that implements `openapi.yaml`."""

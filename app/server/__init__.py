"""HTTP/1.1 on uvicorn: limits, timeouts, admission, draining."""

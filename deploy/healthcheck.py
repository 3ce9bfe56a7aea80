"""Health check of the image: exit with 0 if `GET /livez` succeeds, else with 1.

It checks liveness without the database: a restart does not repair an unavailable database, and a
suspended one is not woken. Unlike `urllib.request`, `http.client` ignores `http_proxy`.
"""

import http.client
import os
import sys

TIMEOUT = 4  # seconds
# A client cannot connect to a wildcard address. The image may not resolve `localhost`.
LOOPBACK = {"": "127.0.0.1", "*": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104


def main() -> None:
    """Request `/livez` at HOST and PORT."""
    host = os.environ.get("HOST", "127.0.0.1")
    connection = http.client.HTTPConnection(
        LOOPBACK.get(host, host),
        int(os.environ.get("PORT") or 8000),
        timeout=TIMEOUT,
    )
    try:
        connection.request("GET", "/livez")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        sys.exit(str(error))
    if status != http.client.OK:
        sys.exit(f"/livez answered {status}")


main()

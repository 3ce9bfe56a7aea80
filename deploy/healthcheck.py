"""The image's health check: exits with 0 if the service in this container is alive, else with 1.

Liveness: it leaves a suspended database asleep, and a restart would not help one that is away.
Unlike `urllib.request`, `http.client` does not use the proxy in `http_proxy`.
"""

import http.client
import os
import sys

SECONDS = 4
# An address that listens on all of them has none of its own; the image need not know `localhost`.
EVERY_ADDRESS = {"": "127.0.0.1", "*": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104


def main() -> None:
    """Ask `/livez` at the address that the service listens on."""
    host = os.environ.get("HOST", "127.0.0.1")
    connection = http.client.HTTPConnection(
        EVERY_ADDRESS.get(host, host),
        int(os.environ.get("PORT") or 8000),
        timeout=SECONDS,
    )
    try:
        connection.request("GET", "/livez")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as fault:
        sys.exit(str(fault))
    if status != http.client.OK:
        sys.exit(f"/livez answered {status}")


main()

"""The image's health check: exits with 0 if the service in this container is alive, else with 1.

Liveness: it leaves a suspended database asleep, and a restart would not help one that is away.
Unlike `urllib.request`, `http.client` does not use the proxy in `http_proxy`.
"""

import http.client
import os
import sys

SECONDS = 4
EVERY_ADDRESS = {"", "*", "0.0.0.0", "::"}  # noqa: S104 - asked, not bound


def main() -> None:
    """Ask `/livez` at the address that the service listens on."""
    host = os.environ.get("HOST", "127.0.0.1")
    connection = http.client.HTTPConnection(
        "localhost" if host in EVERY_ADDRESS else host,
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

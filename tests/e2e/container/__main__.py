"""Build the image into the test store: `task build:container`."""

from __future__ import annotations

from tests.e2e.container.engine import build, build_base

if __name__ == "__main__":
    build_base()
    build()

"""Builds the image into the store of the checks: `task build:container`."""

from __future__ import annotations

from tests.e2e.container.engine import build, make_base

if __name__ == "__main__":
    make_base()
    build()

"""Fixtures for concurrent requests."""

from tests.integration.tasks.conftest import concurrent_client, writers

__all__ = ["concurrent_client", "writers"]

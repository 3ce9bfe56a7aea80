"""Measurements and query plans with large tables."""

"""Measurements and generated documents; not tests."""

"""Advice: the weakest change that stops what leaks."""

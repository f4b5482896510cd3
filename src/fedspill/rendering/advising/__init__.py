"""Advice for a terminal.

- `words`: its sentences and cells.
- `table`: what leaks, the changes that stop it, and what else was tried.
"""

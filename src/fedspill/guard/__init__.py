"""Checks of an incoming model on the client; a file is one check, with its CARD (`fedspill.checks()` lists them)."""

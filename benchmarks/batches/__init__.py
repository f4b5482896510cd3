"""Batches of an honest server: what is read of them, layer by layer."""

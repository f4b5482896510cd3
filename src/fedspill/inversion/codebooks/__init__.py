"""Codebooks: what stored data look like, so that a candidate that is one record is known without the truth.

- `codebook`: what may be read: nearest stored value, and whether a candidate is a single record.
- `lattice`: the levels of stored data, 8-bit pixels say.
- `scale`: an unknown scale, found by the lattice.
- `tokens`: embeddings looked up in the model as sent.
"""

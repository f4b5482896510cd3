"""Codebooks: what stored data look like, so that a candidate that is one record is known without the truth.

- `codebook`: the nearest stored values, and whether a candidate is one record.
- `lattice`: the values that pixels, categories and counts take, and the distance from them.
- `scale`: the factor that turns a multiple of an example into stored data.
- `tokens`: the nearest token at every position, by what the model makes of each in front of its first block.
"""

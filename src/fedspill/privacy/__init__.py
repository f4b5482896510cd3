"""Differential privacy: what is done to an update, and what is proven of it.

- `mechanisms`: clipping and noise.
- `gaussian`: epsilon and noise of one Gaussian release.
"""

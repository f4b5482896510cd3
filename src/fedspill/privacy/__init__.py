"""Differential privacy: what is done to an update, and what is proven of it.

- `mechanisms`: clipping and noise.
- `release`: what a chain of defences lets out, in the accountants' terms.
- `gaussian`: epsilon and noise of one Gaussian release.
- `accounting`: epsilon of many releases, with its unit.
- `reconstruction`: how often any attacker can rebuild, at most.
- `libraries`: dp-accounting and riskcal, imported when they are used.
"""

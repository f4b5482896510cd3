"""Differential privacy: what is done to an update, and what is proven of it.

- `mechanisms`: clipping and noise.
- `release`: what a chain of defences lets out, in the accountants' terms.
- `gaussian`: epsilon and noise of one Gaussian release.
- `accounting`: epsilon of many releases, with its unit.
- `reconstruction`: how often any attacker can rebuild, at most.
- `analytic_attackers`: what an attacker without a prior reads from a noisy linear layer.
- `jacobian`: the update by the inputs, and products with its Jacobian.
- `fisher`: what a noisy update leaves of any estimate.
- `identifiability`: whether an update without noise determines the inputs near by.
- `empirical`: a lower bound on epsilon, by playing against a mechanism.
- `libraries`: dp-accounting and riskcal, imported when they are used.
"""

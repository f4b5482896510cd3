"""`fedspill sweep`: many audits from one plan.

- `command`: its two commands, and which of them is meant.
- `choices`: what its options mean: the engine, and its size.
- `display`: progress with an estimate of the time that is left.
"""

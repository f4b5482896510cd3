"""Whoever runs an attack: hears of its progress, keeps its state, and may end it early.

- `watch`: the protocol, and nobody who watches.
- `clock`: work that can be given up in its midst.
- `operations`: every operation on tensors looked at.
- `counting`: the bytes that work makes.
- `nested`: many long steps under one watch.
"""

"""What the protocol and its defences cost in accuracy, beside what leaks.

- `short_training`: rounds of the same clients on other examples, and the accuracy after them.
"""

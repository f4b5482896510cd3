"""A layer's input as the unknown of linear equations.

- `least_squares`: from its weight's gradient, and what is known of its output.
- `partly_known`: the same where some of the input's values are known.
- `sharpened`: the same again, with what is zero of a ReLU's values at zero.
- `spoiled`: which of these equations are wrong.
"""

"""`fedspill advise`: the smallest changes of a plan that stop what leaks.

- `command`: its options.
- `display`: how far it is.
"""

"""Networks and data that scenarios are made of.

- `networks/`: the zoo's own networks, one family a file.
- `models/`: models, by name or from a caller's module.
- `data/`: examples, by name or from what a caller holds.
- `statistics`: mean and standard deviation per channel of data sets.
- `root`: where the user's data lies.
"""

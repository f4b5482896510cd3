"""Networks and data that scenarios are made of.

- `networks/`: the zoo's own networks, one family a file.
- `models/`: models, by name or from a caller's module.
- `data/`: examples, by name or from what a caller holds.
- `statistics`: what images are normalised by: constants of data sets, and what is said.
- `measured_statistics`: the same, measured on public images.
- `root`: where the user's data lies.
"""

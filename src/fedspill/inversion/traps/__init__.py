"""Trap weights: rows that few examples activate, without a change of the architecture.

Boenisch et al., EuroS&P 2023, arXiv 2112.02918.

- `rows`: the rows.
- `passthrough`: convolutions that hand the input on.
- `owned_rows`: rows that one example alone activated.
- `row_scale`: the share of a row that its example sends.
"""

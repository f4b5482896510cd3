"""Trap weights: rows that few examples activate, without a change of the architecture.

Boenisch et al., EuroS&P 2023, arXiv 2112.02918.

- `rows`: rows that fire rarely on data in [0, 1] (Algorithm 1).
- `passthrough`: how the network's input arrives at its first linear layer, and the way back.
- `owned_rows`: rows that hold one example alone, judged without the truth.
- `row_scale`: the scale of rows whose bias moved by little more than its rounding.
"""

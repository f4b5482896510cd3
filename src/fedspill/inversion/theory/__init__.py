"""What a readout must find, for evaluations that hold the examples.

- `occupancy`: examples alone in a bin, in expectation.
- `ownership`: examples that own a row or a unit: IR leakage rate and ExAN.
"""

"""What a readout must find, for evaluations that hold the examples.

- `occupancy`: how many examples are alone in a bin, in expectation, and which an ideal decoder recovers.
- `ownership`: examples that own a row or a unit: IR leakage rate and ExAN.
"""

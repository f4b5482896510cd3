"""Gradient matching, measured.

Cost and quality beside breaching (`python -m benchmarks.matching`), Table 2, presets, many updates at once, stopping
at a quality.
"""

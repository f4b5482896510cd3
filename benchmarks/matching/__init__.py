"""Gradient matching, measured.

Cost and quality beside breaching (`python -m benchmarks.matching`), presets side by side, many updates at once.
"""

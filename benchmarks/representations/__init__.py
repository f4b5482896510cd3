"""Maui, measured.

Leakage of heads, inversion of representations, reconstruction, local DP, out of distribution, natural preimages.
"""

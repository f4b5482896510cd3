"""Robbing the Fed, measured.

`images`, `identification`, `records` (texts and tables), `theory`, `deep_placement`, `logistic_labels`, and beside
breaching (`peer`).
"""

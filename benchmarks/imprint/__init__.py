"""Robbing the Fed, measured.

`images`, `soliton` (rows of an LT code), `identification`, `records` (texts and tables), `theory`, `deep_placement`,
`logistic_labels`, and beside breaching (`peer`).
"""

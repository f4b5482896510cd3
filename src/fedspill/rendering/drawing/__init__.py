"""Pictures for reports.

- `pictures`: tensors to PNG.
- `canvas`: an empty matplotlib figure of the report's style.
- `figures`: plots.
- `bin_sheet`: what was read bin by bin, as one picture.
"""

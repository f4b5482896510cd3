"""Pictures for reports.

- `pictures`: tensors to PNG.
- `canvas`: an empty matplotlib figure of the report's style.
- `figures`: plots.
- `history`: a federation over time: accuracy, and what leaked, by round.
- `poster`: several audits in one picture with words.
- `bin_sheet`: what was read bin by bin, as one picture.
"""

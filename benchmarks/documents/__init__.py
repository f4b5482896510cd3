"""Documents that are generated.

- `attacks_table`: docs/attacks.md.
- `listings`: what `fedspill list` shows.
"""

"""Documents that are generated.

- `attacks_table`: docs/attacks.md.
- `listings`: what `fedspill list` shows.
- `demo_picture`: docs/demo.png.
"""

"""Documents that are generated.

- `attacks_table`: docs/attacks.md.
- `demo_picture`: docs/demo.png.
"""

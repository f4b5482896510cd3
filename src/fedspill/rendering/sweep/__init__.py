"""Views of a sweep: pure functions of its rows.

- `facts`: rows pooled by attack and defence, and in words.
- `figures`: what leaked by defence and attack, drawn.
- `page`: the page of comparison.
"""

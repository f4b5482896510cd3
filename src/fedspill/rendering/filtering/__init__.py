"""Views of a tested filter chain: pure functions of a Filtering.

- `words`: the headline, and what it holds for.
- `table`: for a terminal.
- `as_json`: for another program.
"""

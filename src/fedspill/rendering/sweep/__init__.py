"""Views of a sweep: pure functions of its rows.

- `facts`: rows pooled by attack and defence, and in words.
- `figures`: what leaked by defence and attack, drawn.
- `gains`: what an attack gains by knowing the defence.
- `page`: the page of comparison.
- `prices`: what each defence leaves, and what it costs.
- `trade_off`: accuracy against what leaks, drawn.
"""

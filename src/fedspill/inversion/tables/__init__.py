"""Rows of tables as a search takes them, and what many searches say together.

Vero, Balunović, Dimitrov, Vechev, "TabLeak", ICML 2023, arXiv 2210.01785.

- `relaxation`: free numbers to rows with probabilities for categories and numbers inside their bounds.
- `ensemble`: independent rows in one order, pooled, and how far they agree.
"""

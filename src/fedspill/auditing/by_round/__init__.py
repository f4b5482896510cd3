"""A federation round by round: how good its model was, and what leaked when.

- `ledger`: the global model of every round, measured as rounds are run, and kept beside the trials.
- `records`: the rounds of the report.
"""

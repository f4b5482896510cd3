"""The trials of an audit in turn, within its budget.

- `schedule`: closed forms first, those that share a search together, none twice; a killed audit goes on.
- `shares`: who gets how much of the budget.
- `joint_trials`: trials that are attacked together.
"""

"""Classification heads that leak representations.

Dabholkar et al. 2025 (Maui, arXiv 2509.11451), section 5.2.2.

- `weights`: the kinds of heads, and their files.
- `spab`: the settings of a head's training.
- `training`: the training on frozen representations: objective, schedule, choice of the epoch.
- `making`: a head of any kind, trained where it must be.
"""

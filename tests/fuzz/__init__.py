"""Broken plans and files: whatever they hold, a command answers in one line or does its work.

- `plans`: valid plans and what becomes of them.
- `files`: files of every kind that fedspill reads, and what becomes of them.
- `network`: the network whose weights are broken.
- `running`: a command run on one input, and what it may do.
- `test_fuzz`: 300 inputs in the suite, 10,000 in `make fuzz`.
"""

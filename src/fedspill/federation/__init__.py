"""The simulated world: clients, their aggregate, and what the server comes to hold; sole holder of private data.

- `client`: one participant, with its defences.
- `aggregation`: what reaches the server of several clients' updates.
- `threat`: the one door through which facts of private data pass.
"""

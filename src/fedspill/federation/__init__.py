"""The simulated world: clients, their aggregate, and what the server comes to hold; sole holder of private data.

- `client`: one participant, with its defences.
- `aggregation`: what reaches the server of several clients' updates.
- `rounds`: many rounds, with a server step, and what another client sees of them.
- `simulating`: clients that a server runs on examples of its own.
- `threat`: the one door through which facts of private data pass.
"""

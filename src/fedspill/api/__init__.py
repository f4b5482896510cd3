"""The verbs of fedspill in Python, handed on by `fedspill` itself: what the commands of the same names do.

A bare `nn.Module` is enough; what it cannot tell (the shape and the normalisation of its inputs, the loss) is asked
for by name.

- `arguments`: what callers say of a bare network, and how it is checked.
- `advise`: what stops the leaks of a planned federation.
- `attack`: of a captured update.
- `audit`: of a planned federation.
- `rank`: which layers of a network determine their input.
- `results`: what an audit gives back.
- `vet`: of a received model.
- `filters`: of a client's filter chain.
- `guard`: the same inside a client, round by round, and of the update before it is sent.
"""

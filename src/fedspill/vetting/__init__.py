"""A model that a client received, put to the guard's checks and judged.

- `received`: a file beside the network that it is to be loaded into, whether or not it fits.
- `own_data`: the client's own examples, held against the model.
- `inspection`: the checks run, so that what none of them could examine is a finding.
- `policy`: which checks, how severe each finding is, and what must be at hand.
- `baseline`: findings that were accepted before.
- `verdict`: all of it together.
"""

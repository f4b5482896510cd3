"""`fedspill vet` as a detector: whom it warns of, what slips through, and what slipping through costs the attacker.

- `worlds`: networks in two halves that differ in architecture, and the client's examples.
- `honest`: honest models, however initialised, trained and stored.
- `plants`: what the catalogue plants, and where.
- `hiding`: the tricks by which it is hidden.
- `dials`: every check's alarm level as a ladder; how far up it a model still raises an alarm.
- `reading`: what the attack still reads of a hidden variant.
- `measuring`: one case of all that, in bounded seconds.
- `records`: a line of JSON for every case, so that a run that is ended goes on where it was.
- `thresholds`: levels chosen on one half, rates on the other.
- `entropy`: Robbing the Fed with identity kernels against honest weights, by their entropy alone.
- `table`: all of it as Markdown.
- `plot`: found against still read.
"""

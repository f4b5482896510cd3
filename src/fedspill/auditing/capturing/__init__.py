"""A captured update made ready, attacked, and, where its truth is at hand, judged.

- `updates`: named tensors of a file, or of a file per client, as an update to the model.
- `kinds`: whether they can be what they are said to be, by comparison with the global weights.
- `signs`: whether a delta is server minus client, or the other way round.
- `modes`: whether BatchNorm's running statistics fit the mode that is said.
- `assumed`: what is assumed of a client's draws, where these are not known.
- `truths`: the private examples behind it, from files or from the caller.
- `in_turn`: the attack that is named, or what `standard` tries one after the other.
- `attacking`: the attacks, and what they themselves believe.
- `scoring`: its reconstruction beside the truth, as an audit of one trial.
"""

"""How close a reconstruction came; the only place, with `auditing`, where the truth is opened.

- `match`: which reconstruction belongs to which private example.
- `distances`: between all pairs of two sets.
- `metrics/`: closeness of matched pairs, one value per pair.
- `pairs`: what image metrics share: shape checks, pieces of bounded size.
- `score`: every metric on the pairs that match.
- `exact`: which candidates are exact copies.
- `leakage`: which examples leaked, and what share.
- `recognition`: is an example recognisable in its reconstruction?
- `identification`: image identification precision (IIP).
- `labels`: how many inferred labels are right.
- `baselines`: guesses made without any update.
"""

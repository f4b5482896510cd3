"""From when a picture, a sentence or a row is recognisable: thresholds of the verdict, and what they rest on.

- `degrading`: reconstructions at many levels, by real attacks and by hand.
- `images`: their scores, beside guesses and beside whether the target is found among 100 distractors.
- `rows`: the same of sentences and of rows of tables.
- `packing`: the files of both.
- `table`: identification over PSNR, the margins, and how they agree on pairs that set none of them.
"""

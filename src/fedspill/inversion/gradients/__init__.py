"""What an update says of one layer.

- `mean`: the mean gradient behind an update of either kind.
- `rounding`: the error that a recovered gradient has from being the difference of rounded parameters.
- `layer`: one layer's mean gradient, and its rows.
- `linear`: inputs of a linear layer: weight gradient over bias gradient, by rows that agree, or by class.
- `defended/`: what it was before a defence that the server knows.
- `head`: the classification layer's gradient and the weights that it was taken at.
- `scale`: one factor between an update and the mean gradient, from candidates that fit it.
- `losses`: what the loss's derivative by the logits says of labels, asked of the loss itself.
- `singly`: what each example of a batch gives to each row of each gradient.
- `telling`: which examples stand alone in a row, or in the difference of two.
- `firing`: which units fired, and candidates that contradict it.
- `drawn`: what a random layer drew for a single example.
"""

"""What calling a model tells of it, whatever its code looks like.

- `inputs`: arbitrary inputs of its kind.
- `head`: the layer that makes the logits.


"""

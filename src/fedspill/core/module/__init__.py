"""Anyone's `nn.Module` as a pure function of its tensors and its input.

- `wrappers`: `torch.compile`, `DataParallel`, DDP, Opacus.
- `unwrapping`: the network without them; what cannot be used.
- `twins`: a module's structure made anew, whatever its attributes refer to.
- `calling`: one call with given parameters and buffers, which leaves no trace.
- `reentrant`: checkpointing whose backward pass PyTorch runs by itself.
- `answers`: logits out of what a network returns.
"""

"""Whoever looks at every operation on tensors, forward and backward."""

from torch.utils._python_dispatch import TorchDispatchMode


class EveryOperation(TorchDispatchMode):
    """A dispatch mode that is not wrapped for torch.compile.

    The wrapper would import the compiler with the first operation, which takes as long as all of PyTorch, and costs
    some microseconds with each; nothing here is compiled.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

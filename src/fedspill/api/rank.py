"""`fedspill.rank_analysis`: which layers of a network determine their input by one example's gradient."""

from torch import nn

from fedspill.api.arguments import check_network
from fedspill.core.errors import BadInput
from fedspill.core.inputs import ImageSpec
from fedspill.core.model import Model
from fedspill.inversion.recursion.rank_analysis import LayerRank
from fedspill.inversion.recursion.rank_analysis import rank_analysis as ranks_of
from fedspill.zoo.models import of_module


def rank_analysis(
    model: Model | nn.Module, *, shape: tuple[int, int, int] | None = None, seed: int = 0
) -> list[LayerRank]:
    """Of every layer with weights, the rank of the constraints that one example's gradient puts on its input.

    By R-GAP (Zhu and Blaschko, ICLR 2021): what lies above a layer being known, the gradient of its weight and what it
    puts out are linear equations for its input. The network is taken in eval mode; no data are needed, and that all
    layers are determined does not say that nothing else protects an update, such as noise or a batch.

    Args:
        model: a network that `torch.fx` traces and that ends in a linear layer.
        shape: channels, height and width of one image; for a bare network.
        seed: of the picture at which ranks are computed.

    Returns:
        One entry for each input of layers, in the order of computation.

    Raises:
        BadInput: no network, a bare one without a shape, or not of images.
        NotApplicable: the network cannot be traced, or does not end in a linear layer.

    Example:
        >>> import fedspill, torch
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 8, 3), torch.nn.Tanh(), torch.nn.Flatten(), torch.nn.Linear(288, 10)
        ... )
        >>> [(r.layers[0], r.rank, r.values, r.determined) for r in fedspill.rank_analysis(net, shape=(3, 8, 8))]
        [('0', 192, 192, True), ('3', 288, 288, True)]
    """
    check_network(model, "model")
    if isinstance(model, Model):
        if not isinstance(model.input, ImageSpec):
            raise BadInput(f"rank analysis is of images; this model takes {type(model.input).__name__}")
        return ranks_of(model.in_eval_mode(), seed)
    if shape is None:
        raise BadInput("a bare network needs shape=(channels, height, width) of one image")
    return ranks_of(of_module(model, ImageSpec(shape), training=False), seed)

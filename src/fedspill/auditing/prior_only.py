"""The reconstruction that a search makes of nothing: the prior without the update."""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim.adam import adam

from fedspill.core.inputs import ImageSpec
from fedspill.core.rng import randn
from fedspill.core.watching.clock import OutOfTime, Pace, around, unhurried
from fedspill.inversion.priors.total_variation import total_variation
from fedspill.inversion.search.step_rules import SignedAdam

STEPS = 240
RULE = SignedAdam()


def tv_only(spec: ImageSpec, n: int, like: Tensor, rng: torch.Generator) -> Float[Tensor, "n c h w"]:
    """Signed Adam on total variation alone, from noise: what Inverting Gradients returns if it learns nothing.

    The steps are those of `Search`, taken with PyTorch's functional Adam: the first `torch.optim.Adam` of a process
    imports torch._dynamo, which takes as long as all of PyTorch, and every audit of images makes this guess.

    Raises:
        OutOfTime: by the clock around it, if there is one.
    """
    z = randn((n, *spec.encoded_shape), rng, like).requires_grad_()
    first, second, count = torch.zeros_like(z), torch.zeros_like(z), torch.tensor(0.0)
    lowest, best, is_up = math.inf, z.detach().clone(), around()
    pace = Pace(is_up)
    for step in range(STEPS + 1):
        with pace.evaluation():
            value = total_variation(z)
            (gradient,) = torch.autograd.grad(value, z)
        with unhurried(), torch.no_grad():
            if float(value) < lowest:
                lowest, best = float(value), z.detach().clone()
            if step == STEPS:
                break
            if is_up():
                raise OutOfTime
            adam(
                [z],
                [gradient.sign()],
                [first],
                [second],
                [],
                [count],
                amsgrad=False,
                beta1=0.9,
                beta2=0.999,
                lr=RULE.step_size(step / STEPS),
                weight_decay=0.0,
                eps=1e-8,
                maximize=False,
            )
            z.copy_(spec.project(z))
    return spec.decode(best)

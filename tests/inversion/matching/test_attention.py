"""Networks with attention: fused kernels have no second derivative, so updates are computed without them."""

import torch
from torch import nn
from torch.nn import functional

from fedspill.attacks.inverting_gradients import InvertingGradients
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedSGD, local_update
from fedspill.core.model import Model
from fedspill.core.rng import stream
from fedspill.inversion.search.settings import SearchSettings
from tests.support.worlds import SPEC, batch, draw_weights


class Attention(nn.Module):
    """One attention layer over the rows of a picture."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(24, 72)
        self.head = nn.Linear(24, 10)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(z.transpose(1, 2).flatten(2)).chunk(3, dim=-1)
        return self.head(functional.scaled_dot_product_attention(q, k, v).mean(1))


def test_gradient_matching_runs_on_attention() -> None:
    model, private = Model.of(draw_weights(Attention()), SPEC), batch(1)
    update = local_update(model, private, FedSGD())
    knowledge = ServerKnowledge(model, labels=private.labels)
    rebuilt = InvertingGradients(search=SearchSettings(steps=30)).reconstruct(update, knowledge, stream(0, "a"))
    assert min(rebuilt.objective) < rebuilt.objective[0]

"""Tokens are the nearest ones, whatever the network does in front of its first block."""

import pytest
import torch
from torch import Tensor, nn

from fedspill.core.inputs import TokenSpec
from fedspill.core.model import Model, next_token_loss
from fedspill.core.rng import rand, stream
from fedspill.inversion.codebooks.tokens import TokenCodebook
from fedspill.inversion.network.layers import behind_embedding, layer_inputs
from tests.support.worlds import draw_weights


class Net(nn.Module):
    """An embedding with positions that are added, or that scale it."""

    def __init__(self, scaled: bool) -> None:
        super().__init__()
        self.embedding, self.place = nn.Embedding(30, 6), nn.Parameter(torch.empty(5, 6))
        self.blocks, self.scaled = nn.Linear(6, 30), scaled

    def forward(self, x: Tensor) -> Tensor:
        found = self.embedding(x)
        return self.blocks(found * (1.5 + self.place) if self.scaled else found + self.place)


@pytest.mark.parametrize("scaled", [False, True])
def test_tokens_are_the_nearest_by_brute_force_and_mixtures_stand_off(scaled: bool) -> None:
    with torch.random.fork_rng():
        model = Model.of(draw_weights(Net(scaled), scale=1.0), TokenSpec(5, 30), next_token_loss)
    tokens = torch.randint(30, (7, 5), generator=stream(0, "tokens"))
    at = behind_embedding(model, tokens)
    assert at == "blocks"
    codebook = TokenCodebook(model, at)
    assert (codebook._added is None) == scaled
    features = layer_inputs(model, at, tokens).flatten(1).double()
    noisy = features + 0.4 * rand(tuple(features.shape), stream(1, "noise"), features)
    every = torch.stack([layer_inputs(model, at, torch.full((1, 5), v))[0] for v in range(30)])
    nearest = (noisy.view(7, 5, 1, 6) - every.permute(1, 0, 2)[None]).norm(dim=3).argmin(2)
    assert torch.equal(codebook.tokens(noisy), nearest)
    assert torch.equal(codebook.tokens(features), tokens)
    assert float(codebook.residual(features).max()) < 1e-5
    assert float(codebook.residual(0.6 * features + 0.4 * features.roll(1, 0)).min()) > 0.12
    assert codebook.tokens(features[:0]).shape == (0, 5)

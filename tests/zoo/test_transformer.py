"""The transformer against PyTorch's own layers, brute force and closed forms."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from fedspill.core.errors import BadInput, NotApplicable
from fedspill.core.inputs import TokenSpec
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedAvg, FedSGD, local_update
from fedspill.core.model import Model
from fedspill.core.rng import stream
from fedspill.core.types import Batch
from fedspill.inversion.labels import methods as inference
from fedspill.inversion.labels.known import known_labels
from fedspill.inversion.network.layers import behind_embedding, layer_inputs
from fedspill.zoo.models import build
from fedspill.zoo.networks.registry import NETWORKS
from fedspill.zoo.networks.transformer import TransformerOptions, positions, transformer

VOCABULARY, LENGTH = 11, 6
SMALL = {"width": 8, "heads": 2, "hidden": 12, "layers": 2}


def small(norm: str = "post", seed: int = 0) -> Model:
    spec = TokenSpec(LENGTH, VOCABULARY)
    options = {**SMALL, "norm": norm}
    return build(
        "transformer",
        input_shape=(LENGTH,),
        num_classes=VOCABULARY,
        spec=spec,
        options=options,
        seed=seed,
        dtype=torch.float64,
    )


def sentences(n: int, seed: int = 0) -> Batch:
    tokens = torch.randint(VOCABULARY, (n, LENGTH + 1), generator=stream(seed, "test", "tokens"))
    return Batch(tokens[:, :-1], tokens[:, 1:])


def reference_block(model: Model, k: int, pre: bool) -> nn.TransformerEncoderLayer:
    """PyTorch's layer with the weights of block k."""
    layer = nn.TransformerEncoderLayer(
        8, 2, 12, dropout=0.0, batch_first=True, norm_first=pre, dtype=torch.float64, device="meta"
    )
    theirs = {
        "self_attn.in_proj_": "attention.qkv.",
        "self_attn.out_proj.": "attention.out.",
        "linear1.": "feed.0.",
        "linear2.": "feed.2.",
        "norm1.": "norm1.",
        "norm2.": "norm2.",
    }
    state = {
        f"{their}{part}": model.params[f"blocks.{k}.{own}{part}"]
        for their, own in theirs.items()
        for part in ("weight", "bias")
    }
    layer.load_state_dict(state, assign=True)
    return layer.train()  # without dropout the same, and without the fused path


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_blocks_are_those_of_pytorch(norm: str) -> None:
    model, tokens = small(norm), sentences(3).inputs
    x = model.params["embedding.weight"][tokens] * math.sqrt(8)
    for i in range(LENGTH):
        for j in range(8):
            angle = i / 10_000 ** (2 * (j // 2) / 8)
            x[:, i, j] += math.cos(angle) if j % 2 else math.sin(angle)
    assert torch.allclose(layer_inputs(model, "blocks.0", tokens), x, atol=1e-12)
    mask = nn.Transformer.generate_square_subsequent_mask(LENGTH, dtype=torch.float64)
    for k in range(2):
        x = reference_block(model, k, norm == "pre")(x, src_mask=mask, is_causal=True)
    if norm == "pre":
        x = functional.layer_norm(x, (8,), model.params["norm.weight"], model.params["norm.bias"])
    logits = functional.linear(x, model.params["decoder.weight"], model.params["decoder.bias"])
    assert torch.allclose(model.logits(model.params, tokens), logits, atol=1e-10)


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_no_position_sees_a_later_token(norm: str) -> None:
    model, tokens = small(norm), sentences(1).inputs
    before = model.logits(model.params, tokens)[0]
    for place in range(LENGTH):
        changed = tokens.clone()
        changed[0, place] = (changed[0, place] + 1) % VOCABULARY
        after = model.logits(model.params, changed)[0]
        same = (before - after).abs().amax(1) < 1e-12
        assert same[:place].all()
        assert not same[place:].any()
        assert torch.allclose(model.logits(model.params, tokens[:, : place + 1])[0, place], before[place], atol=1e-12)


def test_the_paper_size() -> None:
    with torch.device("meta"):
        module = transformer((20,), 10_004, TransformerOptions())
    width, hidden, vocabulary = 96, 1536, 10_004
    block = 4 * (width * width + width) + 2 * width * hidden + hidden + width + 4 * width
    expected = vocabulary * width + 3 * block + vocabulary * width + vocabulary
    assert sum(p.numel() for p in module.parameters()) == expected
    assert not list(module.buffers())
    assert list(dict(module.named_children())) == ["embedding", "blocks", "norm", "decoder"]


def test_the_loss_is_the_mean_over_every_token() -> None:
    model, batch = small(), sentences(3)
    logits = model.logits(model.params, batch.inputs)
    each = [-logits[i, j].log_softmax(0)[batch.labels[i, j]] for i in range(len(batch)) for j in range(LENGTH)]
    assert torch.allclose(model.loss(model.params, batch.inputs, batch.labels), torch.stack(each).mean())
    soft = functional.one_hot(batch.labels, VOCABULARY).double()
    assert torch.allclose(model.loss(model.params, batch.inputs, soft), torch.stack(each).mean())


def test_an_update_is_the_mean_of_its_sentences_updates() -> None:
    model, batch = small(), sentences(3)
    whole = local_update(model, batch, FedSGD()).values
    single = [local_update(model, batch[i : i + 1], FedSGD()).values for i in range(3)]
    step = local_update(model, batch, FedAvg(lr=0.5)).values
    assert set(whole) == set(model.params)
    for name, value in whole.items():
        assert torch.allclose(value, torch.stack([s[name] for s in single]).mean(0), atol=1e-12)
        assert torch.allclose(step[name], 0.5 * value, atol=1e-12)


def test_tokens_that_do_not_occur_get_no_gradient() -> None:
    model, batch = small(), sentences(1)
    rows = local_update(model, batch, FedSGD()).values["embedding.weight"].abs().amax(1) > 0
    assert set(rows.nonzero()[:, 0].tolist()) == set(batch.inputs.flatten().tolist())


def test_a_server_can_stand_right_behind_the_embedding() -> None:
    model = small()
    tokens = sentences(2).inputs
    assert behind_embedding(model, tokens) == "blocks"
    first = layer_inputs(model, "blocks.0", tokens)
    assert first.shape == (2, LENGTH, 8)
    assert torch.equal(layer_inputs(model, "blocks", tokens), first)


def test_weights_follow_from_the_seed_alone() -> None:
    before = torch.get_rng_state()
    first, again, other = small(), small(), small(seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first.params[k], again.params[k]) for k in first.params)
    assert not torch.equal(first.params["embedding.weight"], other.params["embedding.weight"])
    assert float(first.params["embedding.weight"].abs().max()) <= 0.1
    assert torch.equal(first.params["blocks.1.norm1.weight"], torch.ones(8, dtype=torch.float64))


def test_positions_tell_lengths_apart() -> None:
    table = positions(torch.zeros(1, 50, 8, dtype=torch.float64))
    assert len(torch.unique(table, dim=0)) == 50
    assert torch.equal(positions(torch.zeros(2, 7, 8, dtype=torch.float64)), table[:7])


@pytest.mark.parametrize("options", [{"width": 9, "heads": 3}, {"width": 8, "heads": 3}])
def test_widths_that_do_not_divide(options: dict) -> None:
    with pytest.raises(BadInput, match=r"must be even and a multiple of heads=3"):
        transformer((4,), 5, replace(NETWORKS["transformer"].options, **options))


def test_next_tokens_are_no_labels_to_infer() -> None:
    model, batch = small(), sentences(2)
    update, blind = local_update(model, batch, FedSGD()), ServerKnowledge(model, num_examples=2)
    for call in (
        lambda: inference.infer("bias_sign", update, blind, 2, stream(0, "a")),
        lambda: inference.default_method(update, blind, 2),
    ):
        with pytest.raises(NotApplicable, match="this network predicts next tokens"):
            call()
    assert known_labels(update, blind, stream(0, "a"), 2) is None
    assert known_labels(update, replace(blind, labels=batch.labels), stream(0, "a"), 2) is None

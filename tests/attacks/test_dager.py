"""Sentences out of gradients of networks as people write them, decoders and encoders, and what is refused."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from fedspill.attacks.dager import CARD, DAGER
from fedspill.core.errors import BadInput, NotApplicable
from fedspill.core.inputs import TokenSpec
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedAvg, FedSGD, local_update
from fedspill.core.model import Model
from fedspill.core.rng import randn, stream
from fedspill.core.types import Batch, Reconstruction, Update, UpdateKind
from fedspill.zoo.models import build
from tests.support import texts
from tests.support.worlds import batch as pictures
from tests.support.worlds import mlp

PAPER = CARD.presets["paper"]


def rebuilt(update: Update, knowledge: ServerKnowledge, attack: DAGER = PAPER) -> Reconstruction:
    return attack.reconstruct(update, knowledge, stream(0, "attack"))


def exact(model: Model, batch: Batch, *, told: bool = True) -> Reconstruction:
    """Reads the batch and checks that it is right, labels, too, and certified."""
    got = rebuilt(*texts.observed(model, batch, told=told))
    assert texts.same(got.inputs, batch.inputs)
    assert got.labels is not None
    pairs = [torch.cat([b.inputs, b.labels.view(len(b), -1)], 1) for b in (Batch(got.inputs, got.labels), batch)]
    assert texts.same(*pairs)
    assert got.converged
    assert got.confidence is not None
    assert got.confidence.tolist() == [1.0] * len(batch)
    return got


DECODERS = {
    "gpt2": texts.GPT2,
    "one layer": lambda: texts.GPT2(1),
    "rotary": lambda: texts.GPT2(rotary=True),
    "pytorch's, post-norm": lambda: texts.Encoder(causal=True),
    "pytorch's, pre-norm, positions first": lambda: texts.Encoder(causal=True, pre=True, batch_first=False),
}
ENCODERS = {
    "bert": texts.Bert,
    "pytorch's, post-norm": texts.Encoder,
    "pytorch's, pre-norm": lambda: texts.Encoder(pre=True),
    "pytorch's, positions first": lambda: texts.Encoder(batch_first=False),
}


@pytest.mark.parametrize("n", [1, 4])
@pytest.mark.parametrize("name", DECODERS)
def test_decoders_are_read_word_for_word(name: str, n: int) -> None:
    exact(texts.language_model(DECODERS[name]), texts.sentences(n))


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_are_read_word_for_word(name: str, n: int) -> None:
    exact(texts.drawn(ENCODERS[name]), texts.classified(n))


@pytest.mark.parametrize("name", ["gpt", "transformer"])
def test_networks_of_the_zoo(name: str) -> None:
    options = {"width": 64, "layers": 2, "heads": 4, "hidden": 64}
    spec = TokenSpec(texts.LENGTH, texts.VOCABULARY)
    model = build(name, input_shape=(texts.LENGTH,), num_classes=texts.VOCABULARY, spec=spec, options=options)
    exact(model, texts.sentences(4))


def test_equal_sentences_are_counted() -> None:
    batch = texts.sentences(3)
    twice = Batch(batch.inputs[[0, 1, 0, 2]], batch.labels[[0, 1, 0, 2]])
    exact(texts.language_model(texts.GPT2), twice)
    exact(texts.language_model(texts.GPT2), twice, told=False)
    classes = Batch(batch.inputs[[0, 1, 0]], torch.tensor([2, 1, 2]))
    exact(texts.drawn(texts.Encoder), classes)


def test_the_number_of_sentences_is_read() -> None:
    assert len(exact(texts.language_model(texts.GPT2), texts.sentences(4), told=False).inputs) == 4
    assert len(exact(texts.drawn(texts.Bert), texts.classified(2), told=False).inputs) == 2


def test_sentences_of_one_token() -> None:
    model = replace(texts.language_model(texts.GPT2), input=TokenSpec(1, texts.VOCABULARY))
    exact(model, Batch(torch.tensor([[4], [9], [4]]), torch.tensor([[3], [5], [3]])))


def test_a_decoder_that_classifies() -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = texts.Encoder(causal=True), nn.Linear(texts.VOCABULARY, texts.CLASSES)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return self.head(self.body(tokens)[:, -1])

    exact(texts.drawn(Last), texts.classified(3))


def test_a_loss_that_shifts_by_itself() -> None:
    model = texts.drawn(texts.GPT2, texts.shifting_loss)
    for n in (1, 3):
        tokens = texts.sentences(n).inputs
        exact(model, Batch(tokens, tokens))


def test_sentences_that_are_filled_up() -> None:
    batch = texts.classified(3)
    batch.inputs[0, 5:] = 1
    batch.inputs[1, 7:] = 1
    exact(texts.drawn(lambda: texts.Bert(padding=1)), batch)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_tolerance_follows_the_precision(dtype: torch.dtype) -> None:
    model, batch = texts.language_model(texts.GPT2, torch.float32), texts.sentences(2)
    update, knowledge = texts.observed(model, batch)
    rounded = Update(update.kind, {k: v.to(dtype) for k, v in update.values.items()})
    got = rebuilt(rounded, knowledge)
    assert texts.same(got.inputs, batch.inputs)
    assert got.converged


def noisy(update: Update, share: float) -> Update:
    rng, size = stream(0, "test", "noise"), sum(v.numel() for v in update.values.values()) ** 0.5
    values = {k: v + share * update.norm() / size * randn(tuple(v.shape), rng, v) for k, v in update.values.items()}
    return Update(update.kind, values)


@pytest.mark.parametrize("share", [1e-6, 1e-3, 1e-2])
def test_the_tolerance_follows_the_noise(share: float) -> None:
    update, knowledge = texts.observed(texts.language_model(texts.GPT2), texts.sentences(1))
    got = rebuilt(noisy(update, share), knowledge)
    assert texts.same(got.inputs, texts.sentences(1).inputs)
    assert got.converged


@pytest.mark.parametrize("share", [0.03, 0.3, 1.0, 10.0])
def test_what_noise_makes_wrong_is_not_certified(share: float) -> None:
    model = texts.language_model(texts.GPT2)
    for seed in range(4):
        batch = texts.sentences(2, seed)
        update, knowledge = texts.observed(model, batch)
        try:
            got = rebuilt(noisy(update, share), knowledge)
        except NotApplicable:
            continue
        true = set(map(tuple, batch.inputs.tolist()))
        assert all(tuple(s) in true for s, m in zip(got.inputs.tolist(), got.marks, strict=True) if m == "alone")
        assert got.converged <= texts.same(got.inputs, batch.inputs)


def test_one_step_of_averaging_and_a_clipped_gradient() -> None:
    model, batch = texts.language_model(texts.GPT2), texts.sentences(2)
    training = FedAvg(epochs=1, lr=0.1, weight_decay=0.01)
    update = local_update(model, batch, training)
    assert update.kind is UpdateKind.DELTA
    got = rebuilt(update, ServerKnowledge(model, num_examples=2, local_training=training))
    assert texts.same(got.inputs, batch.inputs)
    assert got.converged
    update, knowledge = texts.observed(model, batch)
    clipped = Update(update.kind, {k: 0.01 * v for k, v in update.values.items()})
    got = rebuilt(clipped, knowledge)
    assert texts.same(got.inputs, batch.inputs)
    assert got.converged
    assert "0.01 times" in got.notes[-1]


def test_a_part_of_the_network_is_enough() -> None:
    model, batch = texts.language_model(lambda: texts.Encoder(causal=True)), texts.sentences(3)
    update, knowledge = texts.observed(model, batch)
    kept = {k: v for k, v in update.values.items() if k.startswith(("blocks.", "head."))}
    got = rebuilt(Update(update.kind, kept), knowledge)
    assert texts.same(got.inputs, batch.inputs)
    assert got.converged
    bare = {k: v for k, v in kept.items() if k.startswith("blocks.")}
    got = rebuilt(Update(update.kind, bare), knowledge)
    assert texts.same(got.inputs, batch.inputs)
    assert not got.converged
    assert "nothing is certified" in got.notes[-1]
    got = rebuilt(Update(update.kind, bare), replace(knowledge, labels=batch.labels))
    assert got.converged


def test_what_does_not_fit_is_refused_in_a_line() -> None:
    model = texts.language_model(texts.GPT2)
    update, knowledge = texts.observed(model, texts.sentences(20))
    with pytest.raises(NotApplicable, match="20 sentences of 8 tokens, of which fewer than 47 different tokens"):
        rebuilt(update, knowledge)
    update, knowledge = texts.observed(model, texts.sentences(8))
    with pytest.raises(NotApplicable, match="fewer tokens in all than its width; the update holds 8 sentences of 8"):
        rebuilt(update, knowledge)
    update, knowledge = texts.observed(model, texts.sentences(2))
    bare = {k: v for k, v in update.values.items() if not k.startswith("h.0.c_attn")}
    with pytest.raises(NotApplicable, match=r"first attention.*'?h\.0\.c_attn\.weight.*none was sent"):
        rebuilt(Update(update.kind, bare), knowledge)
    first = {k: v for k, v in update.values.items() if k.startswith("h.0.c_attn")}
    with pytest.raises(NotApplicable, match="tokens were read, but not which stand in one sentence"):
        rebuilt(Update(update.kind, first), knowledge)
    several = FedAvg(epochs=3, lr=0.1)
    delta = local_update(model, texts.sentences(2), several)
    with pytest.raises(NotApplicable, match="several local steps"):
        rebuilt(delta, ServerKnowledge(model, num_examples=2, local_training=several))
    with pytest.raises(NotApplicable, match="the network takes no tokens"):
        rebuilt(local_update(mlp(), pictures(1), FedSGD()), ServerKnowledge(mlp()))
    with pytest.raises(BadInput, match="starts=0"):
        DAGER(starts=0)


def test_a_bag_of_words_is_no_transformer() -> None:
    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.word, self.head = nn.Embedding(texts.VOCABULARY, 16), nn.Linear(16, texts.CLASSES)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return self.head(self.word(tokens).mean(1))

    with pytest.raises(NotApplicable, match="no linear layer of the network gets a row for each token"):
        rebuilt(*texts.observed(texts.drawn(Bag), texts.classified(2)))


def test_weights_and_random_state_are_left_alone() -> None:
    model = texts.language_model(texts.GPT2)
    before, kept = torch.get_rng_state(), {k: v.clone() for k, v in model.params.items()}
    update, knowledge = texts.observed(model, texts.sentences(2))
    sent = {k: v.clone() for k, v in update.values.items()}
    rebuilt(update, knowledge)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(v, model.params[k]) for k, v in kept.items())
    assert all(torch.equal(v, update.values[k]) for k, v in sent.items())

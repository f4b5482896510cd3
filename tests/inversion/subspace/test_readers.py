"""Layers found by their calls, whatever they are called and however they are written."""

import pytest
import torch
from torch import nn

from fedspill.core.errors import NotApplicable
from fedspill.core.inputs import TokenSpec
from fedspill.inversion.subspace.calls import Weight, is_looked_up, linear_calls, token_lookups
from fedspill.inversion.subspace.readers import first_reader, readers
from fedspill.zoo.models import build
from tests.support import texts


def test_gpt2s_own_layers() -> None:
    found = readers(texts.language_model(lambda: texts.GPT2(1)))
    assert {r.name: r.local for r in found} == {
        "h.0.c_attn.weight": True,
        "h.0.c_proj.weight": False,
        "h.0.c_fc.weight": False,
        "h.0.c_out.weight": False,
        "wte.weight": False,
    }
    assert all(r.causal and r.weights[0].across == (r.name != "wte.weight") for r in found)


def test_rows_right_behind_an_attention_are_means() -> None:
    spec = TokenSpec(8, texts.VOCABULARY)
    options = {"width": 32, "layers": 1, "heads": 2}
    model = build("gpt", input_shape=(8,), num_classes=texts.VOCABULARY, spec=spec, options=options)
    assert {r.name: r.anchored for r in readers(model)} == {
        "blocks.0.attention.qkv.weight": True,
        "blocks.0.attention.out.weight": False,
        "blocks.0.inner.weight": True,
        "blocks.0.outer.weight": True,
        "decoder.weight": True,
    }


def test_queries_keys_and_values_are_one_reader() -> None:
    found = readers(texts.drawn(lambda: texts.Bert(1)))
    names = [[w.name.rpartition("blocks.0.")[2] for w in r.weights] for r in found]
    assert names[0] == ["query.weight", "key.weight", "value.weight"]
    assert [r.causal for r in found[:2]] == [True, False]
    assert "pooler.weight" not in [n for group in names for n in group], "it gets one row for each sentence"


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("pre", [True, False])
def test_rows_come_by_sentence_and_position(batch_first: bool, pre: bool) -> None:
    model = texts.drawn(lambda: texts.Encoder(batch_first=batch_first, pre=pre))
    first = first_reader(readers(model), model.params)
    tokens = texts.sentences(3).inputs
    rows = first.rows(model, tokens)
    x = model.params["word.weight"][tokens] + model.params["place"]
    norm = [model.params[f"blocks.layers.0.norm1.{part}"] for part in ("weight", "bias")]
    x = nn.functional.layer_norm(x, (texts.WIDTH,), *norm) if pre else x
    assert torch.allclose(rows, x, atol=1e-12)


def test_a_gradient_lies_in_the_space_of_the_rows() -> None:
    for model, batch in (
        (texts.language_model(texts.GPT2), texts.sentences(2)),
        (texts.drawn(texts.Bert), texts.classified(2)),
    ):
        values = texts.observed(model, batch)[0].values
        for reader in readers(model):
            if not is_looked_up(model, reader.name, batch.inputs):
                rows = reader.rows(model, batch.inputs).flatten(0, 1)
                gradient = reader.gradient(values)
                left = gradient - gradient @ torch.linalg.pinv(rows) @ rows
                assert float(left.norm()) < 1e-10 * float(gradient.norm()), reader.name


def test_a_part_of_a_packed_weight() -> None:
    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.word, self.both = nn.Embedding(texts.VOCABULARY, 8), nn.Parameter(torch.zeros(12, 8))
            self.head = nn.Linear(12, texts.CLASSES)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            x = self.word(tokens)
            first, second = self.both.split([4, 8])
            return self.head(torch.cat([x @ first.T, (x * 2) @ second.T], 2).mean(1))

    calls = linear_calls(texts.drawn(Packed), texts.sentences(2).inputs)
    assert [c.weight for c in calls] == [
        Weight("both", False, 0, 4),
        Weight("both", False, 4, 8),
        Weight("head.weight", False, 0, 3),
    ]
    values = {"both": torch.arange(96.0).view(12, 8)}
    assert torch.equal(calls[1].weight.part(values), values["both"][4:])
    across = Weight("both", True, 2, 3)
    assert torch.equal(across.part(values), values["both"][:, 2:5].T)


def test_embeddings_that_are_looked_up_and_nothing_else() -> None:
    tokens = texts.sentences(2).inputs
    assert token_lookups(texts.language_model(texts.GPT2), tokens) == []
    (only,) = token_lookups(texts.drawn(lambda: texts.Bert(padding=1)), tokens)
    assert (only.name, only.padding) == ("word.weight", 1)


def test_what_is_missing_is_said() -> None:
    model = texts.language_model(texts.GPT2)
    with pytest.raises(NotApplicable, match=r"needed \(h.0.c_attn.weight\); none was sent"):
        first_reader(readers(model), ["h.1.c_attn.weight"])
    with pytest.raises(NotApplicable, match="that depends on this token alone"):
        first_reader((), model.params)

"""A file's tensors put into a model: prefixes, nests, order, tied weights, and what does not fit."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_model
from torch import Tensor, nn

from fedspill.core.errors import BadInput, few, some
from fedspill.core.files.contents import BORDER, named_tensors
from fedspill.core.files.fitting import fitted
from fedspill.core.inputs import ImageSpec
from fedspill.core.model import Model
from fedspill.core.tensor_files import with_weights

SPEC = ImageSpec((1, 4, 4))


def model_of(module: nn.Module) -> Model:
    return Model.of(module, SPEC)


def bare(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # noqa: TID251
        return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 5))


class Wrapper(nn.Module):
    """Whose only child is called as DataParallel calls it."""

    def __init__(self, child: nn.Module, name: str = "module") -> None:
        super().__init__()
        self.add_module(name, child)


class Tied(nn.Module):
    """One weight by two names."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)  # noqa: TID251
            self.encoder, self.decoder = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.decoder.weight = self.encoder.weight

    def forward(self, z: Tensor) -> Tensor:
        return self.decoder(self.encoder(z)).flatten(1)


def renamed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + k: v for k, v in state.items()}


def read(tensors: dict[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    found = with_weights(model_of(module), tensors, "it")
    return {**found.params, **found.buffers}


@pytest.mark.parametrize(
    "prefix",
    [
        *("", "module.", "_orig_mod.", "_module.", "model.", "net.", "module._orig_mod.", "model.module."),
        *("_orig_mod._module.", f"state_dict{BORDER}", f"model{BORDER}module.", f"a{BORDER}b{BORDER}net."),
    ],
)
@pytest.mark.parametrize("wrapped", ["", "module", "net"])
def test_names_are_found_under_every_prefix_on_either_side(prefix: str, wrapped: str) -> None:
    state = dict(bare(5).state_dict())
    module = Wrapper(bare(), wrapped) if wrapped else bare()
    got = read(renamed(state, prefix), module)
    for name, value in state.items():
        assert torch.equal(got[f"{wrapped}.{name}" if wrapped else name], value)


def test_wrappers_inside_a_network_are_passed_over_and_a_child_of_such_a_name_is_kept() -> None:
    state = dict(bare(5).state_dict())
    inside = {
        k.replace("3.", "3._orig_mod.").replace("0.", "0._checkpoint_wrapped_module."): v for k, v in state.items()
    }
    assert torch.equal(read(inside, bare())["3.weight"], state["3.weight"])
    own = Wrapper(Wrapper(bare(), "x"))  # module.x.0.weight, ...
    own.add_module("x", nn.Linear(2, 2))  # without "module." the names stay apart: x.0.weight and x.weight
    theirs = renamed(dict(own.state_dict()), "module.")
    got = read(theirs, own)
    assert all(torch.equal(got[k], v) for k, v in own.state_dict().items())
    clash = Wrapper(nn.Linear(2, 2))  # module.weight
    clash.register_parameter("weight", nn.Parameter(torch.full((2, 2), 9.0)))
    got = read(dict(clash.state_dict()), clash)
    assert torch.equal(got["module.weight"], clash.state_dict()["module.weight"])
    assert float(got["weight"].detach()[0, 0]) == 9.0


def test_lists_are_taken_in_the_order_of_the_state_dict_or_of_the_parameters() -> None:
    state, module = dict(bare(5).state_dict()), bare()
    with_buffers = named_tensors([v.numpy() for v in state.values()], "it")
    assert all(torch.equal(v, state[k]) for k, v in read(with_buffers, module).items())
    # A list of the parameters alone; the running statistics are then the model's own.
    grads = named_tensors([state[n].numpy() for n, _ in module.named_parameters()], "it")
    found = fitted(grads, model_of(module), "update")
    assert all(torch.equal(v, state[k]) for k, v in found.params.items())
    assert not found.buffers
    module[0].requires_grad_(False)
    trained = {k: v for k, v in state.items() if k in ("1.weight", "1.bias", "3.weight", "3.bias")}
    found = fitted(named_tensors(list(trained.values()), "it"), model_of(module), "update")
    assert found.params.keys() == trained.keys()
    assert all(torch.equal(v, trained[k]) for k, v in found.params.items())


def test_one_vector_is_cut_as_parameters_to_vector_joined_it() -> None:
    module = bare(5)
    vector = nn.utils.parameters_to_vector(module.parameters()).detach()
    found = fitted(named_tensors(vector, "it"), model_of(bare()), "update")
    assert all(torch.equal(v, found.params[k]) for k, v in module.named_parameters())


def test_tied_weights_as_safetensors_writes_them_and_as_a_state_dict_holds_them(tmp_path) -> None:
    module, value = Tied(), torch.arange(16.0).reshape(4, 4)
    module.encoder.weight.data = value
    save_model(module, str(tmp_path / "tied.safetensors"))
    written = load_file(tmp_path / "tied.safetensors")
    assert len(written) == 1, "one of the two names is left out"
    for tensors in (written, dict(module.state_dict()), {"decoder.weight": value}, {"encoder.weight": value}):
        found = with_weights(model_of(Tied()), tensors, "it")
        z = torch.rand(2, 1, 4, 4)
        with torch.no_grad():
            assert torch.equal(found.logits(found.params, z), module(z))
    listed = named_tensors([v.numpy() for v in module.state_dict().values()], "it")
    assert torch.equal(with_weights(model_of(Tied()), listed, "it").params["encoder.weight"], value)


def test_two_copies_of_tied_weights_that_disagree_are_refused() -> None:
    two = {"encoder.weight": torch.zeros(4, 4), "decoder.weight": torch.ones(4, 4)}
    with pytest.raises(BadInput, match=r"'decoder.weight' and 'encoder.weight' are one tied tensor .* differ"):
        with_weights(model_of(Tied()), two, "it")


def test_an_update_may_hold_what_was_trained_and_counts_beside_it() -> None:
    extra = {"3.bias": torch.ones(5), "num_examples": torch.tensor(8), "3.total_ops": torch.zeros(1)}
    found = fitted(renamed(extra, "module."), model_of(bare()), "update")
    assert list(found.params) == ["3.bias"]
    assert "'module.num_examples', 'module.3.total_ops'] were not used" in found.notes[0]
    optimiser = {f"net{BORDER}3.bias": torch.ones(5), f"optim{BORDER}state{BORDER}0{BORDER}m": torch.ones(7)}
    found = fitted(optimiser, model_of(bare()), "update")
    assert list(found.params) == ["3.bias"]
    assert "optim" in found.notes[0]


def test_notes_and_refusals_name_a_few_of_many_tensors_and_say_how_many_there_are() -> None:
    assert some([]) == "[]"
    assert some(["a", "b", "c"]) == "['a', 'b', 'c']"
    assert some(("a", "b", "c", "d")) == "['a', 'b', 'c', ... 4 in all]"
    assert few(["a", 2]) == "a, 2"
    assert few(f"n{k}" for k in range(9)) == "n0, n1, n2, ... (9 in all)"
    deep = nn.Sequential(*(nn.Linear(2, 2) for _ in range(40)))
    model = Model.of(deep, ImageSpec((1, 1, 2)))
    counters = {f"{k}.total_ops": torch.zeros(1) for k in range(40)}
    (note,) = fitted({**deep.state_dict(), **counters}, model, "update").notes
    assert note.count("total_ops") == 3
    assert "... 40 in all]" in note
    with pytest.raises(BadInput, match=r"\['0.weight', '0.bias', '1.weight', ... 80 in all\]") as refused:
        fitted({f"other{k}": torch.zeros(3) for k in range(50)}, model, "update")
    assert len(str(refused.value)) < 400


def test_weights_that_stand_in_a_file_twice_are_those_of_the_likelier_name_or_are_refused() -> None:
    one, two = dict(bare(1).state_dict()), dict(bare(2).state_dict())
    both = {**renamed(two, f"state_dict_ema{BORDER}"), **renamed(one, f"state_dict{BORDER}")}
    with pytest.warns(UserWarning, match=r"under \['state_dict_ema\.'\] too, which were not taken"):
        assert torch.equal(read(both, bare())["3.weight"], one["3.weight"])
    with pytest.raises(BadInput, match=r"under \['a\.', 'b\.'\]; give one of them"):
        read({**renamed(one, f"b{BORDER}"), **renamed(two, f"a{BORDER}")}, bare())


def changed(**changes: Tensor | None) -> dict[str, Tensor]:
    state = {**bare(5).state_dict(), **{k.replace("_", ".", 1): v for k, v in changes.items()}}
    return {k: v for k, v in state.items() if v is not None}


MISFITS = {
    "classes": (
        changed(_3_weight=None) | {"3.weight": torch.zeros(100, 8)},
        r"another num_classes: 100 rather than 5\?",
    ),
    "transposed": (
        {**changed(), "3.weight": torch.zeros(8, 5)},
        r"shape \(8, 5\), .* \(5, 8\) \(transposed, as Tensor",
    ),
    "keras convolution": ({**changed(), "0.weight": torch.zeros(3, 3, 1, 2)}, "transposed, as TensorFlow and Keras"),
    "width": ({**changed(), "0.weight": torch.zeros(7, 1, 3, 3)}, "another width, or another architecture"),
    "reshaped": ({**changed(), "0.weight": torch.zeros(2, 9)}, "the same numbers in another shape"),
    "missing": ({k: v for k, v in changed().items() if k != "0.bias"}, r"missing \['0.bias'\], unknown \[\]"),
    "missing statistics": (
        {k: v for k, v in changed().items() if k != "1.running_var"},
        "buffer names do not fit the model: missing .'1.running_var'",
    ),
    "unknown": ({**changed(), "4.weight": torch.ones(2, 2)}, r"missing \[\], unknown \['4.weight'\]"),
    "unknown statistics": ({**changed(), "4.running_mean": torch.ones(2)}, r"unknown \['4.running_mean'\]"),
    "another name": (
        {("3.weigth" if k == "3.weight" else k): v for k, v in changed().items()},
        r"is '3.weigth' the model's '3.weight'\?",
    ),
    "adapters": ({**changed(), "3.lora_A.weight": torch.ones(2, 2)}, "adapters that the model does not have"),
    "jax": ({"Conv_0/kernel": torch.ones(3)}, "named as TensorFlow, Keras or JAX do"),
    "other network": (
        {"layers.a": torch.ones(3)},
        r"holds none of the model's parameters .* \(another architecture\?\)",
    ),
    "list too short": ({"arr_0": torch.ones(2, 1, 3, 3)}, r"list of 1 arrays; .* state_dict\(\) has 9 and .* 6"),
    "list in another order": (
        {f"arr_{k}": v for k, v in enumerate(reversed(changed().values()))},
        r"array 0 of the parameter has shape \(5,\), and '0.weight' .* in another order than that of state_dict\(\)",
    ),
    "list transposed": (
        {f"arr_{k}": v.T if v.ndim == 2 else v for k, v in enumerate(changed().values())},
        r"array 7 .*transposed, as TensorFlow and Keras",
    ),
    "nan": ({**changed(), "3.bias": torch.full((5,), torch.nan)}, "'3.bias' holds NaN or infinite values"),
    "too large": ({**changed(), "3.bias": torch.full((5,), 1e60, dtype=torch.float64)}, "beyond the range of float32"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_what_does_not_fit_is_one_line_with_the_likely_cause(case: str) -> None:
    tensors, said = MISFITS[case]
    with pytest.raises(BadInput, match=said) as caught:
        with_weights(model_of(bare()), tensors, "it")
    assert "\n" not in str(caught.value)


def test_a_huge_tensor_is_refused_by_its_shape_before_anything_is_computed() -> None:
    """A view of one number, which would fill any memory as soon as it is looked through."""
    huge = torch.zeros(1).expand(10**15)
    with pytest.raises(BadInput, match=r"'3.bias' has shape \(1000000000000000,\)"):
        with_weights(model_of(bare()), {**changed(), "3.bias": huge}, "it")
    place = torch.zeros(1, 1, dtype=torch.long)
    vast = torch.sparse_coo_tensor(place, torch.ones(1), (10**15,), check_invariants=True)
    with pytest.raises(BadInput, match="has shape"):
        with_weights(model_of(bare()), {**changed(), "3.bias": vast}, "it")


def test_numbers_of_numpy_in_double_precision_are_not_changed_in_place() -> None:
    weights = np.ones((5, 8))
    found = fitted(named_tensors({"3.weight": weights}, "it"), model_of(bare()), "update")
    found.params["3.weight"].zero_()
    assert weights.all()


def test_a_network_that_is_quantised_itself_keeps_its_whole_numbers_and_scales() -> None:
    class Short(nn.Linear):
        """Whose weight is stored as whole numbers beside a scale."""

        def __init__(self) -> None:
            super().__init__(8, 5)
            self.register_buffer("whole", torch.zeros(5, 8, dtype=torch.int8))
            self.register_buffer("whole_scale", torch.ones(5))

    with torch.random.fork_rng():
        module = nn.Sequential(nn.Flatten(), Short())
    state = {
        **module.state_dict(),
        "1.whole": torch.full((5, 8), 3, dtype=torch.int8),
        "1.whole_scale": torch.arange(5.0),
    }
    for prefix in ("", "module.", f"model{BORDER}"):
        got = read(renamed(state, prefix), module)
        assert all(torch.equal(got[k], v) for k, v in state.items())

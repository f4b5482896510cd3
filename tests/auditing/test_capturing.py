"""A captured update: what kind it is, which sign it has, whose mean it is, and how it is scored beside its truth."""

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

import fedspill
from fedspill.auditing.capturing.modes import mode_note
from fedspill.auditing.capturing.signs import uphill
from fedspill.auditing.capturing.truths import read_truth
from fedspill.auditing.capturing.updates import as_update, observed, read_update
from fedspill.core.inputs import TokenSpec
from fedspill.core.local_training.update import FedAvg, FedSGD, aggregate_update, local_update
from fedspill.core.model import Model
from fedspill.core.rng import randn, stream
from fedspill.core.types import Batch
from fedspill.report.schema import AuditReport, Verdict
from fedspill.testing.worlds import CLASSES, SPEC, batch, conv_bn, linear, mlp, relu_mlp
from fedspill.zoo.data import load
from fedspill.zoo.models import build
from tests.support.files import array_record, quantised, saved_arrays

State = dict[str, Tensor]
ATTACK = {"attack": "linear_layer", "num_examples": 1}


def gradient(model: Model, n: int = 1) -> State:
    return dict(local_update(model, batch(n), FedSGD()).values)


def weights_after(model: Model, training: FedAvg, n: int = 1) -> State:
    delta = local_update(model, batch(n), training).values
    return {k: model.params[k] - v for k, v in delta.items()}


def untimed(verdict: Verdict) -> Verdict:
    """All but how long the attacks took."""
    roles = [role.model_copy(update={"seconds": 0.0}) for role in verdict.by_role]
    return verdict.model_copy(update={"by_role": roles})


def granted(report: AuditReport) -> list[str]:
    return [g.explanation for g in report.grants if g.granted]


def test_one_update_through_eight_formats_is_one_reconstruction_and_one_verdict(tmp_path: Path) -> None:
    model, private = relu_mlp(), batch(1)
    state = gradient(model)
    arrays = {k: v.numpy() for k, v in state.items()}
    save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "b.pt")
    torch.save({"model": {f"module.{k}": v for k, v in state.items()}, "epoch": 3}, tmp_path / "c.pt")
    saved_arrays(tmp_path / "d.npz", list(arrays.values()))  # Flower's list
    saved_arrays(tmp_path / "e.npz", {f"_orig_mod.{k}": v for k, v in arrays.items()})  # NVFlare's dictionary
    (tmp_path / "f.bin").write_bytes(array_record({f"_module.{k}": v for k, v in state.items()}))
    np.save(tmp_path / "g.npy", np.concatenate([v.ravel() for v in arrays.values()]))
    (tmp_path / "h").mkdir()
    save_file({k: v.double() for k, v in state.items()}, tmp_path / "h" / "client.safetensors")
    files = sorted(tmp_path.iterdir())
    assert len(files) == 8
    results = [fedspill.attack(file, model, truth=(private.inputs, private.labels), **ATTACK) for file in files]
    first = results[0]
    assert first.report.verdict.name.value == "leaks"
    assert first.report.trials[0].scores[0].values[0] > 60
    for result in results[1:]:
        assert torch.equal(result.tensors["rebuilt/linear_layer-paper.u0.s0"], next(iter(rebuilt(first).values())))
        assert untimed(result.report.verdict) == untimed(first.report.verdict)
        assert result.report.trials[0].scores == first.report.trials[0].scores
        assert result.report.trials[0].self_check == pytest.approx(0, abs=1e-6)


def rebuilt(result: object) -> State:
    return {k: v for k, v in result.tensors.items() if k.startswith("rebuilt/")}


ROUNDED: dict[str, Callable[[State], State]] = {
    "bfloat16": lambda s: {k: v.bfloat16() for k, v in s.items()},
    "half": lambda s: {k: v.half() for k, v in s.items()},
    "8 bits with scales": quantised,
}


@pytest.mark.parametrize("case", ROUNDED)
def test_a_rounded_update_leaks_too(case: str, tmp_path: Path) -> None:
    model, private = relu_mlp(), batch(1)
    save_file(ROUNDED[case](gradient(model)), tmp_path / "u.safetensors")
    result = fedspill.attack(tmp_path / "u.safetensors", model, truth=(private.inputs, private.labels), **ATTACK)
    assert result.report.verdict.exit_code == 1


def test_python_objects_are_taken_as_files_are() -> None:
    model, private = relu_mlp(), batch(1)
    state = gradient(model)

    class ArrayRecord:
        def to_torch_state_dict(self) -> State:
            return state

    wanted = fedspill.attack(state, model, **ATTACK).inputs
    assert float((wanted - private.inputs).abs().max()) < 1e-3
    for given in (
        [v.numpy() for v in state.values()],
        {k: v.numpy() for k, v in state.items()},
        ArrayRecord(),
        torch.cat([v.flatten() for v in state.values()]),
    ):
        assert torch.equal(fedspill.attack(given, model, **ATTACK).inputs, wanted)


STEP = FedAvg(epochs=1, lr=0.1)


def kinds(model: Model) -> dict[str, State]:
    delta = dict(local_update(model, batch(1), STEP).values)
    return {"gradient": gradient(model), "delta": delta, "weights": weights_after(model, STEP)}


@pytest.mark.parametrize("make", [mlp, relu_mlp, conv_bn])
@pytest.mark.parametrize("real", ["gradient", "delta", "weights"])
@pytest.mark.parametrize("said", ["gradient", "delta", "weights"])
def test_what_cannot_be_of_its_kind_is_refused_with_the_likely_one(make, real: str, said: str) -> None:
    model = make()
    tensors = kinds(model)[real]
    if (real == "weights") == (said == "weights"):
        as_update(tensors, said, model)
        return
    likely = "kind 'weights'" if real == "weights" else "kind 'gradient' or 'delta'"
    with pytest.raises(fedspill.BadInput, match=f"kind='{said}'.*{likely}"):
        as_update(tensors, said, model)


def test_weights_far_from_where_they_began_are_still_weights_and_a_long_gradient_is_none() -> None:
    model = relu_mlp()
    far = weights_after(model, FedAvg(epochs=20, lr=0.5), n=8)
    as_update(far, "weights", model)
    with pytest.raises(fedspill.BadInput, match="give kind 'weights'"):
        as_update(far, "gradient", model)
    small = linear()  # tiny weights, which the first step leaves far behind
    as_update(weights_after(small, FedAvg(epochs=3, lr=1.0), n=4), "weights", small)
    as_update({k: 65536 * v for k, v in gradient(model).items()}, "gradient", model)
    as_update({k: 1e-2 * v for k, v in model.params.items()}, "gradient", model)  # all of it weight decay


@pytest.mark.parametrize("n", [1, 2, 4])
@pytest.mark.parametrize("make", [mlp, relu_mlp, conv_bn])
def test_a_delta_of_either_sign_is_turned_uphill(make, n: int) -> None:
    model, training = make(), FedAvg(epochs=3, minibatch_size=1, lr=0.05)
    delta = dict(local_update(model, batch(n), training).values)
    for sign, said in ((1, "server minus client, as it was found"), (-1, "client minus server, it was found")):
        sent = as_update({k: sign * v for k, v in delta.items()}, "delta", model, n)
        assert said in sent.notes[0]
        assert all(torch.equal(sent.update.values[k], v) for k, v in delta.items())


def test_a_sign_that_nothing_tells_is_kept_and_said() -> None:
    model = relu_mlp()
    delta = dict(local_update(model, batch(8), STEP).values)
    noisy = {k: v + 1e-3 for k, v in local_update(model, batch(1), STEP).values.items()}
    for values, n in ((delta, 8), (delta, None), (noisy, 1)):
        sent = as_update({k: -v for k, v in values.items()}, "delta", model, n)
        assert "nothing in it tells its sign" in sent.notes[0]
        assert all(torch.equal(sent.update.values[k], -v) for k, v in values.items())


@pytest.mark.parametrize("training", [FedAvg(epochs=2, minibatch_size=4, lr=0.05), None], ids=["known", "unknown"])
def test_a_sign_that_nothing_in_a_delta_tells_is_told_by_the_truth(training, tmp_path: Path) -> None:
    model, private = conv_bn(), batch(8)
    delta = dict(local_update(model, private, FedAvg(epochs=2, minibatch_size=4, lr=0.05)).values)
    given = {"kind": "delta", "attack": "dlg", "num_examples": 8, "settings": {"steps": 1, "restarts": 1}}
    given |= {"local_training": training}
    for sign, said in ((1, "is server minus client: its cosine"), (-1, "client minus server, for its cosine")):
        values = {k: sign * v for k, v in delta.items()}
        found = fedspill.attack(values, model, truth=(private.inputs, private.labels), **given).report.trials[0]
        assert said in found.notes[0]
        blind = fedspill.attack(values, model, truth=private.inputs, **given).report.trials[0]
        assert "nothing in it tells its sign." in blind.notes[0]
        if training is not None:
            assert found.self_check == pytest.approx(0, abs=1e-6)
    across = {k: randn(tuple(v.shape), stream(0, k), v) for k, v in delta.items()}
    doubtful = fedspill.attack(across, model, truth=(private.inputs, private.labels), **given).report.trials[0]
    assert "nor does the truth" in doubtful.notes[0]


def test_a_folder_of_reversed_deltas_is_turned_by_the_truth_with_its_buffers(tmp_path: Path) -> None:
    model, private = conv_bn(training=True), batch(10)
    for k in (0, 1):
        update = local_update(model, private[5 * k : 5 * k + 5], FedAvg(lr=0.05))
        statistics = {k: v - model.buffers[k] for k, v in update.buffers.items() if "running" in k}
        save_file({k: -v for k, v in update.values.items()} | statistics, tmp_path / f"{k}.safetensors")
    sent = read_update(tmp_path, "delta", model, 10)
    assert sent.turned is not None
    turned = sent.turned()
    assert (turned.turned, turned.clients) == (None, 2)
    wanted = aggregate_update(model, model.input.encode(private.inputs), private.labels, FedAvg(lr=0.05), 2)
    for name, value in wanted.values.items():
        torch.testing.assert_close(turned.update.values[name], value)
    for name, value in turned.update.buffers.items():
        torch.testing.assert_close(value, wanted.buffers[name], atol=1e-6, rtol=1e-5)


def test_counters_of_batches_tell_the_sign_and_statistics_become_the_clients_own() -> None:
    model = conv_bn(training=True)
    update = local_update(model, batch(8), FedAvg(epochs=2, minibatch_size=4, lr=0.05))
    own = dict(update.buffers)
    minus = {k: own[k] - v for k, v in model.buffers.items()}
    client_minus_server = {**{k: -v for k, v in update.values.items()}, **minus}
    for tensors in (client_minus_server, {k: -v for k, v in client_minus_server.items()}):
        sent = as_update(tensors, "delta", model)
        assert all(torch.equal(sent.update.values[k], v) for k, v in update.values.items())
        assert all(torch.allclose(sent.update.buffers[k].double(), v.double(), atol=1e-6) for k, v in own.items())
    values = as_update({**update.values, **own}, "delta", model)
    assert "nothing in it tells" in values.notes[0]
    assert all(torch.equal(values.update.buffers[k], v) for k, v in own.items())


def with_statistics(training: bool, *, counted: int = 3) -> Model:
    """BatchNorm layers that have seen batches before."""
    model = conv_bn(training=training)
    kept = {k: v + counted if k.endswith("tracked") else v + 0.1 for k, v in model.buffers.items()}
    return model.with_params(model.params, kept)


@pytest.mark.parametrize("kind", ["gradient", "delta", "difference", "weights", "update"])
@pytest.mark.parametrize("ran", [True, False], ids=["train", "eval"])
def test_a_mode_that_running_statistics_contradict_is_told(kind: str, ran: bool) -> None:
    client = with_statistics(ran)
    update = local_update(client, batch(4), FedSGD() if kind == "gradient" else STEP)
    own = dict(update.buffers or client.buffers)
    sent = {"gradient": {**update.values, **own}, "delta": {**update.values, **own}}
    sent["difference"] = update.values | {k: client.buffers[k] - v for k, v in own.items()}
    sent["weights"] = {k: v - update.values[k] for k, v in client.params.items()} | own
    for said in (True, False):
        model = with_statistics(said)
        given = replace(update, buffers=own) if kind == "update" else sent[kind]
        notes = observed(given, {"difference": "delta", "update": "delta"}.get(kind, kind), model, 4).notes
        told = [note for note in notes if note.startswith("mode=")]
        assert len(told) == (said != ran)
        if told:
            assert told[0].startswith("mode='train' was" if said else "mode='eval' was said, but BatchNorm's running")
            assert "1.running_mean and 2 more" in told[0]


def test_rounded_statistics_have_not_moved_and_a_counter_alone_tells() -> None:
    for model in (with_statistics(False), with_statistics(True)):
        after = dict(model.buffers)
        for short in (torch.float16, torch.bfloat16):
            rounded = {k: v.to(short).to(v) for k, v in after.items()}
            assert (mode_note(rounded, model) is None) is not model.training
        assert mode_note({}, model) is None
        assert mode_note(None, model) is None
    many = with_statistics(False, counted=100_000)
    counted = {k: v + 1 if k.endswith("tracked") else v for k, v in many.buffers.items()}
    assert "(1.num_batches_tracked)" in (mode_note(counted, many) or "")


def test_a_gradient_that_points_downhill_is_refused() -> None:
    model = relu_mlp()
    with pytest.raises(fedspill.BadInput, match="points downhill"):
        as_update({k: -v for k, v in gradient(model).items()}, "gradient", model, 1)


def test_a_folder_is_the_mean_of_its_clients(tmp_path: Path) -> None:
    model = relu_mlp()
    parts = [local_update(model, batch(2)[k : k + 1], FedSGD()).values for k in (0, 1)]
    for k, part in enumerate(parts):
        save_file(dict(part), tmp_path / f"client{k}.safetensors")
    sent = read_update(tmp_path, "gradient", model, 2)
    whole = local_update(model, batch(2), FedSGD()).values
    assert sent.clients == 2
    assert "mean of 2 clients, with equal weights" in sent.notes[0]
    assert all(torch.allclose(sent.update.values[k], v, atol=1e-7) for k, v in whole.items())
    with pytest.raises(fedspill.BadInput, match="3 examples cannot be shared out equally to the 2 clients"):
        read_update(tmp_path, "gradient", model, 3)
    with pytest.raises(fedspill.BadInput, match="clients=3 was given, and the folder holds updates of 2"):
        fedspill.attack(tmp_path, model, attack="linear_layer", num_examples=6, clients=3)
    told = fedspill.attack(tmp_path, model, attack="linear_layer", num_examples=2)
    assert any(note.startswith("The update is the mean of 2 clients") for note in told.notes)
    save_file({"1.bias": parts[0]["1.bias"]}, tmp_path / "client2.safetensors")
    with pytest.raises(fedspill.BadInput, match=r"'client2.safetensors' holds other tensors than"):
        read_update(tmp_path, "gradient", model)
    (tmp_path / "client2.safetensors").write_bytes(b"broken")
    with pytest.raises(fedspill.BadInput, match="client2.safetensors"):
        read_update(tmp_path, "gradient", model)


def test_clients_that_state_their_numbers_of_examples_are_weighted_by_them(tmp_path: Path) -> None:
    model, private = relu_mlp(), batch(4)
    parts = {1: private[:1], 3: private[1:]}
    for n, part in parts.items():
        values = dict(local_update(model, part, FedSGD()).values)
        save_file({**values, "num_examples": torch.tensor(n)}, tmp_path / f"{n}.safetensors")
    sent = read_update(tmp_path, "gradient", model, 4)
    whole = local_update(model, private, FedSGD()).values
    assert "weights by the numbers of examples" in sent.notes[0]
    assert all(torch.allclose(sent.update.values[k], v, atol=1e-7) for k, v in whole.items())
    assert "equal shares" not in sent.notes[0]
    assert "with equal shares, which theirs are not" in read_update(tmp_path, "delta", model, 4).notes[0]
    with pytest.raises(fedspill.BadInput, match=r"num_examples=5 was given, and the files of .* say \[1, 3\]"):
        read_update(tmp_path, "gradient", model, 5)
    save_file(dict(local_update(model, private[:1], FedSGD()).values), tmp_path / "4.safetensors")
    with pytest.raises(fedspill.BadInput, match=r"say num_examples=\[1, 3, None\]; each must say 1 or more, or none"):
        read_update(tmp_path, "gradient", model)


def test_weights_of_several_clients_are_averaged_where_one_of_them_did_not_change(tmp_path: Path) -> None:
    model = relu_mlp()
    one, two = (weights_after(model, STEP, n) for n in (1, 2))
    one["1.bias"] = model.params["1.bias"].clone()
    for k, part in enumerate((one, two)):
        save_file(part, tmp_path / f"client{k}.safetensors")
    sent = read_update(tmp_path, "weights", model)
    for k, v in sent.update.values.items():
        assert torch.allclose(v, model.params[k] - (one[k] + two[k]) / 2, atol=1e-6)


def test_clients_whose_signs_differ_have_no_mean_and_a_sign_that_one_tells_is_that_of_all(tmp_path: Path) -> None:
    model = relu_mlp()
    one, two = (dict(local_update(model, batch(2)[k : k + 1], STEP).values) for k in (0, 1))
    save_file({k: -v for k, v in one.items()}, tmp_path / "0.safetensors")
    save_file(two, tmp_path / "1.safetensors")
    with pytest.raises(fedspill.BadInput, match="some clients' updates point uphill and others downhill"):
        read_update(tmp_path, "delta", model, 2)
    mute = {**two, "5.bias": torch.zeros(10)}  # which tells nothing
    save_file({k: -v for k, v in mute.items()}, tmp_path / "1.safetensors")
    sent = read_update(tmp_path, "delta", model, 2)
    assert "was turned round" in sent.notes[1]
    assert torch.allclose(sent.update.values["1.weight"], (one["1.weight"] + mute["1.weight"]) / 2)


def test_the_sign_after_adam_is_found_among_many_classes_and_noise_is_not_taken_for_one() -> None:
    """Adam's first step is lr in every value, so the bias sums to no 0; ten classes may be chance, fifty are not."""
    for classes, found in ((10, None), (50, False)):
        with torch.random.fork_rng():
            net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, classes))
        model = Model.of(net, SPEC)
        gradients = local_update(model, batch(2), FedSGD()).values
        step = {k: -0.001 * v.sign() for k, v in gradients.items()}
        assert uphill(step, {}, model, 2) is found


def test_weights_rounded_to_16_bits_are_told_of(tmp_path: Path) -> None:
    model = relu_mlp()
    after = weights_after(model, FedAvg(epochs=1, lr=1e-3))
    rounded = {k: v.bfloat16() for k, v in after.items()}
    assert "rounded to bfloat16, by about" in as_update(rounded, "weights", model).notes[0]
    assert not as_update(after, "weights", model).notes
    short = model.with_params({k: v.bfloat16().float() for k, v in model.params.items()})
    assert not as_update(rounded, "weights", short).notes


def truth_files(folder: Path, private: Batch) -> list[Path]:
    images, labels = private.inputs, private.labels
    save_file({"inputs": images, "labels": labels}, folder / "a.safetensors")
    torch.save({"inputs": images, "labels": labels}, folder / "b.pt")
    saved_arrays(folder / "c.npz", {"images": images.permute(0, 2, 3, 1).numpy(), "labels": labels[:, None].numpy()})
    return sorted(folder.iterdir())


def test_a_truth_is_read_from_every_kind_of_file(tmp_path: Path) -> None:
    model, private = relu_mlp(), batch(3)
    for file in truth_files(tmp_path, private):
        pool = read_truth(file, model)
        assert torch.equal(pool.batch.inputs, private.inputs), file.name
        assert torch.equal(pool.batch.labels, private.labels)
    alone = read_truth(private.inputs.numpy(), model)
    assert not alone.has_labels
    with pytest.raises(fedspill.BadInput, match=r"truth is a int; a pair \(inputs, labels\), or a path"):
        read_truth(3, model)
    one = read_truth((private.inputs[0], torch.tensor([0])), model)
    assert torch.equal(one.batch.inputs, private.inputs[:1])
    whole = (private.inputs * 255).round().to(torch.uint8)
    assert torch.equal(read_truth((whole, private.labels), model).batch.inputs, whole.float() / 255)


def test_class_folders_of_a_truth_are_class_numbers(tmp_path: Path) -> None:
    model = relu_mlp()
    for name in ("7", "2"):
        (tmp_path / "right" / name).mkdir(parents=True)
        Image.fromarray(np.full((8, 8, 3), int(name) * 9, np.uint8)).save(tmp_path / "right" / name / "a.png")
    pool = read_truth(tmp_path / "right", model)
    assert sorted(pool.batch.labels.tolist()) == [2, 7]
    assert all(
        float(x[0, 0, 0]) == pytest.approx(9 * int(y) / 255) for x, y in zip(*vars(pool.batch).values(), strict=True)
    )
    (tmp_path / "right" / "7").rename(tmp_path / "right" / "cat")
    with pytest.raises(fedspill.BadInput, match=r"class folders \['2', 'cat'\]; name them by the numbers"):
        read_truth(tmp_path / "right", model)
    flat = read_truth(tmp_path / "right" / "2", model, torch.tensor([2]))
    assert flat.batch.labels.tolist() == [2]
    one = read_truth(tmp_path / "right" / "2" / "a.png", model)
    assert torch.equal(one.batch.inputs, flat.batch.inputs)
    assert not one.has_labels


WRONG_TRUTHS = {
    "shape": (lambda b: (b.inputs[..., :4], b.labels), "the model takes (3, 8, 8)"),
    "normalised": (lambda b: (b.inputs * 4 - 2, b.labels), "in [0, 1] are needed"),
    "whole numbers": (lambda b: ((b.inputs * 255).long(), b.labels), "bytes, or floats in [0, 1]"),
    "three": (lambda b: (b.inputs, b.labels, 1), "3 things; a pair"),
    "names": (lambda b: {"a": b.inputs, "b": b.inputs}, "'inputs' and, if known, 'labels' are needed"),
    "labels": (lambda b: (b.inputs, b.labels + 0.5), "class numbers are needed"),
    "class": (lambda b: (b.inputs, b.labels + 10), "the data has labels up to 10"),
    "many": (
        lambda b: (b.inputs.repeat(2, 1, 1, 1), b.labels.repeat(2)),
        "num_examples=1 was given, and the truth holds 2",
    ),
    "null byte": (lambda b: "a\0b", "does not exist"),
    "nothing": (lambda b: {}, "'inputs' and, if known, 'labels' are needed"),
}


@pytest.mark.parametrize("case", WRONG_TRUTHS)
def test_a_truth_that_cannot_be_the_truth_is_refused_before_anything_is_written(case: str, tmp_path: Path) -> None:
    make, said = WRONG_TRUTHS[case]
    model = relu_mlp()
    with pytest.raises(fedspill.BadInput) as caught:
        fedspill.attack(gradient(model), model, truth=make(batch(1)), out=tmp_path / "out", **ATTACK)
    assert said in str(caught.value)
    assert not (tmp_path / "out" / "report.json").exists()


def test_other_labels_than_those_of_the_truth_are_refused_and_a_threshold_wants_a_truth() -> None:
    model, private = relu_mlp(), batch(1)
    given = {**ATTACK, "labels": torch.tensor([4])}
    with pytest.raises(fedspill.BadInput, match=r"labels given are \[4\], those of the truth \[0\]"):
        fedspill.attack(gradient(model), model, truth=(private.inputs, private.labels), **given)
    with pytest.raises(fedspill.BadInput, match="without truth"):
        fedspill.attack(gradient(model), model, leak_threshold={"psnr": 20.0}, **ATTACK)


def test_a_captured_update_is_scored_as_an_audit_scores_its_own(tmp_path: Path) -> None:
    model, private = relu_mlp(), batch(1)
    plan = {"audit": {"attacks": ["linear_layer"]}, "server": {"knows": ["num_examples"]}}
    wanted = fedspill.audit(plan, model=model, data=(private.inputs, private.labels)).report
    got = fedspill.attack(
        gradient(model), model, truth=(private.inputs, private.labels), out=tmp_path / "out", **ATTACK
    ).report
    mine, other = got.trials[0], wanted.trials[0]
    assert mine.scores == other.scores
    assert (mine.matched, mine.leaked, mine.labels, mine.leakage_rate) == (
        *(other.matched, other.leaked, other.labels, other.leakage_rate),
    )
    assert mine.gradient_norm == pytest.approx(other.gradient_norm)
    assert mine.self_check == pytest.approx(0, abs=1e-6)
    (mine, other) = (untimed(r.verdict) for r in (got, wanted))
    assert mine == other.model_copy(update={"by_role": [other.by_role[0].model_copy(update={"assumed": granted(got)})]})
    assert {g.name for g in got.grants if g.granted} == {"num_examples", "local_training"}
    held = json.loads((tmp_path / "out" / "report.json").read_text())
    assert held["verdict"]["exit_code"] == 1
    assert (tmp_path / "out" / "report.html").is_file()
    assert json.loads((tmp_path / "out" / "attack.json").read_text())["truth"] == 1


def test_what_nobody_told_is_not_made_up(tmp_path: Path) -> None:
    """Without labels or without a protocol there is no self-check, and no share of labels that are right."""
    model, private = relu_mlp(), batch(1)
    bare = fedspill.attack(gradient(model), model, truth=private.inputs, **ATTACK).report
    assert bare.trials[0].self_check is None
    assert bare.trials[0].labels.source == "inferred"
    assert bare.trials[0].labels.overlap is None
    assert bare.verdict.exit_code == 1
    delta = dict(local_update(model, private, STEP).values)
    unknown = fedspill.attack(delta, model, kind="delta", truth=(private.inputs, private.labels), **ATTACK).report
    assert unknown.trials[0].self_check is None
    assert unknown.trials[0].labels.overlap == 1.0
    known = fedspill.attack(
        delta, model, kind="delta", local_training=STEP, truth=(private.inputs, private.labels), **ATTACK
    ).report
    assert known.trials[0].self_check == pytest.approx(0, abs=1e-6)
    wrong = fedspill.attack(
        {k: v + 0.01 for k, v in delta.items()},
        model,
        kind="delta",
        local_training=STEP,
        truth=(private.inputs, private.labels),
        **ATTACK,
    ).report
    assert wrong.trials[0].self_check > 1e-3
    assert "self-check" in {c.topic for c in wrong.caveats}


@pytest.mark.parametrize("loss", ["binary_cross_entropy", functional.binary_cross_entropy_with_logits])
def test_a_truth_without_labels_is_one_of_losses_that_take_several_too(loss) -> None:
    model, private = relu_mlp(), batch(1)
    wanted = torch.zeros(1, CLASSES).index_fill(1, torch.tensor([2, 5]), 1.0)
    params = {k: v.clone().requires_grad_() for k, v in model.params.items()}
    value = functional.binary_cross_entropy_with_logits(model.logits(params, SPEC.encode(private.inputs)), wanted)
    sent = dict(zip(params, torch.autograd.grad(value, list(params.values())), strict=True))
    report = fedspill.attack(sent, model, loss=loss, truth=private.inputs, **ATTACK).report
    assert report.trials[0].self_check is None
    assert report.trials[0].scores[0].worst > 60
    assert report.verdict.exit_code == 1


def test_an_update_of_some_parameters_is_scored_by_these() -> None:
    model, private = relu_mlp(), batch(1)
    part = {k: v for k, v in gradient(model).items() if k.startswith("1.")}
    report = fedspill.attack(part, model, truth=(private.inputs, private.labels), **ATTACK).report
    assert report.trials[0].self_check == pytest.approx(0, abs=1e-6)
    assert report.verdict.exit_code == 1


def test_several_clients_and_a_threshold_of_ones_own(tmp_path: Path) -> None:
    model, private = relu_mlp(), batch(2)
    for k in (0, 1):
        save_file(dict(local_update(model, private[k : k + 1], FedSGD()).values), tmp_path / f"{k}.safetensors")
    given = {"attack": "linear_layer", "num_examples": 2, "truth": (private.inputs, private.labels)}
    report = fedspill.attack(tmp_path, model, leak_threshold={"psnr": 99.9, "mse": 0.0}, **given).report
    assert report.trials[0].self_check == pytest.approx(0, abs=1e-6)
    assert report.plan["client"]["clients"] == 2
    assert report.plan["audit"]["leak_threshold"] == {"psnr": 99.9, "mse": 0.0}
    assert report.verdict.name.value == "recognisable"
    with pytest.raises(fedspill.BadInput, match="leak_threshold"):
        fedspill.attack(tmp_path, model, leak_threshold={"loudness": 1.0}, **given)


def test_the_truth_belongs_to_the_run_that_a_folder_holds(tmp_path: Path) -> None:
    model, private = relu_mlp(), batch(1)
    pair = (private.inputs, private.labels)
    for _ in range(2):
        fedspill.attack(gradient(model), model, truth=pair, out=tmp_path / "out", **ATTACK)
    with pytest.raises(fedspill.BadInput, match="another plan, model or data"):
        fedspill.attack(
            gradient(model), model, truth=(private.inputs / 2, private.labels), out=tmp_path / "out", **ATTACK
        )


def test_a_trainer_that_fedspill_does_not_know_is_audited_by_its_weights(tmp_path: Path) -> None:
    """Adam with label smoothing on flipped pictures, as Flower sends it; what the attack is told is only how many."""
    model, private = relu_mlp(), batch(1)
    net = copy.deepcopy(model.module)
    net.load_state_dict(dict(model.params))
    adam, loss = torch.optim.Adam(net.parameters(), lr=1e-3), torch.nn.CrossEntropyLoss(label_smoothing=0.1)
    for step in range(4):
        adam.zero_grad()
        loss(net(SPEC.encode(private.inputs.flip(3) if step % 2 else private.inputs)), private.labels).backward()
        adam.step()
    sent = saved_arrays(tmp_path / "client.npz", [v.numpy() for v in net.state_dict().values()])
    report = fedspill.attack(
        sent,
        model,
        kind="weights",
        num_examples=1,
        attack="inverting_gradients:quick",
        settings={"steps": 2, "restarts": 1},
        truth=(private.inputs, private.labels),
    ).report
    trial = report.trials[0]
    assert trial.skipped is None
    assert trial.labels.overlap == 1.0
    assert trial.self_check is None, "nobody told the protocol"
    assert len(trial.scores[0].values) == 1
    assert report.verdict.exit_code == 3


def test_rows_of_a_table_and_sentences_are_truths_too() -> None:
    pool = load("diabetes", indices="0")
    model = build("mlp", input_shape=pool.input_shape, num_classes=max(2, pool.num_classes), spec=pool.spec)
    update = dict(local_update(model, pool.batch, FedSGD()).values)
    result = fedspill.attack(update, model, truth=(pool.batch.inputs, pool.batch.labels), **ATTACK)
    assert result.report.verdict.exit_code == 1
    assert result.texts
    tokens = Model.of(model.module, TokenSpec(4, 11))
    read = read_truth(torch.arange(5)[None], tokens)
    assert (read.batch.inputs.tolist(), read.batch.labels.tolist()) == ([[0, 1, 2, 3]], [[1, 2, 3, 4]])
    with pytest.raises(fedspill.BadInput, match="below"):
        read_truth(torch.full((1, 5), 11), tokens)

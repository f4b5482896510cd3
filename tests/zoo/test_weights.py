import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fedspill.core.errors import BadInput
from fedspill.core.tensor_files import (
    read_metadata,
    read_tensors,
    sha256,
    whole_file,
    write_state,
    write_tensors,
    write_whole,
)
from fedspill.training.shipped import main
from fedspill.zoo.data import load
from fedspill.zoo.models import build
from fedspill.zoo.models.trained import SHIPPED

CIFAR = (3, 32, 32)
DATA = os.environ.get("FEDSPILL_DATA")


def _lenet(**more):
    return build("lenet", **{"input_shape": CIFAR, "num_classes": 10, **more})


@pytest.fixture
def state():
    return dict(_lenet(seed=5).params)


def test_safetensors_round_trip(state, tmp_path):
    path = tmp_path / "net.safetensors"
    write_tensors(path, state, {"note": "mine"})
    assert read_metadata(path) == {"note": "mine"}
    assert [p.name for p in tmp_path.iterdir()] == ["net.safetensors"]
    model = _lenet(weights=path)
    assert all(torch.equal(model.params[k], state[k]) for k in state)


@pytest.mark.parametrize("nest", [None, "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_checkpoints(state, tmp_path, nest, prefix):
    named = {prefix + k: v for k, v in state.items()}
    torch.save(named if nest is None else {nest: named, "epoch": 3}, tmp_path / "net.pt")
    model = _lenet(weights=str(tmp_path / "net.pt"))
    assert torch.equal(model.params["0.0.weight"], state["0.0.weight"])


def test_batchnorm_buffers_are_read_and_counters_may_lack(tmp_path):
    model = build("resnet20", input_shape=CIFAR, num_classes=10)
    running = {k: v + 1 for k, v in model.buffers.items() if "running" in k}
    save_file({**model.params, **running}, tmp_path / "net.safetensors")
    read = build("resnet20", input_shape=CIFAR, num_classes=10, weights=tmp_path / "net.safetensors")
    assert torch.equal(read.buffers["bn1.running_mean"], torch.ones(16))
    save_file(dict(model.params), tmp_path / "net.safetensors")
    with pytest.raises(BadInput, match="buffer names do not fit the model: missing"):
        build("resnet20", input_shape=CIFAR, num_classes=10, weights=tmp_path / "net.safetensors")


class Harmful:
    def __reduce__(self):
        return (os.system, ("touch harmed",))


def _truncated(path, state):
    save_file(state, path)
    path.write_bytes(path.read_bytes()[:-100])


def _changed(**changes):
    def write(path, state):
        save_file({**state, **changes}, path)

    return write


@pytest.mark.parametrize(
    ("name", "write", "said"),
    [
        ("a.safetensors", _truncated, "no whole safetensors file"),
        ("a.safetensors", lambda p, s: p.write_bytes(b""), "is an empty file"),
        ("a.safetensors", _changed(**{"2.bias": torch.full((10,), float("nan"))}), "'2.bias' holds NaN"),
        (
            "a.safetensors",
            _changed(**{"2.bias": torch.zeros(11)}),
            r"has shape \(11,\), the model needs \(10,\)",
        ),
        ("a.safetensors", _changed(**{"3.bias": torch.zeros(10)}), "unknown .'3.bias'"),
        ("a.safetensors", lambda p, s: save_file({"2.bias": s["2.bias"]}, p), "missing .'0.0.weight'"),
        ("a.pt", lambda p, s: torch.save({"w": Harmful()}, p), "fedspill never unpickles"),
        ("a.pt", lambda p, s: torch.save({"2.bias": 3}, p), "only named tensors"),
        ("a.pt", lambda p, s: torch.save([s["2.bias"]], p), "is a list of 1 arrays"),
        ("a.pt", lambda p, s: torch.save({}, p), "holds nothing"),
        ("a.pt", lambda p, s: p.write_bytes(b"no checkpoint"), "is a text file"),
        ("a.pt", lambda p, s: None, "does not exist"),
    ],
)
def test_bad_files(tmp_path, monkeypatch, state, name, write, said):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / name, state)
    with pytest.raises(BadInput, match=said) as caught:
        _lenet(weights=tmp_path / name)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "harmed").exists()


def test_failed_write_leaves_the_old_file(tmp_path, state):
    path = tmp_path / "net.safetensors"
    write_tensors(path, state)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        write_tensors(path, state, {"accuracy": 0.5})  # metadata must be text
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_failed_block_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "folder" / "note.txt"
    write_whole(path, "gr\u00fcn")

    def broken_off():
        with whole_file(path) as partial:
            partial.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken_off()
    assert path.read_bytes() == "gr\u00fcn".encode()
    assert [p.name for p in path.parent.iterdir()] == ["note.txt"]


def test_states_are_read_back(tmp_path):
    state = {"step": 3, "tensors": [torch.arange(3)], "words": {"a": "b"}}
    write_state(tmp_path / "state", state)
    read = torch.load(tmp_path / "state", weights_only=True)
    assert torch.equal(read["tensors"][0], state["tensors"][0])
    assert (read["step"], read["words"]) == (3, {"a": "b"})


def test_sha256(tmp_path, state):
    (tmp_path / "file").write_bytes(b"abc")
    assert sha256(tmp_path / "file") == sha256("abc") == sha256(b"a", "bc") == hashlib.sha256(b"abc").hexdigest()
    turned = dict(reversed(state.items()))
    assert sha256(state) == sha256(turned)
    assert sha256(state) != sha256({**state, "2.bias": state["2.bias"] + 1})
    assert sha256(torch.ones(2, dtype=torch.bfloat16)) == sha256(bytes([0x80, 0x3F] * 2))


def test_sha256_of_weights_keeps_the_value_that_reports_hold():
    values = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.array(7)}
    reference = hashlib.sha256(b"a" + values["a"].tobytes() + b"b" + values["b"].tobytes()).hexdigest()
    turned = {"b": torch.arange(6.0).reshape(3, 2).T.contiguous().T, "a": torch.tensor(7)}
    assert sha256({k: torch.from_numpy(v) for k, v in values.items()}) == reference
    assert sha256(turned) == reference


def test_weights_bring_their_normalisation(tmp_path, state):
    metadata = {"mean": "[0.1, 0.2, 0.3]", "std": "[0.5, 0.5, 0.5]"}
    write_tensors(tmp_path / "net.safetensors", state, metadata)
    own = {"weights": tmp_path / "net.safetensors", "mean": (0.9,), "std": (0.9,)}
    assert _lenet(**own).input.mean == (0.1, 0.2, 0.3)
    assert _lenet(**own, options={"normalise": False}).input.mean == (0.0,)
    write_tensors(tmp_path / "net.safetensors", state, {"mean": "ten", "std": "[1]"})
    with pytest.raises(BadInput, match="no JSON lists"):
        _lenet(**own)


def test_trained_weights_that_are_not_to_be_had(tmp_path, monkeypatch):
    monkeypatch.delenv("FEDSPILL_DATA", raising=False)
    with pytest.raises(BadInput, match="no trained weights are known for 'mlp'"):
        build("mlp", input_shape=CIFAR, num_classes=10, weights="trained")
    with pytest.raises(BadInput, match="FEDSPILL_DATA is not set"):
        build("resnet20", input_shape=CIFAR, num_classes=10, weights="trained")
    with pytest.raises(BadInput, match="has none"):
        build("resnet20", input_shape=CIFAR, num_classes=10, weights="trained", data_root=tmp_path)


SETS = {"lenet": {}, "convnet": {"width": 16}, "cnn": {}}


@pytest.mark.parametrize("name", SETS)
def test_shipped_weights(name):
    told = read_metadata(SHIPPED / f"cifar10_{name}.safetensors")
    assert json.loads(told["options"]) == SETS[name]
    model = build(
        name,
        input_shape=CIFAR,
        num_classes=10,
        weights="trained",
        options=SETS[name],
        mean=(0.5,),
        std=(1.0,),
    )
    assert model.input.mean == (0.49147, 0.48226, 0.44677)


def test_robust_weights_are_a_set_of_their_own():
    robust, natural = (
        build("cnn", input_shape=CIFAR, num_classes=10, weights=weights) for weights in ("robust", "trained")
    )
    assert robust.input == natural.input
    assert not torch.equal(robust.params["head.weight"], natural.params["head.weight"])
    with pytest.raises(BadInput, match="no robust weights are known for 'lenet'; there are cnn"):
        build("lenet", input_shape=CIFAR, num_classes=10, weights="robust")


def test_shipped_convnet_has_one_width():
    with pytest.raises(BadInput, match=r'trained weights of convnet .options .*"width": 16'):
        build("convnet", input_shape=CIFAR, num_classes=10, weights="trained")


@pytest.mark.skipif(not DATA, reason="FEDSPILL_DATA does not name a folder with CIFAR-10")
@pytest.mark.parametrize(
    ("name", "options", "accuracy"),
    [
        ("resnet20", {}, 0.917),
        ("resnet32", {}, 0.927),
        ("resnet44", {}, 0.933),
        ("resnet56", {}, 0.930),
        ("lenet", {}, None),
        ("convnet", {"width": 16}, None),
    ],
)
def test_trained_networks_reach_their_accuracy(name, options, accuracy):
    pool = load("cifar10", indices="0:1000")
    model = build(name, input_shape=CIFAR, num_classes=10, weights="trained", options=options)
    if accuracy is None:
        accuracy = float(read_metadata(SHIPPED / f"cifar10_{name}.safetensors")["test_accuracy"])
    with torch.no_grad():
        answers = model.logits(model.params, model.input.encode(pool.batch.inputs)).argmax(1)
    reached = float((answers == pool.batch.labels).float().mean())
    # 1000 of the 10,000 images: three standard errors
    assert abs(reached - accuracy) < 3 * (accuracy * (1 - accuracy) / 1000) ** 0.5


def test_training_goes_on_where_it_broke_off(cifar10, tmp_path, monkeypatch):
    def arguments(out, epochs=2):
        return ["lenet", "--data-root", str(cifar10), "--epochs", str(epochs), "--out", str(tmp_path / out)]

    assert main(arguments("whole.safetensors")) == 0
    broken = Path.replace

    def fail(self, target):
        moved = broken(self, target)
        if target.name.endswith(".partial"):
            raise KeyboardInterrupt
        return moved

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(KeyboardInterrupt):
        main(arguments("parts.safetensors"))
    monkeypatch.undo()
    assert main(arguments("parts.safetensors")) == 0
    whole, parts = (read_tensors(tmp_path / f"{name}.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(whole[k], parts[k]) for k in whole)
    told = read_metadata(tmp_path / "parts.safetensors")
    assert str(tmp_path) not in json.dumps(told)
    assert not list(tmp_path.glob("*.partial"))
    model = _lenet(weights=tmp_path / "parts.safetensors")
    assert model.input.std == (0.24703, 0.24349, 0.26159)


def test_training_refuses_bad_input(tmp_path, capsys):
    assert main(["lenet", "--data-root", str(tmp_path), "--out", str(tmp_path / "a.safetensors")]) == 2
    assert "no folder cifar-10-batches-py" in capsys.readouterr().err


def test_training_refuses_the_state_of_another_run(cifar10, tmp_path, capsys):
    (tmp_path / "a.safetensors.partial").write_bytes(b"half a file")
    arguments = ["lenet", "--data-root", str(cifar10), "--out", str(tmp_path / "a.safetensors")]
    assert main(arguments) == 2
    assert "is not the state of this run" in capsys.readouterr().err
    assert main([*arguments, "--limit", "20"]) == 2
    assert "20 training images were got" in capsys.readouterr().err


@pytest.fixture(scope="module")
def cifar10(tmp_path_factory):
    """A small data set in the official layout, written as Python 2's pickles were (protocol 2)."""
    import pickle  # noqa: TID251 - writes what CIFAR's makers wrote

    folder = tmp_path_factory.mktemp("data") / "cifar-10-batches-py"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]:
        content = {
            "data": rng.integers(0, 256, (60, 3072), dtype=np.uint8),
            "labels": rng.integers(0, 10, 60).tolist(),
        }
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}, protocol=2))
    return folder.parent


def test_a_plan_takes_weights_as_flower_and_other_tools_write_them(state, tmp_path):
    np.savez(tmp_path / "list.npz", *[v.numpy() for v in state.values()])
    np.savez(tmp_path / "named.npz", **{f"_module.{k}": v.numpy() for k, v in state.items()})
    torch.save({"net": {f"_orig_mod.{k}": v for k, v in state.items()}, "epoch": 3}, tmp_path / "nested.pt")
    for name in ("list.npz", "named.npz", "nested.pt"):
        model = _lenet(weights=tmp_path / name)
        assert all(torch.equal(model.params[k], v) for k, v in state.items()), name
    with pytest.raises(BadInput, match="does not exist"):
        _lenet(weights="a\0b.pt")

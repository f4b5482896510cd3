"""What `import fedspill` offers: its names, their examples, and that it costs nothing until it is used."""

import doctest
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import fedspill
from fedspill.cli import listing
from fedspill.testing.worlds import SPEC, batch, mlp, relu_mlp

NAMES = [
    "AuditPlan",
    "AuditReport",
    "AuditResult",
    "BadInput",
    "Batch",
    "FedAvg",
    "FedSGD",
    "Finding",
    "ImageSpec",
    "Knows",
    "Model",
    "NotApplicable",
    "Reconstruction",
    "ServerKnowledge",
    "TableSpec",
    "TokenSpec",
    "Update",
    "UpdateKind",
    "attack",
    "attacks",
    "audit",
    "checks",
    "defences",
    "tamperings",
    "vet",
]
HEAVY = ("torch", "scipy", "torchmetrics", "numpy", "pydantic", "matplotlib")
PLAN = {"audit": {"attacks": ["linear_layer"]}, "client": {"num_examples": 1}}
STATISTICS = (SPEC.mean, SPEC.std)


def home(name: str) -> object:
    """The object of a public name; folders of components that are called stand for their function."""
    from fedspill import catalogue

    return getattr(catalogue, name) if name in ("attacks", "tamperings", "defences") else getattr(fedspill, name)


def test_the_names_are_these() -> None:
    assert sorted(fedspill.__all__) == NAMES
    assert set(NAMES) <= set(dir(fedspill))
    with pytest.raises(AttributeError, match="nonsense"):
        fedspill.nonsense  # noqa: B018


@pytest.mark.parametrize("name", NAMES)
def test_every_name_has_an_example_that_runs(name: str) -> None:
    subject = home(name)
    tests = [t for t in doctest.DocTestFinder(recurse=False).find(subject, name, globs={}) if t.examples]
    assert len(tests) == 1, f"{name} has no example"
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    with torch.random.fork_rng():
        result = doctest.DocTestRunner(optionflags=flags).run(tests[0])
    assert result.failed == 0


def test_folders_of_components_are_functions_whatever_was_imported_first() -> None:
    code = "import fedspill.attacks.dlg as d, fedspill; print(d.CARD in fedspill.attacks().values(), d.CARD.title)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out == "True Deep Leakage from Gradients\n"


@pytest.mark.parametrize(
    "words",
    [
        ["-c", "import fedspill; dir(fedspill)"],
        *(
            ["-m", "fedspill", *words.split()]
            for words in ("--help", "--version", "audit --help", "attack --help", "train --help")
        ),
        *(["-m", "fedspill", "list", what] for what in listing.SOURCES),
    ],
    ids=" ".join,
)
def test_what_only_tells_imports_nothing_heavy(words: Sequence[str]) -> None:
    done = subprocess.run([sys.executable, "-X", "importtime", *words], capture_output=True, text=True, check=True)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "fedspill" in imported
    assert not imported & set(HEAVY)


def test_the_listing_is_true_and_follows_the_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert listing.FILE.read_text(encoding="utf-8") == listing.written()
    for what in listing.SOURCES:
        assert listing.rows(what) == listing.made(what)
    stale = json.loads(listing.FILE.read_text(encoding="utf-8"))
    stale["attacks"] |= {"sources": "another digest", "rows": []}
    (tmp_path / "listing.json").write_text(json.dumps(stale), encoding="utf-8")
    monkeypatch.setattr(listing, "FILE", tmp_path / "listing.json")
    assert listing.rows("attacks") == listing.made("attacks")
    monkeypatch.setattr(listing, "FILE", tmp_path / "none.json")
    assert listing.rows("defences") == listing.made("defences")


def test_bare_networks_with_data_of_every_kind_give_what_a_model_gives() -> None:
    model, private = relu_mlp(), batch(2)
    net = model.module
    net.load_state_dict(dict(model.params))
    wanted = fedspill.audit(PLAN, model=model, data=(private.inputs, private.labels))
    dataset = TensorDataset(private.inputs, private.labels)
    for data in (
        (private.inputs, private.labels),
        (private.inputs.numpy(), private.labels.numpy()),
        dataset,
        DataLoader(dataset, batch_size=2, shuffle=True),
    ):
        got = fedspill.audit(PLAN, model=net, data=data, normalise=STATISTICS)
        for mine, other in zip(got.report.trials, wanted.report.trials, strict=True):
            assert mine.gradient_norm == other.gradient_norm
            assert mine.scores == other.scores
    assert wanted.report.verdict.exit_code == 1


def test_the_loss_is_the_one_that_was_given() -> None:
    smooth = nn.CrossEntropyLoss(label_smoothing=0.3)
    private, model = batch(1), relu_mlp()
    result = fedspill.audit(PLAN, model=model, data=(private.inputs, private.labels), loss=smooth)
    params = {k: v.clone().requires_grad_() for k, v in model.params.items()}
    loss = smooth(torch.func.functional_call(model.module, params, SPEC.encode(private.inputs)), private.labels)
    plain = torch.autograd.grad(loss, list(params.values()))
    norm = float(torch.cat([g.flatten() for g in plain]).norm())
    assert result.report.trials[0].gradient_norm == pytest.approx(norm, rel=1e-6)


def test_what_a_bare_network_cannot_tell_is_asked_for_by_name() -> None:
    private, net = batch(1), relu_mlp().module
    pair = (private.inputs, private.labels)
    with pytest.raises(fedspill.BadInput, match="needs `data`"):
        fedspill.audit(PLAN, model=net)
    with pytest.raises(fedspill.BadInput, match=r"needs normalise=\(mean, std\)"):
        fedspill.audit(PLAN, model=net, data=pair)
    with pytest.raises(fedspill.BadInput, match="positive std, one or for each of 3 channels"):
        fedspill.audit(PLAN, model=net, data=pair, normalise=((0.5, 0.5), (0.2, 0.2)))
    with pytest.raises(fedspill.BadInput, match=r"needs shape=\(channels, height, width\)"):
        fedspill.attack({}, net, normalise=None)
    with pytest.raises(fedspill.BadInput, match="a pair"):
        fedspill.audit(PLAN, model=net, data=3, normalise=None)
    with pytest.raises(fedspill.BadInput, match="3 things; a pair"):
        fedspill.audit(PLAN, model=net, data=(1, 2, 3), normalise=None)
    with pytest.raises(fedspill.BadInput, match="which was not given"):
        fedspill.audit(PLAN, data=pair, normalise=None)
    with pytest.raises(fedspill.BadInput, match="more than 0 seconds"):
        fedspill.audit(PLAN, data=pair, budget=0)


def test_an_audit_is_written_with_its_page_and_goes_on_where_it_was(tmp_path: Path) -> None:
    private = batch(1)
    pair = (private.inputs, private.labels)
    (tmp_path / "plan.toml").write_text('audit.attacks = ["linear_layer"]\nclient.num_examples = 1\n')
    for _ in range(2):
        result = fedspill.audit(tmp_path / "plan.toml", model=mlp(), data=pair, out=str(tmp_path / "out"), budget="1m")
        assert result.report.verdict.name.value == "leaks"
    assert (tmp_path / "out" / "report.html").is_file()
    assert result.report.plan["audit"]["budget"] == 60.0


@pytest.mark.parametrize("kind", ["gradient", "delta", "weights"])
def test_a_captured_update_from_memory_and_from_a_file(kind: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    private, model = batch(1), relu_mlp()
    protocol = fedspill.FedSGD() if kind == "gradient" else fedspill.FedAvg(epochs=1, lr=0.1)
    from fedspill.core.local_training.update import local_update

    update = local_update(model, private, protocol)
    sent = {k: v.contiguous() for k, v in update.values.items()}
    if kind == "weights":
        sent = {k: model.params[k] - v for k, v in sent.items()}
    save_file(sent, tmp_path / "update.safetensors")
    given = {"num_examples": 1, "kind": kind, "attack": "linear_layer", "local_training": protocol}
    once = fedspill.attack(sent, model, **given)
    again = fedspill.attack(tmp_path / "update.safetensors", model, out=tmp_path / "out", **given)
    assert torch.equal(once.inputs, again.inputs)
    assert float((once.inputs - private.inputs).abs().max()) < 1e-3
    assert json.loads((tmp_path / "out" / "attack.json").read_text())["granted"]
    if kind == "delta":
        direct = fedspill.attack(update, model, num_examples=1, attack="linear_layer", local_training=protocol)
        assert torch.equal(direct.inputs, once.inputs)


def test_vet_names_the_layer_and_refuses_unknown_checks() -> None:
    assert fedspill.vet(relu_mlp()) == []
    with torch.random.fork_rng():
        planted = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4, 2))
    planted[0].weight.data.zero_()[:, :, 1, 1] = 1.0
    assert [f.where for f in fedspill.vet(planted)] == ["0.weight"]
    with pytest.raises(fedspill.BadInput, match="unknown check 'entropy'"):
        fedspill.vet(planted, checks=("entropy",))


def test_arrays_of_numpy_are_not_changed() -> None:
    images = np.zeros((1, 3, 8, 8), dtype=np.float32)
    fedspill.audit(PLAN, model=mlp(), data=(images, np.array([1])))
    assert not images.any()

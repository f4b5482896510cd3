"""What `import fedspill` offers: its names, their examples, and that it costs nothing until it is used."""

import copy
import dataclasses
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
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import fedspill
from fedspill.cli import listing
from fedspill.testing.worlds import SPEC, batch, mlp, relu_mlp
from fedspill.zoo.statistics import NAMED

NAMES = [
    "Adagrad",
    "Adam",
    "AdamW",
    "AuditPlan",
    "AuditReport",
    "AuditResult",
    "Augmentation",
    "BadInput",
    "Batch",
    "BinaryCrossEntropy",
    "Conditions",
    "CrossEntropy",
    "FedAvg",
    "FedSGD",
    "Finding",
    "Focal",
    "Guard",
    "ImageSpec",
    "Knows",
    "MeanSquaredError",
    "Mixture",
    "Model",
    "NotApplicable",
    "RMSprop",
    "Reconstruction",
    "SGD",
    "Schedule",
    "ServerKnowledge",
    "TableSpec",
    "TokenSpec",
    "Update",
    "UpdateKind",
    "advise",
    "attack",
    "attacks",
    "audit",
    "checks",
    "defences",
    "filters",
    "rank_analysis",
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
            for words in (
                "--help",
                "--version",
                "audit --help",
                "attack --help",
                "rank --help",
                "bounds --help",
                "train --help",
            )
        ),
        *(["-m", "fedspill", "list", what] for what in listing.SOURCES),
        *(["-m", "fedspill", "list", *words.split()] for words in ("attacks robbing_the_fed", "checks weight_entropy")),
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
    stale = json.loads(listing.FILE.read_text(encoding="utf-8"))
    stale["attacks"] |= {"sources": "another digest", "cards": {}}
    stale["data"] |= {"sources": "another digest", "rows": []}
    (tmp_path / "listing.json").write_text(json.dumps(stale), encoding="utf-8")
    for file in (listing.FILE, tmp_path / "listing.json", tmp_path / "none.json"):
        monkeypatch.setattr(listing, "FILE", file)
        assert listing.rows("data") == listing.made_rows("data")
        for what in listing.FOLDERS:
            assert told(listing.cards(what)) == told(listing.made_cards(what))


def told(cards: dict[str, listing.Facts]) -> object:
    """Cards as they stand in the file, where a tuple is a list."""
    return json.loads(json.dumps({name: vars(facts) for name, facts in cards.items()}))


def test_the_listing_holds_the_fields_of_every_preset_and_follows_their_files() -> None:
    from fedspill import catalogue
    from fedspill.core.settings import flat_fields

    for what in listing.FOLDERS:
        for name, card in getattr(catalogue, what)().items():
            facts = listing.cards(what)[name]
            assert {k: list(v) for k, v in facts.presets.items()} == {
                k: list(flat_fields(v)) for k, v in card.presets.items()
            }
            assert facts.needs == sorted(k.value for k in card.needs)
    files = listing.settings_of(catalogue.attacks().values())
    assert {"attacks/inverting_gradients.py", "core/settings.py"} <= set(files)
    from fedspill.attacks.inverting_gradients import InvertingGradients

    nested = [type(getattr(InvertingGradients(), f.name)).__module__ for f in dataclasses.fields(InvertingGradients)]
    homes = {f"{m.removeprefix('fedspill.').replace('.', '/')}.py" for m in nested if m.startswith("fedspill.")}
    assert homes
    assert homes <= set(files)
    assert listing.digest("attacks", files) != listing.digest("attacks", set(files) - homes)


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


@pytest.mark.parametrize(("word", "mean", "std"), [(w, s.mean, s.std) for w, (_, s) in NAMED.items()])
def test_a_word_states_a_normalisation_in_python_as_in_a_plan(word: str, mean: Sequence[float], std) -> None:
    private, net = batch(1), relu_mlp().module
    pair = (private.inputs, private.labels)
    result = fedspill.audit(PLAN, model=net, data=pair, normalise=word)
    assert (result.report.feeding.mean, result.report.feeding.std) == (list(mean), list(std))
    shift, scale = (torch.tensor(v).view(3, 1, 1) for v in (mean, std))
    loss = functional.cross_entropy(net((private.inputs - shift) / scale), private.labels)
    plain = torch.autograd.grad(loss, list(net.parameters()))
    norm = float(torch.cat([g.flatten() for g in plain]).norm())
    assert result.report.trials[0].gradient_norm == pytest.approx(norm, rel=1e-5)
    captured = dict(zip([k for k, _ in net.named_parameters()], plain, strict=True))
    given = {"num_examples": 1, "attack": "linear_layer", "shape": (3, 8, 8)}
    rebuilt = fedspill.attack(captured, net, normalise=word, **given)
    torch.testing.assert_close(rebuilt.inputs, private.inputs, atol=1e-4, rtol=0)


def test_a_word_is_of_pixels_as_they_are_and_false_states_none() -> None:
    private, net = batch(1), relu_mlp().module
    given = {"model": net, "data": (private.inputs, private.labels)}
    with pytest.raises(fedspill.BadInput, match="leave range out"):
        fedspill.audit(PLAN, normalise="imagenet", range=(0, 255), **given)
    bare = fedspill.audit(PLAN, normalise=False, **given).report.feeding
    assert bare == fedspill.audit(PLAN, normalise=None, **given).report.feeding


def test_what_a_bare_network_cannot_tell_is_asked_for_by_name() -> None:
    private, net = batch(1), relu_mlp().module
    pair = (private.inputs, private.labels)
    with pytest.raises(fedspill.BadInput, match="needs `data`"):
        fedspill.audit(PLAN, model=net)
    with pytest.raises(fedspill.BadInput, match=r"needs normalise=\(mean, std\)"):
        fedspill.audit(PLAN, model=net, data=pair)
    with pytest.raises(fedspill.BadInput, match=r'normalise="data" for the data.s statistics'):
        fedspill.audit(PLAN, model=net, data=pair)
    with pytest.raises(fedspill.BadInput, match="not measured on private images"):
        fedspill.audit(PLAN, model=net, data=pair, normalise="data")
    with pytest.raises(fedspill.BadInput, match="leave range out"):
        fedspill.audit(PLAN, model=net, data=pair, normalise="data", range=(0, 255))
    with pytest.raises(fedspill.BadInput, match="a fedspill.Model brings its own input"):
        fedspill.audit(PLAN, model=relu_mlp(), data=pair, normalise=((0.5,), (0.5,)))
    with pytest.raises(fedspill.BadInput, match="measured on public_data, which was not given"):
        fedspill.attack({}, net, shape=(3, 8, 8), normalise="data")
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


WAYS = [
    ({"normalise": ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))}, (0.0, 1.0), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)),
    ({"normalise": (0.5, 0.25)}, (0.0, 1.0), (0.5,) * 3, (0.25,) * 3),
    ({"normalise": (np.array([0.1, 0.2, 0.3]), torch.ones(3))}, (0.0, 1.0), (0.1, 0.2, 0.3), (1.0,) * 3),
    ({"normalise": (123.0, 58.0), "range": (0, 255)}, (0.0, 255.0), (123.0,) * 3, (58.0,) * 3),
    ({"normalise": ([0.1, 0.2, 0.3], 2)}, (0.0, 1.0), (0.1, 0.2, 0.3), (2.0,) * 3),
    ({"range": (-1, 1)}, (-1.0, 1.0), (0.0,) * 3, (1.0,) * 3),
    ({"normalise": None}, (0.0, 1.0), (0.0,) * 3, (1.0,) * 3),
]


def _plain_norm(net: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """The gradient norm of a plain training loop, in float64."""
    twin = copy.deepcopy(net).double()
    nn.functional.cross_entropy(twin(images), labels).backward()
    return float(torch.cat([p.grad.flatten() for p in twin.parameters() if p.grad is not None]).norm())


@pytest.mark.parametrize(("said", "ends", "mean", "std"), WAYS)
def test_a_bare_network_is_fed_as_a_plain_loop_feeds_it(said, ends, mean, std) -> None:
    private, net = batch(4), relu_mlp().module
    pixels = ends[0] + (ends[1] - ends[0]) * private.inputs.double()
    fed = (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    plan = {"audit": {"attacks": ["linear_layer"]}, "client": {"num_examples": 4}, "model": {"dtype": "float64"}}
    report = fedspill.audit(plan, model=net, data=(private.inputs, private.labels), **said).report
    assert report.trials[0].gradient_norm == pytest.approx(_plain_norm(net, fed, private.labels), rel=1e-6)
    assert report.feeding.n == 4
    with torch.no_grad():
        logits = copy.deepcopy(net).double()(fed)
    assert report.feeding.loss == pytest.approx(float(nn.functional.cross_entropy(logits, private.labels)), rel=1e-6)
    assert report.feeding.accuracy == float((logits.argmax(1) == private.labels).double().mean())
    assert report.feeding.origin == "as the caller says"


def test_the_datas_statistics_come_with_the_data_or_from_public_images() -> None:
    from fedspill.zoo.data import from_tensors, load
    from fedspill.zoo.measured_statistics import measured

    private, net = batch(1), relu_mlp().module
    pool = from_tensors(private.inputs, private.labels, mean=(0.3,), std=(0.2,))
    told = fedspill.audit(PLAN, model=net, data=pool, normalise="data").report.feeding
    assert (told.mean, told.std, told.origin) == ([0.3], [0.2], "constants of tensors")
    public = {"public": {"name": "photos", "split": "public", "indices": "0:5"}}
    plan = {**PLAN, "server": public}
    told = fedspill.audit(plan, model=net, data=(private.inputs, private.labels), normalise="data")
    wanted = measured(load("photos", split="public", indices="0:5", size=8).batch.inputs)
    assert (tuple(told.report.feeding.mean), tuple(told.report.feeding.std)) == (wanted.mean, wanted.std)
    assert told.report.feeding.origin == "measured on 5 public images of photos/public"


def test_a_protocol_in_python_is_the_plans() -> None:
    private, model = batch(2), relu_mlp()
    data, training = (private.inputs, private.labels), fedspill.FedAvg(epochs=2, minibatch_size=1, lr=0.1)
    attacks = {"audit": {"attacks": ["linear_layer"]}}
    client = {"protocol": "fedavg", "epochs": 2, "minibatch_size": 1, "lr": 0.1, "num_examples": 2}
    wanted = fedspill.audit({**attacks, "client": client}, model=model, data=data).report
    plan = {**attacks, "client": {"num_examples": 2}}
    got = fedspill.audit(plan, model=model, data=data, local_training=training).report
    assert got.trials[0].gradient_norm == wanted.trials[0].gradient_norm
    assert got.plan["client"] == wanted.plan["client"]
    with pytest.raises(fedspill.BadInput, match=r"the plan sets client.epochs, client.lr.*set one of them"):
        fedspill.audit({**attacks, "client": client}, model=model, data=data, local_training=training)


OWN = """
import torch
def smooth(logits, labels):
    return torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.3)
def data():
    return torch.full((1, 3, 8, 8), 0.25), torch.tensor([3])
def broken():
    raise OSError("no disk")
number = 3
"""


def test_losses_and_data_of_ones_own_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fedspill_users_own_parts.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    own, model = "fedspill_users_own_parts", relu_mlp()
    got = fedspill.audit(PLAN, model=model, data=f"{own}:data", loss=f"{own}:smooth").report
    pair, smooth = (torch.full((1, 3, 8, 8), 0.25), torch.tensor([3])), nn.CrossEntropyLoss(label_smoothing=0.3)
    wanted = fedspill.audit(PLAN, model=model, data=pair, loss=smooth).report
    assert got.trials[0].gradient_norm == wanted.trials[0].gradient_norm
    for given, said in (
        ({"data": f"{own}:broken"}, "the call failed with OSError: no disk"),
        ({"data": f"{own}:none"}, "has no attribute 'none'"),
        ({"data": "photos"}, "`package.module:name` is needed"),
        ({"data": pair, "loss": f"{own}:number"}, "is a int; a function of logits and labels"),
    ):
        with pytest.raises(fedspill.BadInput, match=said):
            fedspill.audit(PLAN, model=model, **given)
    sys.modules.pop(own, None)


def test_the_page_is_written_by_one_call(tmp_path: Path) -> None:
    private = batch(1)
    result = fedspill.audit(PLAN, model=mlp(), data=(private.inputs, private.labels))
    assert result.html(str(tmp_path / "deep" / "page.html")) == tmp_path / "deep" / "page.html"
    assert result.html(tmp_path) == tmp_path / "report.html"
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page == (tmp_path / "deep" / "page.html").read_text(encoding="utf-8")
    assert "data:image/png;base64" in page
    hidden = fedspill.audit(PLAN, model=mlp(), data=(private.inputs, private.labels), redact=True)
    assert "data:image/png;base64" not in hidden.html(tmp_path).read_text(encoding="utf-8")


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
    assert {f.where for f in fedspill.vet(planted)} == {"0.weight"}
    with pytest.raises(fedspill.BadInput, match="unknown check 'entropy'"):
        fedspill.vet(planted, checks=("entropy",))


def test_arrays_of_numpy_are_not_changed() -> None:
    images = np.zeros((1, 3, 8, 8), dtype=np.float32)
    fedspill.audit(PLAN, model=mlp(), data=(images, np.array([1])))
    assert not images.any()

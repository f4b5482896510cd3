"""What is refused before PyTorch is imported: in the words that come later, and nothing that would be taken."""

import subprocess
import sys
from pathlib import Path

import pytest

from fedspill.auditing.resolving.components import components_of
from fedspill.cli import early, listing
from fedspill.core.errors import BadInput
from fedspill.plan.file import read_plan
from tests.support.places import PLANS

LATER = [
    ('[audt]\nattacks = ["dlg"]\n', ["plan key 'audt' is unknown; allowed here: audit, "]),
    ("[audit]\natacks = []\n", ["plan key 'audit.atacks' is unknown; allowed here: attacks, "]),
    ("[client]\nnum = 1\n", ["plan key 'client.num' is unknown; "]),
    ('[server]\npublic = { name = "photos", splits = "public" }\n', ["plan key 'server.public.splits' is unknown; "]),
    ("[policy]\nmax = 1\n", ["plan key 'policy.max' is unknown; "]),
    ("[federation]\nround = 1\nclients = 2\n", ["plan key 'federation.round' is unknown; "]),
    ("audit.seeds = [99999999999999999999]\n", ["64 bits"]),
    ('audit.attacks = ["dgl"]\n', ["unknown attack 'dgl'; there are ", ", dlg, ", "robbing_the_fed"]),
    ('audit.attacks = ["dlg:fast"]\n', ["attack 'dlg' has no preset 'fast'; it has paper, "]),
    ('audit.attacks = [{ name = "dlg", preset = "fast" }]\n', ["attack 'dlg' has no preset 'fast'"]),
    ('audit.attacks = ["robbing_the_fed:fast"]\n', ["attack 'robbing_the_fed' has no preset 'fast'"]),
    ('server.tampering = "maui_"\n', ["unknown tampering 'maui_'; there are "]),
    ('[[defences]]\nname = "noise"\n', ["unknown defence 'noise'; there are clipping, ", "gradient_noise, "]),
]


def write(folder: Path, text: str) -> Path:
    (folder / "plan.toml").write_text(text)
    return folder / "plan.toml"


@pytest.mark.parametrize(("text", "words"), LATER, ids=[text.splitlines()[-1][:30] for text, _ in LATER])
def test_refusals_at_once_are_those_that_come_later(tmp_path: Path, text: str, words: list[str]) -> None:
    plan = write(tmp_path, text)
    with pytest.raises(BadInput) as at_once:
        early.plan_table(plan)
    with pytest.raises(BadInput) as later:
        components_of(read_plan(plan))
    assert all(word in str(at_once.value) for word in words)
    assert str(later.value).startswith(str(at_once.value))


@pytest.mark.parametrize(
    "plan", [p for p in sorted(PLANS.rglob("*.toml")) if p.parent.name not in ("train", "sweep")], ids=str
)
def test_no_plan_that_is_taken_is_refused(plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(early, "check_file", lambda path: None)  # the files that plans name are no part of this tree
    assert early.plan_table(plan)


def test_what_only_a_later_look_can_tell_is_let_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for text in (
        'audit.attacks = ["standard:quick", { name = "dlg", steps = 3 }]\nmodel.width = 3\n',
        'audit.attacks = ["label_flip"]\n',
        'client = { protocol = "fedavg", optimizer = "sdg" }\n',
    ):
        assert early.plan_table(write(tmp_path, text)) is not None
    monkeypatch.setattr(listing, "FILE", tmp_path / "none.json")
    with pytest.raises(BadInput, match="plan key 'audt' is unknown"):  # by the schema, where there is no listing
        early.plan_table(write(tmp_path, "[audt]\n"))


@pytest.mark.parametrize(
    "text",
    [
        "audit = 3\n",
        "audit.attacks = 3\n",
        "[[audit.attacks]]\npreset = 3\n",
        "defences = { name = 3 }\n",
        "client.num_examples = 0\n",
        'model.normalise = "imagnet"\n',
    ],
)
def test_values_that_no_key_takes_are_told_early_in_the_words_of_later(tmp_path: Path, text: str) -> None:
    with pytest.raises(BadInput) as early_on:
        early.plan_table(write(tmp_path, text))
    with pytest.raises(BadInput) as later:
        read_plan(write(tmp_path, text))
    assert str(early_on.value) == str(later.value)


def test_a_wrong_value_needs_no_pytorch(tmp_path: Path) -> None:
    code = "import sys; from fedspill.cli.early import plan_table; from pathlib import Path\n"
    code += "try: plan_table(Path(sys.argv[1]))\nexcept Exception as e: print(type(e).__name__, 'torch' in sys.modules)"
    plan = write(tmp_path, "client.num_examples = 0\n")
    told = subprocess.run([sys.executable, "-c", code, str(plan)], capture_output=True, text=True, check=True).stdout
    assert told.split() == ["BadInput", "False"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("audit nosuch.toml", "plan file 'nosuch.toml' does not exist"),
        ("audit broken.toml", "is not valid TOML"),
        ("audit plan.toml --set budget=5m", "write SECTION.KEY=VALUE"),
        ("audit plan.toml --set audit.atacks=1", "plan key 'audit.atacks' is unknown"),
        ("audit plan.toml --set model.weights=none.pt", "file 'none.pt' does not exist"),
        ("audit plan.toml --device gpu", "--device 'gpu' is unknown"),
        ("audit plan.toml --summary x.txt", "a file that ends in .md"),
        ("audit typo.toml", "unknown attack 'dgl'"),
        ("report nosuch", "holds no report.json"),
        ("vet --model cnn --weights nosuch", "file 'nosuch' does not exist"),
        ("attack --model lenet --weights nosuch --update nosuch --kind delta", "file 'nosuch' does not exist"),
        ("train robust nosuch.toml --out x.safetensors", "plan file 'nosuch.toml' does not exist"),
        ("list attacks dgl", "unknown attack 'dgl'"),
    ],
)
def test_refusals_import_nothing_heavy(tmp_path: Path, words: str, said: str) -> None:
    write(tmp_path, 'audit.attacks = ["dlg"]\n')
    (tmp_path / "typo.toml").write_text('audit.attacks = ["dgl"]\n')
    (tmp_path / "broken.toml").write_text("audit = [\n")
    command = [sys.executable, "-X", "importtime", "-m", "fedspill", *words.split()]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time")}
    assert "fedspill" in imported
    assert not imported & {"torch", "numpy", "scipy", "pydantic", "matplotlib"}
    assert said in done.stderr

"""Whatever a plan or a file holds: a result or one line, nothing half-written, no traceback, no abort.

The suite tries 300 inputs, always the same ones; `make fuzz` tries 10,000 new ones.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st

from fedspill.core.errors import BadInput
from fedspill.zoo.data import load
from tests.fuzz.files import (
    DATA,
    TOKENIZER,
    broken,
    broken_csv,
    broken_json,
    broken_npz,
    broken_tensors,
    model_files,
    saved,
)
from tests.fuzz.plans import SMALL, plans, toml
from tests.fuzz.running import TooLong, check, limited, new_folder

TOTAL = int(os.environ.get("FEDSPILL_FUZZ", "300"))
# Of an alarm that came while the collector ran a callback; see `limited`.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def tries(share: float):
    """So many of all inputs; the suite's are always the same ones."""
    return settings(
        max_examples=max(1, round(share * TOTAL)),
        derandomize=TOTAL <= 300,
        database=None,
        deadline=None,
        print_blob=True,
        phases=[Phase.explicit, Phase.generate, *([Phase.shrink] if TOTAL <= 300 else [])],
        suppress_health_check=list(HealthCheck),
    )


@tries(0.3)
@given(plan=plans)
def test_plans(plan: str) -> None:
    with new_folder():
        Path("plan.toml").write_text(plan, encoding="utf-8")
        event(check("audit", "plan.toml", "--out", "out", "--budget", "0.3s", "--device", "cpu"))


@tries(0.08)
@given(content=broken(toml(SMALL).encode()), setting=st.text(max_size=30) | plans)
def test_plans_of_odd_text(content: bytes, setting: str) -> None:
    with new_folder():
        Path("plan.toml").write_bytes(content)
        words = ["--set", setting] if "\0" not in setting else []
        event(check("audit", "plan.toml", "--out", "out", "--budget", "0.3s", *words))


def read(kind: str, content: bytes) -> str:
    """Reads data of a kind as a plan would, and shows them."""
    with new_folder(), limited():
        file = Path("data") / f"a{DATA[kind].suffix}"
        file.parent.mkdir()
        file.write_bytes(content)
        name = f"{DATA[kind].data}:{file.parent if DATA[kind].data == 'folder' else file}"
        more: dict[str, Any] = {}
        if DATA[kind].data == "tokenizer":
            name, more = "sentences", {"tokenizer": str(file)}
        try:
            pool = load(name, **more)
            assert pool.batch.inputs.numel()
            if pool.spec is None:
                assert 0 <= float(pool.batch.inputs.min()) <= float(pool.batch.inputs.max()) <= 1
            else:
                assert pool.spec.encode(pool.batch.inputs[:8]).isfinite().all()
            if pool.show is not None:
                pool.show(pool.batch.inputs[:8])
        except TooLong:
            return "heavy"
        except BadInput as error:
            assert len(str(error).splitlines()) == 1, str(error)
            return "refused"
        return "read"


OTHERS = tuple(kind.whole for kind in DATA.values())


@tries(0.25)
@given(st.data(), st.sampled_from([kind for kind in DATA if kind != "tokenizer"]))
def test_data_of_broken_bytes(data: st.DataObject, kind: str) -> None:
    event(f"{kind} {read(kind, data.draw(broken(DATA[kind].whole, OTHERS)))}")


@tries(0.08)
@given(content=broken_csv())
def test_tables_of_odd_cells(content: bytes) -> None:
    event(read("csv", content))


@tries(0.08)
@given(content=broken_npz())
def test_archives_of_odd_arrays(content: bytes) -> None:
    event(read("npz", content))


@tries(0.03)
@given(content=broken_json(TOKENIZER) | broken(DATA["tokenizer"].whole, OTHERS))
def test_tokenizers(content: bytes) -> None:
    pytest.importorskip("tokenizers")
    event(read("tokenizer", content))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a small audit."""
    with new_folder() as here:
        Path("plan.toml").write_text(toml(SMALL))
        check("audit", "plan.toml", "--out", "out")
        return {str(p.relative_to(here)): p.read_bytes() for p in here.rglob("*") if p.is_file()}


def spread(files: dict[str, bytes]) -> None:
    """Writes files into the current folder."""
    for name, content in files.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(content)


@tries(0.08)
@given(st.data())
def test_folders_of_an_audit(finished: dict[str, bytes], data: st.DataObject) -> None:
    names = [name for name in finished if Path(name).suffix in (".json", ".safetensors")]
    often = ["out/report.json", "out/reconstructions.safetensors"] * 2
    name = data.draw(st.sampled_from([*names, *often]))
    whole = finished[name]
    if name.endswith(".json") and data.draw(st.booleans()):
        content = data.draw(broken_json(json.loads(whole)))
    elif name.endswith(".safetensors") and data.draw(st.booleans()):
        content = data.draw(broken_tensors(safetensors.torch.load(whole)))
    else:
        content = data.draw(broken(whole, OTHERS))
    with new_folder():
        spread(finished | {name: content})
        words = data.draw(
            st.sampled_from([("report", "out"), ("report", "out", "--redact"), ("audit", "plan.toml", "--out", "out")])
        )
        event(f"{Path(name).name} {words[0]} {check(*words)}")


WEIGHTS, UPDATE = model_files()


@tries(0.1)
@given(st.data(), st.sampled_from([".safetensors", ".pt"]), st.sampled_from(["weights", "update", "vet"]))
def test_weights_and_updates(data: st.DataObject, suffix: str, which: str) -> None:
    tensors = UPDATE if which == "update" else WEIGHTS
    whole = safetensors.torch.save(tensors) if suffix == ".safetensors" else saved(tensors)
    content = data.draw(broken(whole, OTHERS) | broken_tensors(tensors))
    model = ["--model", "tests.fuzz.network:make", "--shape", "3x4x4", "--weights"]
    with new_folder():
        Path("a.safetensors").write_bytes(safetensors.torch.save(UPDATE if which == "weights" else WEIGHTS))
        Path(f"b{suffix}").write_bytes(content)
        if which == "vet":
            event(f"{which} {check('vet', *model, f'b{suffix}')}")
            return
        files = ["a.safetensors", f"b{suffix}"] if which == "update" else [f"b{suffix}", "a.safetensors"]
        words = ("--kind", data.draw(st.sampled_from(["gradient", "delta", "weights"])), "--attack", "linear_layer")
        event(f"{which} {check('attack', *model, files[0], '--update', files[1], *words, '--out', 'out')}")

"""Where trials are run: processes that die take no other trial along, and memory bounds how many there are."""

import json
import os
import signal
import time
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from fedspill.core.errors import BadInput
from fedspill.report.sweep import Outcome
from fedspill.sweeping.engines import local, on_ray
from fedspill.sweeping.engines.engine import Ended, Lost
from fedspill.sweeping.engines.local import Local
from fedspill.sweeping.engines.on_ray import OnRay
from fedspill.sweeping.running import peak_memory
from tests.support.sweeps import TABLE

PLAIN = {k: v for k, v in TABLE.items() if k != "sweep"}


def deadly() -> nn.Module:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def results_of(engine: Any, count: int) -> list[Ended]:
    ended = list[Ended]()
    until = time.monotonic() + 120
    while len(ended) < count and time.monotonic() < until:
        ended += engine.ended(1.0)
    return ended


def test_a_process_that_is_killed_is_told_and_the_next_trial_is_run() -> None:
    engine = Local("cpu", workers=1)
    try:
        engine.start("bad", json.dumps({**PLAIN, "model": {"name": "tests.sweeping.test_engines:deadly"}}))
        assert not engine.has_room()
        (ended,) = results_of(engine, 1)
        assert ended.digest == "bad"
        assert isinstance(ended.result, Lost)
        assert engine.has_room()
        engine.start("good", json.dumps(PLAIN))
        (ended,) = results_of(engine, 1)
        assert ended.digest == "good"
        assert isinstance(ended.result, Outcome)
        assert ended.result.verdict == "leaks"
        assert (ended.result.peak or 0) > 10**8
        assert engine.running == 0
        processes = [p for slot in engine._idle for p in slot._processes.values()]
    finally:
        engine.close()
    for process in processes:
        process.join(30)
        assert not process.is_alive()


def test_as_many_processes_as_the_memory_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "free_bytes", lambda device: 10 * 10**9)
    engine = Local("cpu", workers=8, memory=3 * 10**9)
    rooms = list[bool]()
    for k in range(4):
        rooms.append(engine.has_room())
        engine._busy[f"future {k}"] = ("digest", None)  # type: ignore[index]
    assert rooms == [True, True, True, False]
    engine._busy.clear()
    engine._hungriest = 10**12  # more than there is: one at a time, which may fail, but not for want of trying
    assert engine.has_room()
    few = Local("cpu", workers=2, memory=1)
    few._busy.update({"a": ("a", None), "b": ("b", None)})  # type: ignore[dict-item]
    assert not few.has_room()


def test_the_peak_is_of_this_process() -> None:
    held = peak_memory()
    assert held is not None
    assert held > 10**8


class FakeRay:
    """Answers as Ray does: references, some of which are ready, some of which raise."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self.answers, self.asked, self.cancelled, self.down = answers, dict[str, Any](), list[str](), False
        self.exceptions = SimpleNamespace(RayTaskError=type("RayTaskError", (Exception,), {}), RayError=Exception)
        self.began, self.devices = dict[str, Any](), list[str]()

    def is_initialized(self) -> bool:
        return False

    def init(self, **given: Any) -> None:
        self.began = given

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 2.0, "GPU": 1.0}

    def remote(self, run: Any) -> Any:
        def options(**asked: Any) -> Any:
            self.asked = asked
            return SimpleNamespace(remote=lambda plan, device: self.devices.append(device) or plan)

        return SimpleNamespace(options=options)

    def wait(self, waiting: list[str], *, num_returns: int, timeout: float) -> tuple[list[str], list[str]]:
        ready = [r for r in waiting if r in self.answers][:num_returns]
        return ready, [r for r in waiting if r not in ready]

    def get(self, reference: str) -> Any:
        if isinstance(self.answers[reference], Exception):
            raise self.answers[reference]
        return self.answers[reference]

    def cancel(self, reference: str, *, force: bool) -> None:
        self.cancelled.append(reference)

    def shutdown(self) -> None:
        self.down = True


def test_ray_is_asked_for_what_a_trial_needs_and_its_answers_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    done = Outcome(state="done", verdict="leaks")
    fake = FakeRay({"plan 0": done, "plan 1": ValueError("The worker died\nof something")})
    failure = fake.exceptions.RayTaskError("no")
    failure.cause = ImportError("no module named fedspill")
    fake.answers["plan 2"] = failure
    monkeypatch.setattr(on_ray, "_ray", lambda: fake)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    engine = OnRay("cpu", cpus=2, gpus=0.5, memory=10**9)
    assert fake.began["num_cpus"] == 2
    assert fake.asked == {"num_cpus": 1, "num_gpus": 0.5, "max_retries": 3, "memory": 10**9}
    assert engine.ended(0.0) == []
    for k in range(4):
        assert engine.has_room()
        engine.start(f"digest {k}", f"plan {k}")
    assert not engine.has_room()
    ended = {e.digest: e.result for e in engine.ended(0.0)}
    assert ended["digest 0"] == done
    assert ended["digest 1"] == Lost("The worker died")
    assert ended["digest 2"] == Outcome(state="failed", error="the worker cannot run it: no module named fedspill")
    assert engine.running == 1
    engine.close()
    assert (fake.cancelled, fake.down) == (["plan 3"], True)


@pytest.mark.parametrize(
    ("device", "gpus", "asked", "ran"),
    [("auto", 0.0, 0.0, "cpu"), ("auto", 0.25, 0.25, "auto"), ("cuda", 0.0, 1.0, "cuda"), ("cpu", 0.0, 0.0, "cpu")],
)
def test_a_card_is_used_by_who_asked_for_it(
    monkeypatch: pytest.MonkeyPatch, device: str, gpus: float, asked: float, ran: str
) -> None:
    fake = FakeRay({})
    monkeypatch.setattr(on_ray, "_ray", lambda: fake)
    OnRay(device, gpus=gpus).start("digest", "plan")
    assert fake.asked["num_gpus"] == asked
    assert fake.devices == [ran]
    engine, room = OnRay(device, gpus=gpus), 0
    while engine.has_room():
        engine.start(f"digest {room}", f"plan {room}")
        room += 1
    assert room == 2 * min(2.0, 1.0 / asked if asked else 2.0)


def test_the_cluster_is_the_one_that_was_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for given, named, wanted in ((None, "there:1", "there:1"), ("here:1", "there:1", "here:1"), (None, "", None)):
        fake = FakeRay({})
        monkeypatch.setattr(on_ray, "_ray", lambda fake=fake: fake)
        monkeypatch.setenv("RAY_ADDRESS", named)
        OnRay("cpu", address=given, cpus=2)
        assert fake.began.get("address") == wanted
        assert ("num_cpus" in fake.began) == (wanted is None)  # of a cluster that is there nobody says how large it is


def test_ray_that_is_not_installed_or_does_not_answer_is_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**given: Any) -> None:
        raise Exception("nobody there")

    fake = FakeRay({})
    monkeypatch.setattr(fake, "init", refuse)
    monkeypatch.setattr(on_ray, "_ray", lambda: fake)
    with pytest.raises(BadInput, match="no Ray cluster answers at here:1: nobody there"):
        OnRay("cpu", address="here:1")
    monkeypatch.undo()

    def missing(name: str) -> Any:
        raise ImportError("No module named 'ray'")

    monkeypatch.setattr(on_ray.importlib, "import_module", missing)
    with pytest.raises(BadInput, match=r"--engine ray needs fedspill\[ray\]"):
        OnRay("cpu")

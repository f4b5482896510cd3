"""The benchmark of many updates: every image is an update of its own, and the record says what was done."""

import argparse

import pytest
import torch
from benchmarks.matching import at_once
from benchmarks.matching.world import Case, World

from fedspill.core.local_training.update import FedSGD
from tests.support.worlds import batch, relu_mlp


def test_a_record_holds_every_image_and_its_conditions(monkeypatch: pytest.MonkeyPatch) -> None:
    def world(case: Case, images: tuple[int, ...], seed: int, device: str) -> World:
        assert images == (9000, 9001, 9002)
        return at_once.of(relu_mlp(), batch(len(images)), FedSGD(), seed)

    monkeypatch.setattr(at_once, "world", world)
    shown = argparse.Namespace(
        network="lenet", images=3, preset="quick", steps=6, search_only=True, graph=False, compare=True, device="cpu",
        threads=1, seed=0, benchmark="at_once",
    )  # fmt: skip
    record = at_once.run(shown)
    for way in ("at_once", "one_by_one"):
        found = record[way]
        assert (found["searched"], len(found["psnr"])) == (3, 3)
        assert found["summary"]["max"] == pytest.approx(max(found["psnr"]), abs=1e-3)
    assert record["at_once"]["psnr"] == pytest.approx(record["one_by_one"]["psnr"], abs=0.5)
    assert record["conditions"]["versions"]["torch"] == torch.__version__
    exact = at_once.run(argparse.Namespace(**{**vars(shown), "search_only": False, "compare": False}))
    assert exact["at_once"]["searched"] == 0
    assert exact["at_once"]["summary"]["min"] > 60

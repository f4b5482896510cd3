"""The plan of a head's training: a TOML file with the sections `model`, `data`, `test`, `head` and `spab`."""

from dataclasses import fields
from typing import Annotated

from pydantic import BeforeValidator, Field

from fedspill.audit.plan import ModelSection, PoolSection, Section
from fedspill.inversion.heads import Kind
from fedspill.inversion.spab_settings import SpAB
from fedspill.training.plan import TestedPlan


def _known_keys(value: object) -> object:
    names = [f.name for f in fields(SpAB)]
    unknown = [k for k in value if k not in names] if isinstance(value, dict) else []
    if unknown:
        raise ValueError(f"{unknown} are unknown; allowed here: {', '.join(names)}")
    return value


class HeadSection(Section):
    """Which head.

    Attributes:
        kind: "spab", or a baseline: "plain", "random", "quantile".
        width: rows of its first layer.
        batches: how many test batches of each size the leakage rate is measured on, at most.
    """

    kind: Kind = "spab"
    width: int = Field(default=1024, ge=1)
    batches: int = Field(default=50, ge=1)
    seed: int = 0


class TestPool(PoolSection):
    """Examples that only the final figures see."""

    split: str | None = "test"


class SpabPlan(TestedPlan):
    """All that `fedspill train spab` needs to know; `spab` holds the fields of `SpAB`."""

    model: ModelSection = ModelSection(name="cnn", weights="robust")
    data: PoolSection = PoolSection(name="cifar10", split="train")
    test: TestPool = TestPool(name="cifar10")
    head: HeadSection = HeadSection()
    spab: Annotated[SpAB, BeforeValidator(_known_keys)] = SpAB()

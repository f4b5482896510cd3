"""One attack, so that no test waits for a slow one, nor fails where the machine is busy."""

from types import SimpleNamespace

import pytest

from fedspill import catalogue
from fedspill.auditing import exposure


@pytest.fixture
def linear_layer_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    cards = {"linear_layer": catalogue.attacks()["linear_layer"]}
    monkeypatch.setattr(exposure, "catalogue", SimpleNamespace(attacks=lambda: cards))

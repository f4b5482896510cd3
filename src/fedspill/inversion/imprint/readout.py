"""The server's side of an imprint module: the secret that it keeps, and how it reads the answer."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.errors import NotApplicable
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.model import Model
from fedspill.core.roles import UNWATCHED, Prediction, Watch
from fedspill.core.types import Reconstruction, Update
from fedspill.inversion.gradients.layer import Layer
from fedspill.inversion.identity.pixel_map import INTERPOLATED
from fedspill.inversion.imprint.bin_readout import SURE, Readings, candidates, read_bins
from fedspill.inversion.imprint.certificate import Outlet, share_test
from fedspill.inversion.imprint.contents import contents
from fedspill.inversion.imprint.peeling import peel
from fedspill.inversion.imprint.rescaling import mended_all
from fedspill.inversion.imprint.rows import Imprint
from fedspill.inversion.imprint.views import View
from fedspill.inversion.network.layers import CHUNK, layer_inputs
from fedspill.inversion.theory.occupancy import recoverable, summary

Decode = Literal["bins", "peel"]


@dataclass(frozen=True)
class ImprintReadout:
    """Reads an imprint module.

    Converged means that stored data were recognised in at least one bin.

    Attributes:
        at: name of the layer in front of which features are read; "" is the network.
        layer: the linear layer that holds the rows.
        imprint: which row belongs to which bin.
        look: what examples look like there.
        decode: "bins", each for itself, or "peel".
        active: False while the module is dormant.
        outlet: where the rows go on to; None leaves out what must know it, the share test.
        classifier: the model before it was changed, if labels are to be guessed by it (appendix A.5).
    """

    at: str
    layer: Layer
    imprint: Imprint
    look: View
    decode: Decode
    outlet: Outlet | None
    active: bool = True
    classifier: Model | None = None

    def reconstruct(
        self, update: Update, knowledge: ServerKnowledge, rng: torch.Generator, watch: Watch = UNWATCHED
    ) -> Reconstruction:
        """What the bins hold: each example that is alone in one of them exactly.

        Raises:
            NotApplicable: the module is dormant, or the layer was not trained.
        """
        return self._reconstruction(self.readings(update, knowledge, rng), knowledge)

    def readings(self, update: Update, knowledge: ServerKnowledge, rng: torch.Generator) -> Readings:
        """The same as features of the place where they were read.

        Raises:
            NotApplicable: the module is dormant, or the layer was not trained.
        """
        if not self.active:
            raise NotApplicable("the imprint module is dormant: its rows are ordinary before the round `active_from`")
        raw = contents(update, knowledge, self.layer, self.imprint)
        held = mended_all(raw, self.imprint.groups, self.look.codebook)
        accounts = None
        if self.outlet is not None:
            accounts = share_test(update, knowledge, self.outlet, rng, lambda: candidates(held, self.imprint))
        decode = peel if self.decode == "peel" else read_bins
        return decode(held, self.imprint, self.look.codebook, accounts)

    def _reconstruction(self, readings: Readings, knowledge: ServerKnowledge) -> Reconstruction:
        like, trust = knowledge.model.like, readings.confidence
        inputs = self.look.inputs(readings.features)
        inputs = inputs.to(like) if inputs.is_floating_point() else inputs
        labels = None if self.classifier is None else _predicted(self.classifier, inputs)
        return Reconstruction(
            inputs=inputs,
            labels=labels,
            label_method=None if labels is None else "the model's own prediction",
            confidence=(trust if self.look.whole else trust.clamp_max(INTERPOLATED)).to(like),
            converged=bool((trust >= SURE).any()),
            notes=self.notes(readings, knowledge.num_examples),
            origins=readings.origins,
            marks=readings.marks,
        )

    def notes(self, readings: Readings, n: int | None) -> tuple[str, ...]:
        """How much was read, and how much was to be expected of n examples."""
        sure, bins = sum(m == "alone" for m in readings.marks), sum(len(g.rows) for g in self.imprint.groups)
        if not len(readings):
            return ("No bin holds anything: no example was measured inside the cutoffs.",)
        counts = f"{len(readings)} candidates were read in {bins} bins; {sure} are recognised as single examples."
        if n is None:
            return (counts,)
        return counts, self._theory(n, bins)

    def _theory(self, n: int, bins: int) -> str:
        groups = len(self.imprint.groups)
        if groups == bins > 1:
            return f"Each of the {bins} rows has a function of its own, as in an LT code: examples are in several."
        return summary(n, bins) if groups == 1 else f"{summary(n, bins)} Here in {groups} groups."

    def predict(self, model: Model, z: Tensor) -> Prediction:
        """The bins that examples fall into by the measurement alone, and those that must be read exactly."""
        features: Float[Tensor, "n f"] = layer_inputs(model, self.at, z).flatten(1)
        where = self.imprint.bins(features).cpu()
        names = self.imprint.names()
        places = tuple(tuple(names[j][b] for j, b in enumerate(row) if b >= 0) for row in where.tolist())
        # One group: an example that is alone. Several without peeling: one that is alone in any of them.
        if not self.look.whole:  # what is read is not the whole input
            return Prediction(places, torch.zeros(len(where), dtype=torch.bool))
        if self.decode == "peel":
            return Prediction(places, recoverable(where))
        return Prediction(places, torch.stack([recoverable(column[:, None]) for column in where.T], 1).any(1))


def _predicted(model: Model, inputs: Tensor) -> Tensor:
    """Classes (m,), or next tokens (m, t), that the model takes for the likeliest."""
    calm = model.in_eval_mode()
    with torch.no_grad():
        parts = [calm.logits(calm.params, model.input.encode(chunk)).argmax(-1) for chunk in inputs.split(CHUNK)]
    return torch.cat(parts) if parts else inputs.new_zeros(0, dtype=torch.long)

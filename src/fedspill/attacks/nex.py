"""Neuron exclusivity: examples that fire ReLUs of their own are read off the ratios of the last layer's gradient.

Pan, Zhang, Yan, Zhu, Yang: "Exploring the Security Boundary of Data Reconstruction via Neuron Exclusivity Analysis",
USENIX Security 2022, arXiv:2010.13356. Exact for fully connected networks; behind a feature extractor, representations
are read and images searched for by a deep image prior, as in the comparison of Maui (arXiv:2509.11451).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fedspill.core.errors import BadInput, NotApplicable
from fedspill.core.inputs import ImageSpec, TableSpec
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.model import Model
from fedspill.core.roles import UNWATCHED, Attack, Card, Prediction, Watch
from fedspill.core.settings import with_fields
from fedspill.core.types import Params, Reconstruction, Update
from fedspill.inversion.analytic.candidates import in_range
from fedspill.inversion.exclusivity.candidates import Scale
from fedspill.inversion.exclusivity.dense_end import DenseEnd, dense_end, extractor, parameter_names, passed
from fedspill.inversion.exclusivity.earlier_layers import Rebuilt
from fedspill.inversion.exclusivity.multiples import read_in_scale
from fedspill.inversion.exclusivity.readout import Readout, Rules, read_neurons
from fedspill.inversion.exclusivity.single_layer import read_features
from fedspill.inversion.gradients.losses import is_cross_entropy
from fedspill.inversion.gradients.mean import mean_gradient, one_step
from fedspill.inversion.gradients.rounding import largest_rounding
from fedspill.inversion.gradients.scale import multiple_note
from fedspill.inversion.labels.scale import head_multiple
from fedspill.inversion.network.extractor import Extractor
from fedspill.inversion.network.layers import layer_inputs
from fedspill.inversion.representations.images.search import Matched, match_representations
from fedspill.inversion.representations.images.settings import IRMatching
from fedspill.inversion.theory.ownership import exclusive

MET = 1e-3
"""Distance of a representation from the one that was read, over its length, that needs no further search."""


@dataclass(frozen=True)
class NEX:
    """Clusters the columns of the last weight's gradient, then solves for the inputs of the layers before.

    Needs the gradients of the linear layers that the network ends in, such as a head's, and no others. Converged means
    that all n examples are certified and that together they reproduce every row of these gradients; for images that are
    searched for, also that each representation is met.

    Attributes:
        tolerance: angle in radians below which two columns agree.
        least: exclusive units of the last hidden layer that must agree; 2 in the paper. One alone is told from a
            mixture by passing it through the network.
        peel: take certified examples out of the gradient and look again (not in the paper).
        scale: that of an example's gradient where no bias tells it: "published" (p_y = 1/3) or "fitted" to the network.
        matching: how images are searched whose representations were read, if a feature extractor stands before the
            layers.
        converged_below: distance of a rebuilt image's representation from the one that was read, over its length.
    """

    tolerance: float = 1e-4
    least: int = 2
    peel: bool = False
    scale: Scale = "published"
    matching: IRMatching = IRMatching()
    converged_below: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.tolerance < 0.1 or self.least < 1:
            raise BadInput(
                f"tolerance={self.tolerance} must lie between 0 and 0.1 radians, least={self.least} be 1 or more"
            )
        if self.matching.prior == "decoder" or self.matching.terms.anchor:
            raise BadInput(
                f"matching has prior={self.matching.prior!r}, anchor={self.matching.terms.anchor}: nex has no decoder;"
                " search by 'unet' or 'pixels', without an anchor"
            )

    def reconstruct(
        self, update: Update, knowledge: ServerKnowledge, rng: torch.Generator, watch: Watch = UNWATCHED
    ) -> Reconstruction:
        """The examples that own units, exact; up to n others that may be mixtures, with less confidence.

        Raises:
            NotApplicable: the network does not end in linear layers with ReLUs, the loss is not cross-entropy, the last
                layer was not trained, or the update is of several local steps.
        """
        end = self._end(update, knowledge)
        if end.at_input:
            return _computed(self._read(end, update, knowledge), knowledge)
        front = extractor(knowledge.model, end)
        if not isinstance(knowledge.model.input, ImageSpec):
            raise NotApplicable(f"what {end.first!r} is given can be read, but only images are searched for from it")
        return self._searched(self._read(end, update, knowledge), front, knowledge, rng, watch)

    def _end(self, update: Update, knowledge: ServerKnowledge) -> DenseEnd:
        """The linear layers at the end whose gradients were sent."""
        if not is_cross_entropy(knowledge.model):
            raise NotApplicable("labels are read from the signs that cross-entropy gives; the loss is another one")
        if not one_step(update, knowledge):
            raise NotApplicable(
                "ratios belong to one gradient; the update holds several local steps, or a number unknown to the server"
            )
        end = dense_end(knowledge.model)
        unsent = [k for k, layer in enumerate(end.layers) if layer.weight not in update.values]
        if unsent and unsent[-1] == len(end.layers) - 1:
            raise NotApplicable(f"the gradient of {end.layers[-1].weight!r} is needed, but the update does not hold it")
        end = end.last(len(end.layers) - 1 - unsent[-1]) if unsent else end
        if len(end.layers) == 1 and not end.gated:
            raise NotApplicable(
                f"{end.first!r} is the only linear layer and no ReLU feeds it: every example moves all of its gradient,"
                " which shows no more than means of classes"
            )
        return end

    def _read(self, end: DenseEnd, update: Update, knowledge: ServerKnowledge) -> Readout:
        names = [n for n in parameter_names(end.layers) if n in update.values]
        mean = mean_gradient(update, knowledge, names)
        params = {n: knowledge.model.params[n].double() for n in parameter_names(end.layers)}
        eps = torch.finfo(update.values[end.layers[-1].weight].dtype).eps
        noise = largest_rounding(update, params, names, mean.scale)
        rules = Rules(self.tolerance, self.least, self.peel, self.scale)
        reads = read_features if len(end.layers) == 1 else read_neurons

        def read(gradient: Params, count: int | None, noise: float) -> Readout:
            return reads(end, params, gradient, count, rules, eps=eps, noise=noise)

        return read_in_scale(read, mean.values, knowledge.num_examples, noise, head_multiple(update, knowledge))

    def _searched(
        self, read: Readout, front: Extractor, knowledge: ServerKnowledge, rng: torch.Generator, watch: Watch
    ) -> Reconstruction:
        """Images whose representations are what the first layer was given; mixtures are not searched for."""
        spec, like = knowledge.model.input, knowledge.model.like
        assert isinstance(spec, ImageSpec)
        kept = [r for r in _kept(read) if r.mark != "mixture"]
        if not kept:
            return _shown(kept, spec.decode(like.new_zeros(0, *spec.shape)), read)
        matched = match_representations(front, spec, torch.stack([r.x for r in kept]), self.matching, rng, watch)
        met = (1 - matched.distance.clamp(0, 1)).tolist()
        trusted = [replace(r, confidence=r.confidence * m) for r, m in zip(kept, met, strict=True)]
        got = _shown(trusted, matched.inputs, read)
        level = self.converged_below if matched.complete else min(self.converged_below, MET)
        close = float(matched.distance.max()) < level
        return replace(
            got, objective=matched.objective, converged=read.complete and close, notes=(*got.notes, _met(matched))
        )

    def predict(self, model: Model, z: Tensor) -> Prediction:
        """Which units each example fires, and which examples are rebuilt exactly, of one gradient of the model as sent.

        An example of which the network is so sure that its gradient is 0 is not found, whatever it fires.
        """
        end = dense_end(model)
        fired = fired_units(model, end, z)
        places = tuple(tuple(f"unit {j}" for j in f.nonzero()[:, 0].tolist()) for f in fired[-1])
        readable = exclusive(fired, self.least)
        return Prediction(places, readable if end.at_input else torch.zeros_like(readable))


def fired_units(model: Model, end: DenseEnd, z: Float[Tensor, "n ..."]) -> list[Bool[Tensor, "n _"]]:
    """Which example fires which unit, for each ReLU layer of a network's end, in the model's own precision."""
    with torch.no_grad():
        x = z.flatten(1) if end.at_input else layer_inputs(model, end.first, z).flatten(1)
        way = passed(end.layers, model.params, x)
    return [x > 0] if len(end.layers) == 1 else [y > 0 for y in way.outputs[:-1]]


def _computed(read: Readout, knowledge: ServerKnowledge) -> Reconstruction:
    """Inputs of the first layer as inputs of the network."""
    spec, like = knowledge.model.input, knowledge.model.like
    kept = [_checked(r, in_range(spec, r.x)) for r in _kept(read)]
    z = torch.stack([r.x for r in kept]) if kept else like.new_zeros(0, 1).double()
    got = _shown(kept, spec.decode(z.reshape(len(kept), *spec.encoded_shape)).to(like), read)
    return replace(got, converged=read.complete and all(r.mark == "alone" for r in kept))


def _met(matched: Matched) -> str:
    ended = "" if matched.complete else " The budget ended before the last iteration."
    return (
        "Images were searched for by their representations, which they meet within"
        f" {float(matched.distance.min()):.1e} to {float(matched.distance.max()):.1e} of their length.{ended}"
    )


def _checked(rebuilt: Rebuilt, valid: bool) -> Rebuilt:
    """A certified input outside the range is not believed."""
    return rebuilt if valid or rebuilt.mark != "alone" else replace(rebuilt, mark="unsure", confidence=0.5)


def _kept(read: Readout) -> Sequence[Rebuilt]:
    """The certified, and others that fill up to n; without n no mixtures."""
    sure = [r for r in read.found if r.mark == "alone"]
    others = [r for r in read.found if r.mark != "alone"]
    if read.count is None:
        return [*sure, *(r for r in others if r.mark != "mixture")]
    return [*sure, *others[: max(0, read.count - read.certified)]]


def _shown(kept: Sequence[Rebuilt], inputs: Tensor, read: Readout) -> Reconstruction:
    """Each example as often as the batch holds it."""
    shown = [r for r in kept for _ in range(r.copies)]
    copies = torch.tensor([r.copies for r in kept], dtype=torch.long, device=inputs.device)
    return Reconstruction(
        inputs=inputs.repeat_interleave(copies, 0),
        labels=torch.tensor([r.label for r in shown], dtype=torch.long, device=inputs.device),
        label_method="sign of the last layer's columns",
        confidence=inputs.new_tensor([r.confidence for r in shown]),
        notes=_notes(read),
        origins=tuple(f"unit {int(r.units[0])}" for r in shown),
        marks=tuple(r.mark for r in shown),
    )


def _notes(read: Readout) -> tuple[str, ...]:
    count = "an unknown number of" if read.count is None else str(read.count)
    return (
        f"{read.clusters} sets of units agree; {read.certified} of {count} examples are certified, which together"
        f" reproduce {1 - read.unexplained:.1%} of the rows of the gradients.",
        *multiple_note(read.multiple),
    )


_PAPER = NEX()

CARD: Card[Attack] = Card(
    title="Neuron exclusivity",
    paper="Pan et al., USENIX Security 2022, arXiv:2010.13356",
    summary="Reads examples that fire ReLUs of their own, their number and labels off the last gradients.",
    presets={
        "paper": _PAPER,
        "quick": replace(_PAPER, matching=with_fields(IRMatching(), iterations=150)),
        "strong": replace(
            _PAPER, least=1, peel=True, scale="fitted", matching=with_fields(IRMatching(), iterations=3000)
        ),
    },
    iterative=True,
    accepts=frozenset({ImageSpec, TableSpec}),
)

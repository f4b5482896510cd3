"""Trap weights: rows of the first linear layer that few examples fire, so that a row's gradient shows one of them.

Boenisch, Dziedzic, Schuster, Shamsabadi, Shumailov, Papernot: "When the Curious Abandon Honesty: Federated Learning
Is Not Private", EuroS&P 2023, arXiv:2112.02918. Parameters only: the architecture stays as it is.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedspill.core.errors import BadInput, NotApplicable
from fedspill.core.inputs import ImageSpec, TableSpec
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.model import Model
from fedspill.core.roles import UNWATCHED, Card, Prediction, Tampered, Tampering, Watch, nothing
from fedspill.core.types import Batch, Reconstruction, ServerRole, Update
from fedspill.inversion.analytic.candidates import ONE_EXAMPLE
from fedspill.inversion.analytic.readout import single_example
from fedspill.inversion.codebooks.lattice import nearest
from fedspill.inversion.gradients.firing import gated, layer_outputs
from fedspill.inversion.gradients.layer import row_gradient, sent
from fedspill.inversion.gradients.linear import layer_input, rank_one_residual
from fedspill.inversion.identity.pixel_map import INTERPOLATED
from fedspill.inversion.labels.known import known_labels
from fedspill.inversion.network.layers import layer_inputs
from fedspill.inversion.network.trace import probe_inputs
from fedspill.inversion.traps.owned_rows import OwnedRows, owned_rows
from fedspill.inversion.traps.passthrough import PassThrough, carried
from fedspill.inversion.traps.rows import TrapRows, default_scale, draw_rows

FIRED = 2
"""Examples of an update that fire a row, on average, where s is tuned. One would be best if examples were alike; but
bright ones fire most rows, so that the best mean is higher (CIFAR-10, 20 to 200 examples, 200 and 1000 rows: 2 to 2.5).
"""
PROBES = 4
CHUNK = 64


@dataclass(frozen=True)
class TrapWeights:
    """Fills the first linear layer with trap rows (Algorithm 1); identity convolutions before it, if there are any.

    The rows are made for data in [0, 1]. What arrives at the layer is an affine function of that (a normalisation,
    identity convolutions); it is folded into weight and bias, since on normalised inputs the paper's rows with
    bias 0 find nothing. The other linear layers are kept.

    Attributes:
        scale: s, by which positive weights are smaller than negative ones (Algorithm 1). None takes the paper's best
            (Table 4) for rows of that length: 0.7 at 784 (MNIST), 0.95 at 3072 (CIFAR-10), 0.99 at 150528
            (ImageNet), interpolated between.
        sigma: standard deviation of the normal numbers; 0.5 in the paper.
        examples: how many the server expects in an update. With public data at hand s is then tuned until a row fires
            for FIRED of so many (not in the paper, which tries values of s); 0 never tunes.
        gain: the rows are multiplied by it, which changes no firing. Below 1 local training moves the biases, that
            hold the folded normalisation, by more than float32 rounds. 1 in the paper.
        phases: behind strides, carry the pixels between on free channels (the paper's space-to-channel filters).
        snap: certified candidates are rounded to the nearest valid input (not in the paper).
    """

    scale: float | None = None
    sigma: float = 0.5
    examples: int = 0
    gain: float = 1.0
    phases: bool = True
    snap: bool = False

    def __post_init__(self) -> None:
        if self.scale is not None and not self.scale > 0:
            raise BadInput(f"scale={self.scale}: a number above 0 is needed, the paper uses 0.7 to 0.99")
        if not (self.sigma > 0 and self.gain > 0 and self.examples >= 0):
            raise BadInput(
                f"sigma={self.sigma}, gain={self.gain} must be above 0 and examples={self.examples} not below 0"
            )

    def tamper(
        self, model: Model, public_data: Batch | None, round: int, rng: torch.Generator, watch: Watch = UNWATCHED
    ) -> Tampered:
        """The model with its first linear layer replaced, and the readout.

        Raises:
            NotApplicable: the input does not arrive at a linear layer with a bias, as in ResNets; no ReLU follows it;
                or the input is neither image nor table.
        """
        if not isinstance(model.input, ImageSpec | TableSpec):
            raise NotApplicable(f"images or tables are needed, the model takes {type(model.input).__name__}")
        changed, way = carried(model, phases=self.phases)
        count = len(model.params[way.layer.weight])
        rows = draw_rows(count, len(way.used), self.sigma, rng, model.like.double())
        weight, bias = way.folded(self.gain * rows.at(self._scale(changed, way, rows, public_data)))
        trapped = {way.layer.weight: weight.to(model.like), way.layer.bias: bias.to(model.like)}
        sent_model = changed.with_params({**changed.params, **trapped})
        if not gated(sent_model, way.at, way.layer, probe_inputs(model.input, PROBES, model.like)):
            raise NotApplicable(f"no ReLU follows {way.at!r}: every example moves every row, so none is alone in one")
        return Tampered(sent_model, TrapReadout(way, self.snap))

    def _scale(self, model: Model, way: PassThrough, rows: TrapRows, public_data: Batch | None) -> float:
        if self.scale is not None:
            return self.scale
        if self.examples < 2 or public_data is None:
            return default_scale(len(way.used))
        z = model.input.encode(public_data.to(model.like).inputs)
        features = torch.cat([layer_inputs(model, way.at, part).flatten(1) for part in z.split(CHUNK)])
        return rows.tuned(way.units(features), min(0.5, FIRED / self.examples))


@dataclass(frozen=True)
class TrapReadout:
    """Divides the rows' gradients by their biases' and keeps those that hold one example, judged blind.

    Converged means that some candidate is certified: it lies on the lattice of real data (pixels of 8 bits, whole
    counts, one-hot categories), or passing it through the network reproduces the gradient of the rows that show it.

    Attributes:
        way: the layer, and how the input arrives there.
        snap: round certified candidates to the nearest valid input.
    """

    way: PassThrough
    snap: bool = False

    def reconstruct(
        self, update: Update, knowledge: ServerKnowledge, rng: torch.Generator, watch: Watch = UNWATCHED
    ) -> Reconstruction:
        """The examples that own a row, exact; up to n others that may be mixtures, with less confidence.

        Raises:
            NotApplicable: the layer was not trained.
        """
        bias = sent(update, self.way.layer.bias, "the layer's bias")
        sent(update, self.way.layer.weight, "the layer's weight")
        if not bool((bias != 0).any()):
            return _silent(knowledge)
        count = knowledge.num_examples
        if count is None or count == 1:
            gradient = row_gradient(update, knowledge, self.way.layer)
            x = layer_input(gradient.weight, gradient.bias)
            residual = rank_one_residual(gradient.weight, gradient.bias, x)
            if count == 1 or residual < ONE_EXAMPLE:
                return self._single(update, knowledge, rng, x, residual)
        labels = known_labels(update, knowledge, rng, count)
        candidates = owned_rows(update, knowledge, self.way, None if labels is None else labels.values)
        if not candidates:
            return nothing(knowledge, "No row of the layer that holds the traps shows an input.")
        return self._reconstruction(knowledge, candidates)

    def _single(
        self, update: Update, knowledge: ServerKnowledge, rng: torch.Generator, x: Tensor, residual: float
    ) -> Reconstruction:
        z = self.way.encoded(x[None], knowledge.model.input).flatten()
        names, spec = (self.way.layer.weight, self.way.layer.bias), knowledge.model.input
        read = single_example(update, knowledge, names, z, residual, known_labels(update, knowledge, rng, 1))
        if read.confidence is None or self.way.is_whole(spec):
            return read
        return replace(read, confidence=read.confidence.clamp_max(INTERPOLATED))

    def _reconstruction(self, knowledge: ServerKnowledge, candidates: list[OwnedRows]) -> Reconstruction:
        spec, like, count = knowledge.model.input, knowledge.model.like, knowledge.num_examples
        sure = sum(c.mark == "alone" for c in candidates)
        # Mixtures only fill up to n, for what a mixture of two looks like both; without n there is no telling.
        kept = [c for c in candidates if c.mark != "mixture"] if count is None else candidates[: max(sure, count)]
        if not kept:
            kept = candidates[:1]
        z = self.way.encoded(torch.stack([c.x for c in kept]), spec)
        if self.snap and sure:
            z = torch.cat([nearest(spec, z[:sure]), z[sure:]])
        trust = like.new_tensor([c.confidence for c in kept])
        return Reconstruction(
            inputs=spec.decode(z).to(like),
            confidence=trust if self.way.is_whole(spec) else trust.clamp_max(INTERPOLATED),
            converged=sure > 0,
            notes=self._notes(candidates, sure, count),
            origins=tuple(f"row {int(c.rows[0])}" for c in kept),
            marks=tuple(c.mark for c in kept),
        )

    def _notes(self, candidates: list[OwnedRows], sure: int, count: int | None) -> tuple[str, ...]:
        shared = sum(c.mark == "mixture" for c in candidates)
        note = (
            f"{len(candidates)} different inputs were read from rows; {sure} are certified to be one example, of"
            f" {count if count is not None else 'an unknown number'}; {shared} are mixtures."
        )
        if self.way.seen is None:
            return (note,)
        return (note, f"{self.way.seen.resolution()} pixels per channel were shown; the others are interpolated.")

    def predict(self, model: Model, z: Tensor) -> Prediction:
        """Which rows each example fires, and which examples fire one alone; of one gradient of the model as sent."""
        fires = layer_outputs(model, self.way.at, self.way.layer, z) > 0
        alone = fires & (fires.sum(0) == 1)
        places = tuple(tuple(f"row {j}" for j in f.nonzero()[:, 0].tolist()) for f in fires)
        return Prediction(places, alone.any(1))


def _silent(knowledge: ServerKnowledge) -> Reconstruction:
    spec, like = knowledge.model.input, knowledge.model.like
    return Reconstruction(
        inputs=spec.decode(like.new_zeros(0, *spec.encoded_shape)),
        confidence=like.new_zeros(0),
        notes=("No example fired any row: the update holds nothing of the inputs.",),
    )


CARD: Card[Tampering] = Card(
    title="Trap weights",
    paper="Boenisch et al., EuroS&P 2023, arXiv:2112.02918",
    summary="Sends rows that few examples fire in the first linear layer and reads single examples off its gradient.",
    presets={
        "paper": TrapWeights(),
        "quick": TrapWeights(),
        "strong": TrapWeights(examples=100, snap=True),
    },
    role=ServerRole.MALICIOUS_PARAMETERS,
    accepts=frozenset({ImageSpec, TableSpec}),
    reads=True,
)

"""Scale-MIA: an encoder and a head that leak what enters the head, and a decoder that makes images of it.

Shi, Wang, Xiao, Lou, Hou: "Scale-MIA: A Scalable Model Inversion Attack against Secure Federated Learning via Latent
Space Reconstruction", NDSS 2025, arXiv:2311.05808. Encoders in closed form, several functions and peeling are not in
the paper.
"""

from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.errors import BadInput, NotApplicable
from fedspill.core.inputs import image_spec
from fedspill.core.knowledge import Knows, ServerKnowledge
from fedspill.core.model import Model
from fedspill.core.rng import stream
from fedspill.core.roles import UNWATCHED, Card, Prediction, State, Tampered, Tampering, Watch
from fedspill.core.settings import with_fields
from fedspill.core.types import Batch, Reconstruction, ServerRole, Update
from fedspill.core.watching.nested import PhaseWatch
from fedspill.inversion.codebooks.codebook import Codebook, NoCodebook
from fedspill.inversion.imprint.bin_readout import SURE, told_once
from fedspill.inversion.imprint.linear_pair import EACH, LinearPair, linear_pair
from fedspill.inversion.imprint.making import Bins, make_imprint
from fedspill.inversion.imprint.measurement import Cutoffs
from fedspill.inversion.imprint.readout import Decode, ImprintReadout
from fedspill.inversion.imprint.views import View
from fedspill.inversion.network.layers import layer_inputs
from fedspill.inversion.network.planting import find_place
from fedspill.inversion.representations.autoencoder.components import component_encoder
from fedspill.inversion.representations.autoencoder.encoder import latents_of, steps_before, with_encoder
from fedspill.inversion.representations.autoencoder.files import read_autoencoder
from fedspill.inversion.representations.autoencoder.training import (
    Autoencoder,
    AutoencoderTraining,
    train_autoencoder,
)
from fedspill.inversion.representations.images.decoder import IRDecoder, decoder_of
from fedspill.inversion.representations.images.search import match_representations
from fedspill.inversion.representations.images.settings import IRMatching, MatchingSchedule, MatchingTerms

Encoding = Literal["trained", "components", "own"]
MATCHING = IRMatching("decoder", MatchingSchedule(lr=0.02), terms=MatchingTerms(kl=0.0, tv=0.02, anchor=0.1))
"""Chosen on public images that the autoencoder was not trained on."""
JUDGED = 200
"""Public images by which a report tells how much of an image a latent holds."""


@dataclass(frozen=True)
class ScaleMIA:
    """Writes an encoder into the layers before the first linear layer, and bins into that layer.

    Only parameters change: the network must have a linear layer, a ReLU and another linear layer behind what encodes.
    Clients should run it in eval mode, or without BatchNorm.

    Attributes:
        encoder: what the layers before become. "trained": the encoder of an autoencoder that is trained on public
            images (the paper); "components": convolutions that hand on principal components of public images, with
            their inverse as decoder, in closed form; where a layer cannot, "trained" takes its place. "own": they
            stay as they are, and a decoder is trained for them.
        autoencoder: file that `fedspill train autoencoder` wrote, instead of training one.
        epochs: of a training.
        at: name of the linear layer; "" is the first one.
        rows: bins of all linear functions together; None takes all rows.
        functions: what is measured of latents, see `robbing_the_fed`; the paper's is "mean", the latent's brightness.
        own: see `robbing_the_fed`.
        cutoffs: see `robbing_the_fed`; the paper fits a normal distribution to public latents.
        throughput: see `robbing_the_fed`.
        decode: "bins" as in the paper, or "peel".
        gain: scales the rows; the layer behind divides by it again. Where clients send what they trained, a small one
            makes a step larger beside the numbers that it is added to, so that rounding takes less of it.
        refine: steps of a search, from what a decoder says on, for images whose latents are those that were read; 0
            only decodes. In closed form nothing is searched.

    Raises:
        BadInput: a number is out of range, or a file comes with an encoder that is not trained.
    """

    encoder: Encoding = "trained"
    autoencoder: str = ""
    epochs: int = AutoencoderTraining.epochs
    at: str = ""
    rows: int | None = None
    functions: tuple[str, ...] = ("mean",)
    own: tuple[float, ...] = ()
    cutoffs: Cutoffs | Literal["auto"] = "fitted_normal"
    throughput: float = 1.0
    decode: Decode = "bins"
    gain: float = 1.0
    refine: int = 0

    def __post_init__(self) -> None:
        for name in ("throughput", "gain"):
            if not (isfinite(value := vars(self)[name]) and value > 0):
                raise BadInput(f"{name}={value} must be finite and above 0")
        if self.epochs < 1 or self.refine < 0:
            raise BadInput(f"epochs={self.epochs}, refine={self.refine}: at least 1, and at least 0, is needed")
        if self.autoencoder and self.encoder != "trained":
            raise BadInput(f"autoencoder={self.autoencoder!r} is a trained one, but encoder={self.encoder!r} was asked")
        self._wanted()

    def _wanted(self) -> Bins:
        rows = EACH * len(self.functions) if self.rows is None else self.rows
        return Bins(rows, self.functions, self.own, self.cutoffs)

    def tamper(
        self, model: Model, public_data: Batch | None, round: int, rng: torch.Generator, watch: Watch = UNWATCHED
    ) -> Tampered:
        """The model with other numbers in its encoder and in two linear layers, and the readout.

        Raises:
            NotApplicable: the model takes no images, there is no linear layer followed by a ReLU and another one, or
                there are no public images.
            BadInput: a file cannot be used, or there are fewer public images than a mini-batch.
        """
        image_spec(model.input)
        if public_data is None:
            raise NotApplicable("public images are needed, to fit the encoder, its decoder and the bins")
        pair = linear_pair(model, self.at)
        layer, place = pair.layer, find_place(model, pair.first.name)
        seed = int(torch.randint(2**31, (), generator=rng))
        encoding = self._encoding(model, pair, public_data.inputs, watch, seed)
        bins = pair.bins(self.rows, self._wanted())
        ordinary = pair.rows - bins.rows
        imprint = make_imprint(bins, encoding.model, place, public_data, rng, ordinary=ordinary, gain=self.gain)
        changed, outlet = pair.written(encoding.model, imprint, self.throughput, rng)
        readout = ImprintReadout(place.at, layer, imprint, encoding.look, self.decode, outlet)
        matching = with_fields(MATCHING, iterations=self.refine) if self.refine else None
        return Tampered(changed, ScaleMIAReadout(readout, matching, encoding.notes))

    def _encoding(self, model: Model, pair: LinearPair, public: Tensor, watch: Watch, seed: int) -> "Encoded":
        at = pair.first.name
        try:
            if self.encoder == "components" or not (self.autoencoder or _encodes(model, at)):
                return _told(*component_encoder(model, at, public), at, public)
        except NotApplicable as reason:
            made = self._trained(model, at, public, watch, seed)
            why = (f"The encoder was trained: in closed form {reason}.",)
            return replace(made, notes=(*why, *made.notes))
        return self._trained(model, at, public, watch, seed)

    def _trained(self, model: Model, at: str, public: Tensor, watch: Watch, seed: int) -> "Encoded":
        if self.autoencoder:
            made = read_autoencoder(self.autoencoder, model, at)
        else:
            made = self._training(model, at, public, watch, seed)
        return _told(with_encoder(model, made.encoder), DecoderView(made.decoder), at, public)

    def _training(self, model: Model, at: str, public: Tensor, watch: Watch, seed: int) -> Autoencoder:
        size = max(2, min(AutoencoderTraining.minibatch, len(public)))
        settings, moved = AutoencoderTraining(epochs=self.epochs, minibatch=size), self.encoder != "own"

        def train(inner: Watch) -> State:
            rng = stream(seed, "autoencoder")
            made = train_autoencoder(model, at, public, settings, rng, inner, moved=moved)
            return {"encoder": dict(made.encoder), "decoder": dict(made.decoder.state_dict())}

        state = PhaseWatch(watch).run("autoencoder", train)
        encoder: dict[str, Tensor] = state["encoder"]
        latents = latents_of(with_encoder(model, encoder), at)
        return Autoencoder(encoder, decoder_of(state["decoder"], settings.layout, latents))


@dataclass(frozen=True)
class DecoderView:
    """The view through a trained decoder.

    Attributes:
        decoder: latents to images.
        whole: what the readout finds of a latent is whole, though of the image it is not.
    """

    decoder: IRDecoder
    whole: bool = field(default=True, init=False)

    @property
    def codebook(self) -> Codebook:
        """Nothing is known of latents."""
        return NoCodebook()

    def inputs(self, features: Float[Tensor, "m f"]) -> Tensor:
        """Images inside their bounds."""
        with torch.no_grad():
            parts = [self.decoder(part.to(self.decoder.centre)) for part in features.split(JUDGED)]
        return torch.cat(parts)


@dataclass(frozen=True)
class Encoded:
    """A model with its encoder, and the way back.

    Attributes:
        model: its linear layers are not yet changed.
        look: latents to images.
        notes: for a reader of the result.
    """

    model: Model
    look: View
    notes: tuple[str, ...]


def _encodes(model: Model, at: str) -> bool:
    """Whether something other than the input enters the layer."""
    return any(not step.passes() for step in steps_before(model, at))


def _told(model: Model, look: View, at: str, public: Tensor) -> Encoded:
    images = public[:JUDGED].to(model.like)
    z = model.input.encode(images)
    back = look.inputs(layer_inputs(model.in_eval_mode(), at, z).flatten(1).double()).to(images)
    low, high = image_spec(model.input).bounds
    errors = ((back - images) / (high - low)).square().flatten(1).mean(1).clamp_min(1e-10)
    psnr = float((-10 * errors.log10()).mean())
    return Encoded(model, look, (f"From their exact latents public images come back at {psnr:.1f} dB in the mean.",))


@dataclass(frozen=True)
class ScaleMIAReadout:
    """Reads latents out of the first linear layer's gradient, and makes images of them.

    Which bins hold one example is told by the update itself. Converged means that a latent was recognised as a single
    example's in at least one bin.

    Attributes:
        bins: the readout of latents.
        matching: the search behind a decoder; None only decodes.
        notes: of the encoder.
    """

    bins: ImprintReadout
    matching: IRMatching | None
    notes: tuple[str, ...]

    def reconstruct(
        self, update: Update, knowledge: ServerKnowledge, rng: torch.Generator, watch: Watch = UNWATCHED
    ) -> Reconstruction:
        """An image for each latent, those first that are recognised.

        Raises:
            NotApplicable: the layer was not trained.
        """
        readings, like = told_once(self.bins.readings(update, knowledge, rng)), knowledge.model.like
        inputs, objective = self._images(readings.features, knowledge.model, rng, watch)
        return Reconstruction(
            inputs=inputs.to(like),
            objective=objective,
            confidence=readings.confidence.to(like),
            converged=bool((readings.confidence >= SURE).any()),
            notes=(*self.bins.notes(readings, knowledge.num_examples), *self.notes),
            origins=readings.origins,
            marks=readings.marks,
            representations=readings.features,
        )

    def _images(
        self, latents: Float[Tensor, "m d"], model: Model, rng: torch.Generator, watch: Watch
    ) -> tuple[Float[Tensor, "m c h w"], tuple[float, ...]]:
        look = self.bins.look
        if self.matching is None or not isinstance(look, DecoderView) or len(latents) == 0:
            return look.inputs(latents), ()
        extractor, spec = latents_of(model, self.bins.at), image_spec(model.input)
        matched = match_representations(extractor, spec, latents, self.matching, rng, watch, look.decoder)
        return matched.inputs, matched.objective

    def predict(self, model: Model, z: Tensor) -> Prediction:
        """The bins that latents fall into, and those that must be read exactly."""
        latents = layer_inputs(model, self.bins.at, z).flatten(1)
        return replace(self.bins.predict(model, z), representations=latents)


PEEL = ("random", "random", "random", "random")

CARD: Card[Tampering] = Card(
    title="Scale-MIA",
    paper="Shi et al., NDSS 2025, arXiv:2311.05808",
    summary="Writes an encoder and bins into a network's own layers, and decodes the latents that the bins leak.",
    presets={
        "paper": ScaleMIA(),
        "quick": ScaleMIA("components", cutoffs="auto"),
        "strong": ScaleMIA("components", functions=PEEL, cutoffs="auto", decode="peel", gain=0.01, refine=150),
    },
    role=ServerRole.MALICIOUS_PARAMETERS,
    needs=frozenset({Knows.PUBLIC_DATA}),
    iterative=True,
    reads=True,
)

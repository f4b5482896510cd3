"""Representations out of the gradient of a classification head alone, and images out of representations.

Dabholkar, Bagchi et al.: "Maui: Reconstructing Private Client Data in Federated Transfer Learning", 2025, arXiv
2509.11451. The paper's equations and most of its numbers are not at hand: docs/results-maui.md says what is rebuilt.
"""

from dataclasses import asdict, dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.errors import BadInput, NotApplicable
from fedspill.core.inputs import image_spec
from fedspill.core.knowledge import Knows, ServerKnowledge
from fedspill.core.model import Model
from fedspill.core.probing.head import head_module
from fedspill.core.rng import stream
from fedspill.core.roles import UNWATCHED, Card, Prediction, State, Tampered, Tampering, Watch
from fedspill.core.settings import with_fields
from fedspill.core.types import Batch, Reconstruction, ServerRole, Update
from fedspill.core.watching.nested import PhaseWatch
from fedspill.inversion.gradients.layer import Layer
from fedspill.inversion.labels.scale import head_multiple
from fedspill.inversion.network.extractor import Extractor, representation_shape, with_module
from fedspill.inversion.network.layers import layer_inputs
from fedspill.inversion.representations.heads.making import make_head
from fedspill.inversion.representations.heads.settings import PAPER, PAPER_ENTRIES, SpAB
from fedspill.inversion.representations.heads.weights import HeadWeights, Kind, read_head
from fedspill.inversion.representations.images.decoder import IRDecoder, decoder_of, read_decoder
from fedspill.inversion.representations.images.decoder_training import DecoderTraining, train_decoder
from fedspill.inversion.representations.images.search import match_representations
from fedspill.inversion.representations.images.settings import (
    IRMatching,
    MatchingSchedule,
    MatchingTerms,
    SeedNoise,
)
from fedspill.inversion.representations.readout import Representations, read_representations
from fedspill.inversion.representations.two_layer import two_layer
from fedspill.inversion.theory.ownership import expected_rows

Inversion = Literal["unet", "decoder", "refined"]
Objective = Literal["published", "published_entries", "expected"]
TRAINED: dict[Objective, SpAB] = {"published": PAPER, "published_entries": PAPER_ENTRIES, "expected": SpAB()}
"""How a "spab" head is trained for each objective."""
UNET = IRMatching(weight_decay=0.01, noise=SeedNoise(jitter=0.03, kick=0.1))
"""The search of Algorithm 1, with the noise that the paper adds to the seed, in sizes found here."""
REFINED = IRMatching("decoder", MatchingSchedule(iterations=300), terms=MatchingTerms(anchor=1.0))
"""Chosen on training images that no decoder saw: docs/results-maui.md."""


@dataclass(frozen=True)
class Maui:
    """Replaces the head by two linear layers that leak what enters them, before the federation begins.

    The extractor stays as it is: load a robust one (`weights = "robust"`, or `fedspill train robust`), since the
    representations of a natural one have many pre-images (section 5.1). Clients train and send the head alone:
    `client.trainable = ["head.*"]`, or whatever the network calls its head.

    Two layers stand where one stood, so this is a change of the architecture, though clients may take it for the usual
    new head of a fine-tuning (section 8). A head that is a two-layer perceptron already would need its parameters only.

    Attributes:
        head: how the new head is made: "spab", trained for rows that one example of a batch fires (section 5.2.2);
            "quantile", random rows with biases that public data set (not in the paper); and the paper's
            baselines "plain" and "random".
        objective: what "spab" trains for: "published" is the paper's, sparse columns, with a term against dead neurons
            that looks at each column's maximum; "published_entries" the same with a term on all entries, the other
            reading of its words; "expected" is the share of examples that own a row, and not in the paper.
        width: rows of its first layer.
        at: name of the head that is replaced; "" finds it.
        head_weights: file that `fedspill train spab` wrote, instead of training one.
        mislabel: train the head on wrong labels, so that clipping leaves no example behind (section 7.4.2).
        peel: take certified representations away, so that others show. Not in the paper.
        inversion: "unet" searches the weights of a deep image prior (Algorithm 1); "decoder" answers at once, by
            a network trained on public images; "refined" searches from the decoder's answer on.
        iterations: steps of the search; 0 takes 1,000 for "unet", 300 for "refined".
        most: images that are searched, those first of which the attack is surest; the others are left to a decoder,
            or out where there is none. 0 searches all.
        decoder: file that `fedspill train decoder` wrote; "" trains one on the public images.
        decoder_epochs: epochs of that training.
    """

    head: Kind = "spab"
    objective: Objective = "expected"
    width: int = 1024
    at: str = ""
    head_weights: str = ""
    mislabel: bool = False
    peel: bool = True
    inversion: Inversion = "unet"
    iterations: int = 0
    most: int = 0
    decoder: str = ""
    decoder_epochs: int = DecoderTraining.epochs

    def __post_init__(self) -> None:
        if min(self.width, self.decoder_epochs) < 1 or min(self.iterations, self.most) < 0:
            raise BadInput(
                f"width={self.width}, decoder_epochs={self.decoder_epochs}, iterations={self.iterations},"
                f" most={self.most}: the first two must be 1 or more, the others 0 or more"
            )

    def tamper(
        self, model: Model, public_data: Batch | None, round: int, rng: torch.Generator, watch: Watch = UNWATCHED
    ) -> Tampered:
        """The model with the new head, and the readout.

        Raises:
            NotApplicable: the model takes no images, has no head behind an extractor, or there are no public images.
            BadInput: a file cannot be used.
        """
        image_spec(model.input)
        if public_data is None:
            raise NotApplicable("public images are needed, to train the head and the decoder")
        extractor = Extractor(model, self.at or head_module(model))
        stages, seed = PhaseWatch(watch), int(torch.randint(2**31, (), generator=rng))
        head = self._head(extractor, public_data, stages, seed)
        decoder = self._decoder(extractor, public_data, stages, seed)
        flat = len(representation_shape(model, extractor.at)) == 1
        changed = with_module(model, extractor.at, head.module(flatten=not flat))
        layer = f"{extractor.at}.{0 if flat else 1}"
        names = Layer(f"{layer}.weight", f"{layer}.bias")
        readout = MauiReadout(extractor.at, layer, names, self._matching(), self.most, self.peel, decoder)
        return Tampered(changed, readout)

    def _head(self, extractor: Extractor, public: Batch, stages: PhaseWatch, seed: int) -> HeadWeights:
        if self.head_weights:
            return read_head(self.head_weights, extractor)

        def train(watch: Watch) -> State:
            features = extractor.of(public.inputs)
            model = extractor.model
            with torch.no_grad():
                classes = model.logits(model.params, model.input.encode(public.inputs[:1].to(model.like))).shape[-1]
            settings = replace(TRAINED[self.objective], mislabel=self.mislabel)
            rng = stream(seed, "head")
            return asdict(make_head(self.head, features, public.labels, classes, self.width, settings, rng, watch))

        return HeadWeights(**stages.run("head", train))

    def _decoder(self, extractor: Extractor, public: Batch, stages: PhaseWatch, seed: int) -> IRDecoder | None:
        if self.decoder:
            return read_decoder(self.decoder, extractor)
        if self.inversion == "unet":
            return None
        settings = DecoderTraining(epochs=self.decoder_epochs, minibatch=min(DecoderTraining.minibatch, len(public)))

        def train(watch: Watch) -> State:
            made = train_decoder(extractor, public.inputs, settings, stream(seed, "decoder"), watch)
            return dict(made.state_dict())

        return decoder_of(stages.run("decoder", train), settings.layout, extractor)

    def _matching(self) -> IRMatching | None:
        if self.inversion == "decoder":
            return None
        kept = UNET if self.inversion == "unet" else REFINED
        return with_fields(kept, iterations=self.iterations) if self.iterations else kept


@dataclass(frozen=True)
class MauiReadout:
    """Reads representations out of the head's gradient, each independent of the others, and inverts them.

    Needs the gradient of the head's first layer, and of its second layer to certify what it reads; nothing else.

    Attributes:
        head: name of the head.
        at: name of its first layer.
        layer: names of that layer's weight and bias.
        matching: the search; None only decodes.
        most: see `Maui`.
        peel: see `Maui`.
        decoder: makes images of the extractor's representations.
    """

    head: str
    at: str
    layer: Layer
    matching: IRMatching | None
    most: int
    peel: bool
    decoder: IRDecoder | None

    def reconstruct(
        self, update: Update, knowledge: ServerKnowledge, rng: torch.Generator, watch: Watch = UNWATCHED
    ) -> Reconstruction:
        """Images, those first whose representations the update itself certifies.

        Raises:
            NotApplicable: the head was not trained.
        """
        told = head_multiple(update, knowledge)
        read = read_representations(update, knowledge, self.layer, peel=self.peel, told=told)
        inputs, objective, notes = self._inverted(read.values, knowledge.model, rng, watch)
        kept = len(inputs)
        certified = int(read.certified.sum())
        if knowledge.num_examples is not None:
            blind = read.leakage_rate(knowledge.num_examples)
            notes = (f"IR leakage rate, judged without the truth: {blind:.3f}.", *notes)
        return Reconstruction(
            inputs=inputs,
            labels=self._labels(read, knowledge.model)[:kept],
            label_method="the head's gradient",
            confidence=read.confidence[:kept].to(inputs),
            objective=objective,
            converged=certified > 0 and certified == (knowledge.num_examples or len(read.values)),
            notes=(f"{certified} representations are certified by the update itself.", *notes),
            origins=tuple(_rows(rows) for rows in read.neurons[:kept]),
            marks=read.marks[:kept],
            representations=read.values[:kept],
        )

    def predict(self, model: Model, z: Tensor) -> Prediction:
        """Which rows each example fires: those that it alone fires show its representation."""
        x = layer_inputs(model, self.at, z)
        fires = x @ model.params[self.layer.weight].T + model.params[self.layer.bias] > 0
        return replace(expected_rows(fires, peel=self.peel), representations=x)

    def _inverted(
        self, values: Float[Tensor, "m d"], model: Model, rng: torch.Generator, watch: Watch
    ) -> tuple[Tensor, tuple[float, ...], tuple[str, ...]]:
        spec, targets = image_spec(model.input), values.to(model.like)
        if len(targets) == 0:
            return model.like.new_zeros(0, *spec.shape), (), ()
        searched = 0 if self.matching is None else min(self.most or len(targets), len(targets))
        parts, objective, notes = list[Tensor](), (), ()
        if self.matching is not None:
            extractor = Extractor(model, self.head)
            matched = match_representations(
                extractor, spec, targets[:searched], self.matching, rng, watch, self.decoder
            )
            parts, objective = [matched.inputs], matched.objective
            middle = float(matched.distance.median())
            notes = (f"{searched} images were searched; the median distance left of a representation is {middle:.3f}.",)
        if self.decoder is not None and searched < len(targets):
            with torch.no_grad():
                parts.append(self.decoder(targets[searched:]))
        return torch.cat(parts), objective, notes

    def _labels(self, read: Representations, model: Model) -> Tensor:
        head = two_layer(model, self.layer)
        if head is None or len(read.values) == 0:
            return read.labels
        predicted = head.logits(head.outputs(read.values)).argmax(1)
        return torch.where(read.labels >= 0, read.labels, predicted)


def _rows(rows: tuple[int, ...]) -> str:
    return f"row {', '.join(map(str, rows))}"


CARD: Card[Tampering] = Card(
    title="Maui",
    paper="Dabholkar et al., 2025, arXiv:2509.11451",
    summary="Trains a head whose gradient leaks the extractor's representations, and inverts them to images.",
    presets={
        "paper": Maui(objective="published", peel=False),
        "quick": Maui(head="quantile", inversion="decoder", decoder_epochs=2),
        "strong": Maui(inversion="refined"),
    },
    role=ServerRole.MALICIOUS_ARCHITECTURE,
    needs=frozenset({Knows.PUBLIC_DATA}),
    iterative=True,
    reads=True,
)

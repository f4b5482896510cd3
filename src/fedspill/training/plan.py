"""Plans of trainings: TOML files, checked key by key, with the sections `model` and `data` of an audit's plan.

A head's has the sections `model`, `data`, `test`, `head` and `spab`.
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, TypeAdapter, ValidationError, model_validator

from fedspill.core.settings import field_names, flat_path, grouped
from fedspill.inversion.generators.training import GeneratorTraining
from fedspill.inversion.representations.autoencoder.training import AutoencoderTraining
from fedspill.inversion.representations.heads.settings import SpAB, told_fields
from fedspill.inversion.representations.heads.weights import Kind
from fedspill.inversion.representations.images.decoder import DecoderShape
from fedspill.inversion.representations.images.decoder_training import DecoderTraining
from fedspill.plan.sections import ModelSection, PoolSection, Section
from fedspill.training.adversary import Adversary
from fedspill.training.trainer import Recipe


class RobustSection(Section):
    """Adversarial training. The defaults suit CIFAR-10 on a GPU (Engstrom et al. 2019, arXiv 1906.00945).

    Attributes:
        epsilon: the adversary's radius for pixels in [0, 1]; 0 trains a natural network.
        steps: of the adversary; 1 is fast adversarial training.
        step_size: None takes 1.25 epsilon for one step, else 2.5 epsilon / steps.
        cutout: side of the square that is blanked.
        held_out: last examples of the data that choose the best epoch and are not trained on.
        schedule: "one cycle", or "steps": the rate is multiplied by `decay` every `period` epochs.
        mixed_precision: float16 on CUDA, bfloat16 on a CPU.
    """

    norm: Literal["l2", "linf"] = "l2"
    epsilon: float = Field(default=0.5, ge=0)
    steps: int = Field(default=7, ge=1)
    step_size: float | None = Field(default=None, gt=0)
    epochs: int = Field(default=150, ge=1)
    minibatch_size: int = Field(default=128, ge=1)
    lr: float = Field(default=0.1, gt=0)
    weight_decay: float = Field(default=5e-4, ge=0)
    schedule: Literal["one cycle", "steps"] = "steps"
    decay: float = Field(default=0.1, gt=0, le=1)
    period: int = Field(default=50, ge=1)
    shift: int = Field(default=4, ge=0)
    cutout: int = Field(default=8, ge=0)
    held_out: int = Field(default=1000, ge=1)
    mixed_precision: bool = False
    seed: int = 0

    @property
    def adversary(self) -> Adversary | None:
        """The adversary of training; None trains a natural network."""
        return Adversary(self.norm, self.epsilon, self.steps, self.step_size) if self.epsilon else None

    def recipe(self) -> Recipe:
        """The section as `Trainer` takes it."""
        return Recipe(
            epochs=self.epochs,
            lr=self.lr,
            weight_decay=self.weight_decay,
            minibatch=self.minibatch_size,
            shift=self.shift,
            schedule=self.schedule,
            decay=self.decay,
            period=self.period,
            cutout=self.cutout,
            adversary=self.adversary,
        )


class TestSection(PoolSection):
    """Examples that only the final figures see.

    Attributes:
        robust_examples: the first ones, on which robust accuracy is measured.
        epsilon: of that adversary; None takes the one of training.
    """

    split: str | None = "test"
    robust_examples: int = Field(default=1000, ge=1)
    epsilon: float | None = Field(default=None, gt=0)
    steps: int = Field(default=20, ge=1)
    restarts: int = Field(default=3, ge=1)


class TestedPlan(Section):
    """A plan with test examples: of the source of `data` where `test` names no other."""

    @model_validator(mode="before")
    @classmethod
    def _same_source(cls, given: Any) -> Any:
        """What `test` leaves out of name, root and the kind of examples is that of `data`."""
        if not isinstance(given, dict) or not isinstance(given.get("data"), dict):
            return given
        test = given.get("test", {})
        if not isinstance(test, dict) or "name" in test:
            return given
        source = {k: v for k, v in given["data"].items() if k not in ("split", "indices")}
        return {**given, "test": {**source, **test}}


class RobustPlan(TestedPlan):
    """All that `fedspill train robust` needs to know."""

    model: ModelSection = ModelSection(name="cnn")
    data: PoolSection = PoolSection(name="cifar10", split="train")
    test: TestSection = TestSection(name="cifar10")
    robust: RobustSection = RobustSection()


class DecoderSection(Section):
    """Training of a decoder from representations to images. The defaults suit CIFAR-10 on 2 CPU cores.

    Attributes:
        at: the head; None finds it (`core.probing.head.head_module`).
        widths: channels at each size, from the smallest; between two sizes both sides double.
        blocks: residual blocks at each size.
        consistency: weight of the representation of what was decoded.
        edges: weight of differences between neighbouring pixels.
        held_out: last examples of the data, on which the decoder is measured and not trained.
    """

    at: str | None = None
    widths: tuple[int, ...] = DecoderShape().widths
    blocks: int = Field(default=DecoderShape().blocks, ge=0)
    epochs: int = Field(default=DecoderTraining().epochs, ge=1)
    minibatch_size: int = Field(default=DecoderTraining().minibatch, ge=1)
    lr: float = Field(default=DecoderTraining().lr, gt=0)
    weight_decay: float = Field(default=DecoderTraining().weight_decay, ge=0)
    consistency: float = Field(default=DecoderTraining().consistency, ge=0)
    edges: float = Field(default=DecoderTraining().edges, ge=0)
    held_out: int = Field(default=1000, ge=1)
    seed: int = 0

    def training(self) -> DecoderTraining:
        """The section as `train_decoder` takes it."""
        return DecoderTraining(
            layout=DecoderShape(self.widths, self.blocks),
            epochs=self.epochs,
            minibatch=self.minibatch_size,
            lr=self.lr,
            weight_decay=self.weight_decay,
            consistency=self.consistency,
            edges=self.edges,
        )


class DecoderPlan(Section):
    """All that `fedspill train decoder` needs to know; `data` is what the server holds, never the clients' images."""

    model: ModelSection = ModelSection(name="cnn")
    data: PoolSection = PoolSection(name="cifar10", split="train")
    decoder: DecoderSection = DecoderSection()


class AutoencoderSection(Section):
    """Training of an encoder and its decoder, see `AutoencoderTraining`. The defaults suit CIFAR-10 on a CPU core.

    Attributes:
        at: the linear layer that gets the latents; "" is the first one that a ReLU and another one follow.
        widths: channels of the decoder at each size, from the smallest; between two sizes both sides double.
        blocks: residual blocks at each size.
        held_out: last examples of the data, on which both are measured and not trained.
    """

    at: str = ""
    widths: tuple[int, ...] = AutoencoderTraining().layout.widths
    blocks: int = Field(default=AutoencoderTraining().layout.blocks, ge=0)
    epochs: int = Field(default=AutoencoderTraining().epochs, ge=1)
    minibatch_size: int = Field(default=AutoencoderTraining().minibatch, ge=2)
    lr: float = Field(default=AutoencoderTraining().lr, gt=0)
    weight_decay: float = Field(default=AutoencoderTraining().weight_decay, ge=0)
    held_out: int = Field(default=1000, ge=1)
    seed: int = 0

    def training(self) -> AutoencoderTraining:
        """The section as `train_autoencoder` takes it."""
        layout = DecoderShape(self.widths, self.blocks)
        return AutoencoderTraining(layout, self.epochs, self.minibatch_size, self.lr, self.weight_decay)


class AutoencoderPlan(Section):
    """All that `fedspill train autoencoder` needs to know; `data` is what the server holds, no client's images."""

    model: ModelSection = ModelSection(name="strided_cnn")
    data: PoolSection = PoolSection(name="cifar10", split="train")
    autoencoder: AutoencoderSection = AutoencoderSection()


class GeneratorSection(Section):
    """Training of an image generator. The defaults suit CIFAR-10 on 2 CPU cores.

    Attributes:
        latent: numbers that an image is made of.
        widths: channels at each size, from the smallest; between two sizes both sides double.
        blocks: residual blocks at each size.
        held_out: last examples of the data, on which the generator is measured and not trained.
        mixed_precision: multiply in bfloat16.
    """

    latent: int = Field(default=GeneratorTraining().latent, ge=1)
    widths: tuple[int, ...] = GeneratorTraining().layout.widths
    blocks: int = Field(default=GeneratorTraining().layout.blocks, ge=0)
    epochs: int = Field(default=GeneratorTraining().epochs, ge=1)
    minibatch_size: int = Field(default=GeneratorTraining().minibatch, ge=2)
    lr: float = Field(default=GeneratorTraining().lr, gt=0)
    held_out: int = Field(default=1000, ge=1)
    mixed_precision: bool = False
    seed: int = 0

    def training(self) -> GeneratorTraining:
        """The section as `train_generator` takes it."""
        return GeneratorTraining(
            layout=DecoderShape(self.widths, self.blocks),
            latent=self.latent,
            epochs=self.epochs,
            minibatch=self.minibatch_size,
            lr=self.lr,
            mixed=self.mixed_precision,
        )


class GeneratorPlan(Section):
    """All that `fedspill train generator` needs to know; `data` is what the server holds, never the clients' images."""

    data: PoolSection = PoolSection(name="cifar10", split="train")
    generator: GeneratorSection = GeneratorSection()


def _known_keys(value: object) -> object:
    if not isinstance(value, dict):
        return value
    names = field_names(SpAB)
    if unknown := [k for k in value if k not in names]:
        raise ValueError(f"{unknown} are unknown; allowed here: {', '.join(names)}")
    try:
        return TypeAdapter(SpAB).validate_python(grouped(SpAB, value))
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{flat_path(SpAB, first['loc'])[0]}: {first['msg']}") from None


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
    spab: Annotated[SpAB, BeforeValidator(_known_keys), PlainSerializer(told_fields)] = SpAB()

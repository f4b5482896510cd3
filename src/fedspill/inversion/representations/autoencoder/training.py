"""An encoder and a decoder trained together on public images; a broken training goes on as if it had not been.

Scale-MIA (arXiv 2311.05808): "surrogate" autoencoder, squared error, Adam with a small weight decay. Its encoder is the
network's own layers, so that their trained weights can be sent to clients.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.errors import BadInput, NotApplicable
from fedspill.core.inputs import image_spec
from fedspill.core.model import Model
from fedspill.core.roles import UNWATCHED, State, Watch
from fedspill.core.types import Params
from fedspill.inversion.network.layers import reaching
from fedspill.inversion.representations.autoencoder.encoder import encoder_names, latents_of, with_encoder
from fedspill.inversion.representations.images.decoder import DecoderShape, IRDecoder, fingerprint, fresh_decoder
from fedspill.inversion.representations.images.decoder_training import DecoderTraining
from fedspill.inversion.representations.images.epochs import Epochs, check_enough

STATISTICS = 1000
"""Public images by which latents are standardised before the first step."""


@dataclass(frozen=True)
class AutoencoderTraining:
    """How both are trained: AdamW, the rate rising for a tenth of the steps and falling by half a cosine.

    Attributes:
        layout: of the decoder. The paper mirrors the encoder.
        epochs: passes over the public images, each one mirrored or not; the paper's code has 350.
        minibatch: images of a step, the paper's code has 50.
        lr: the highest rate.
        weight_decay: of AdamW.

    Raises:
        BadInput: a number is out of range.
    """

    layout: DecoderShape = DecoderShape((64, 48, 32, 24))
    epochs: int = 30
    minibatch: int = 50
    lr: float = 3e-3
    weight_decay: float = 1e-5

    def __post_init__(self) -> None:
        # One image is too few for the statistics of its batch.
        if self.epochs < 1 or self.minibatch < 2 or not self.lr > 0 or not self.weight_decay >= 0:
            raise BadInput(
                f"epochs={self.epochs}, minibatch={self.minibatch}, lr={self.lr}, weight_decay={self.weight_decay}: at"
                " least 1, at least 2, above 0 and at least 0 are needed"
            )

    def rate(self, done: float) -> float:
        """Step size when this share of the steps is done."""
        return DecoderTraining(lr=self.lr).rate(done)


@dataclass(frozen=True)
class Autoencoder:
    """What was trained.

    Attributes:
        encoder: parameters of the layers before the place; none, if they were left as they are.
        decoder: in eval mode, of the latents that these layers give.
    """

    encoder: Params
    decoder: IRDecoder


def train_autoencoder(
    model: Model,
    at: str,
    public: Float[Tensor, "n c h w"],
    settings: AutoencoderTraining,
    rng: torch.Generator,
    watch: Watch = UNWATCHED,
    *,
    moved: bool = True,
) -> Autoencoder:
    """An encoder and a decoder; what the budget allows of them, if that ends first.

    Args:
        model: stays as it is. Its running statistics are taken as they are, in eval mode.
        at: name of the layer that gets the latents.
        public: images as people see them; they may stay on the CPU.
        settings: how.
        rng: on the CPU; of weights, order and mirroring.
        watch: hears of the progress (the mean squared error), keeps the state, ends the training.
        moved: False leaves the encoder as it is, and trains the decoder only.

    Raises:
        BadInput: there are fewer images than one mini-batch.
        NotApplicable: the model takes no images, or nothing before `at` can be trained.
    """
    check_enough(public, settings.minibatch)
    names = encoder_names(model, at) if moved else ()
    if moved and not names:
        raise NotApplicable(f"no parameter of a layer before {at!r} can be trained")
    run = _Run(model, at, names, public, settings, rng)
    run.resume(watch.load())
    run.all_steps(watch)
    return run.result()


class _Run:
    def __init__(
        self,
        model: Model,
        at: str,
        names: tuple[str, ...],
        images: Tensor,
        settings: AutoencoderTraining,
        rng: torch.Generator,
    ) -> None:
        self.spec, self.images, self.settings, self.at = image_spec(model.input), images, settings, at
        self.model = model.in_eval_mode()
        self.represent = reaching(self.model, at)
        self.encoder = {k: model.params[k].detach().clone().requires_grad_() for k in names}
        latents = latents_of(self.model, at).of(images[:STATISTICS])
        self.decoder = fresh_decoder(
            settings.layout, latents.shape[1], self.spec.shape, self.spec.bounds, rng, model.like
        )
        self.decoder.centre.copy_(latents.mean(0))
        self.decoder.spread.fill_(max(float(latents.std(0, correction=0).mean()), 1e-12))
        self.decoder.train()
        weights = [*self.encoder.values(), *self.decoder.parameters()]
        self.optimiser = torch.optim.AdamW(weights, settings.lr, weight_decay=settings.weight_decay)
        seed = int(torch.randint(2**31, (), generator=rng))
        self.epochs = Epochs(images, settings.minibatch, settings.epochs, seed, model.like)

    def all_steps(self, watch: Watch) -> None:
        self.epochs.run(self._step, self.state, watch)

    def _step(self, done: float) -> float:
        images = self.epochs.mini_batch()
        latents = self.represent({**self.model.params, **self.encoder}, self.spec.encode(images)).flatten(1)
        error = (self.decoder(latents) - images).square().mean()
        self.optimiser.zero_grad()
        error.backward()
        for group in self.optimiser.param_groups:
            group["lr"] = self.settings.rate(done)
        self.optimiser.step()
        return float(error.detach())

    def result(self) -> Autoencoder:
        encoder = {k: v.detach() for k, v in self.encoder.items()}
        mark = fingerprint(latents_of(with_encoder(self.model, encoder), self.at))
        self.decoder.fingerprint.copy_(mark)
        return Autoencoder(encoder, self.decoder.eval().requires_grad_(False))

    def state(self) -> State:
        return {
            "done": self.epochs.done,
            "encoder": {k: v.detach() for k, v in self.encoder.items()},
            "decoder": self.decoder.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }

    def resume(self, state: Any) -> None:
        if state is None:
            return
        with torch.no_grad():
            for name, value in self.encoder.items():
                value.copy_(state["encoder"][name])
        self.decoder.load_state_dict(state["decoder"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.epochs.done = state["done"]

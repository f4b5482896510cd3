"""SpAB-training: a two-layer head whose first layer leaks representations (Dabholkar et al. 2025, arXiv 2509.11451).

The paper's objective (section 5.2.2, eq. 8; its values are lost) is cross-entropy + lambda_t * (l1 norm of the columns
of the activation + a softplus term against dead neurons), with lambda_t on a cosine schedule and noise on the first
layer in each epoch. It rewards sparse columns, not examples that own one, and leaves examples that fire no row as they
are. Here the wanted number itself is trained: the probability that an example owns a row in its batch, for several
batch sizes at once (`ownership.expected_leakage`), from rows that fire at different rates. The paper's terms remain.
"""

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedspill.core.roles import UNWATCHED, Watch
from fedspill.inversion.representations.heads.settings import PLAIN, SpAB
from fedspill.inversion.representations.heads.spab_training import HeadTraining
from fedspill.inversion.representations.heads.weights import (
    HeadWeights,
    Kind,
    check_features,
    check_kind,
    default_layers,
    quantile_head,
)


def make_head(
    kind: Kind,
    features: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    classes: int,
    width: int,
    settings: SpAB,
    rng: torch.Generator,
    watch: Watch = UNWATCHED,
) -> HeadWeights:
    """A two-layer head of this kind.

    Args:
        kind: see `heads.Kind`.
        features: public representations, those that the extractor gives to its head.
        labels: theirs.
        classes: of the labels.
        width: rows of the first layer.
        settings: of training; "plain" takes its length from them, "quantile" the rate, "random" nothing.
        rng: on the CPU.
        watch: hears of the epochs and keeps the state; a resumed training gives the head of an unbroken one.

    Raises:
        BadInput: unknown kind, or features and labels do not fit.
    """
    check_kind(kind)
    check_features(features, labels, classes, width)
    if kind == "random":
        return default_layers(features.shape[1], width, classes, rng, features)
    if kind == "quantile":
        return quantile_head(features, classes, width, settings.quantile, rng)
    if kind == "plain":
        schedule = replace(settings.schedule, lr=PLAIN.schedule.lr)
        sizes = replace(PLAIN.expected, sizes=settings.expected.sizes)
        settings = replace(PLAIN, schedule=schedule, expected=sizes, decay=settings.decay, mislabel=settings.mislabel)
    return HeadTraining(features, labels.to(features.device), classes, width, settings, rng, watch).run()

"""One picture per class out of the gradient of a model that is one linear layer.

Fowl et al.: "Robbing the Fed", ICLR 2022, arXiv:2110.13057, section 3.2, eq. 3 and Fig. 11: the naive baseline.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.errors import NotApplicable
from fedspill.core.inputs import ImageSpec, TableSpec
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedSGD, local_update
from fedspill.core.model import Model
from fedspill.core.roles import UNWATCHED, Attack, Card, Watch
from fedspill.core.types import Batch, Mark, Reconstruction, Update
from fedspill.inversion.gradients.layer import Layer, LayerGradient, layer_gradient
from fedspill.inversion.gradients.losses import evidence, is_cross_entropy
from fedspill.inversion.network.trace import first_linear, trace
from fedspill.inversion.objective.distances import cosine_distance

ALIKE = 0.1
"""Cosine distance of the pictures' own gradient to the update, beyond which they do not explain it: noise, or pictures
of which the others' probabilities have left nothing."""


@dataclass(frozen=True)
class LogisticRegression:
    """Divides the row of each class that is present by its bias: x_c = dW_c / db_c.

    Row c of the gradient is the mean of (p_c - [y = c]) x, which example y = c dominates; the others add their p_c, so
    that the picture is never quite exact. Examples of one class come back as their mean.

    Attributes:
        floor: bias gradients below this share of the largest are not divided by.
    """

    floor: float = 1e-3

    def reconstruct(
        self, update: Update, knowledge: ServerKnowledge, rng: torch.Generator, watch: Watch = UNWATCHED
    ) -> Reconstruction:
        """One picture per class; converged means that every class present holds one example, and that they explain it.

        They do where their own gradient has the direction of the update.

        Raises:
            NotApplicable: the model is more than one linear layer, or the layer was not trained.
        """
        model = knowledge.model
        layer = _only_layer(model)
        gradient = layer_gradient(update, knowledge, layer)
        counts = _counts(gradient, knowledge)
        top = float(gradient.bias.abs().max())
        present = ((counts != 0) & (gradient.bias.abs() > self.floor * top)).nonzero()[:, 0]
        number = counts[present].tolist()
        inputs, labels = self._inputs(model, gradient, present), present.to(model.like.device)
        apart = len(present) == knowledge.num_examples
        # Columns that were not sent are pixels of 0 in both.
        spoiled = knowledge.defence is not None and layer.weight in knowledge.defence.left_out
        explained = apart and not spoiled and _explained(model, Batch(inputs, labels), layer, gradient)
        one: Mark = "alone" if explained or not apart else "unsure"
        marks: list[Mark] = [one if c == 1 else "unsure" if c < 0 else "mixture" for c in number]
        return Reconstruction(
            inputs=inputs,
            labels=labels,
            label_method=None if knowledge.labels is not None else "sign of the bias gradient",
            confidence=model.like.new_tensor([0.5 if m != "mixture" else 0.1 for m in marks]),
            converged=explained,
            notes=("The other examples' probabilities of a class stay mixed into its picture.",),
            origins=tuple(f"class {c}" for c in present.tolist()),
            marks=tuple(marks),
        )

    def _inputs(self, model: Model, gradient: LayerGradient, present: Tensor) -> Float[Tensor, "m ..."]:
        ratio = gradient.weight[present] / gradient.bias[present, None]
        return model.input.decode(ratio.view(-1, *model.input.encoded_shape)).to(model.like)


def _only_layer(model: Model) -> Layer:
    traced = trace(model)
    step, steps = first_linear(traced, model.input), [s for s in traced.steps if not s.passes()]
    weight, bias = step.parameter("weight"), step.parameter("bias")
    if not traced.is_chain() or steps != [step] or weight is None or bias is None:
        raise NotApplicable(f"a model of one linear layer with a bias is needed; this one has {len(steps)} layers")
    return Layer(weight, bias)


def _explained(model: Model, pictures: Batch, layer: Layer, gradient: LayerGradient) -> bool:
    """Whether the pictures' own gradient is the layer's but for a factor; taken for granted with other losses."""
    if not is_cross_entropy(model):
        return True
    own = local_update(model, pictures, FedSGD()).values
    seen = {layer.weight: gradient.weight.double(), layer.bias: gradient.bias.double()}
    return float(cosine_distance({k: own[k].double() for k in seen}, seen)) <= ALIKE


def _counts(gradient: LayerGradient, knowledge: ServerKnowledge) -> Tensor:
    """Examples of each class; -1 for some, of classes whose bias gradient is negative, if labels are not granted."""
    granted = knowledge.labels is not None and not knowledge.labels.is_floating_point()
    if not granted and not evidence(knowledge.model).opposed:
        raise NotApplicable("classes are read from signs, which this loss does not give to the example's class alone")
    if granted and knowledge.labels is not None:
        return torch.bincount(knowledge.labels.flatten(), minlength=len(gradient.bias)).to(gradient.bias.device)
    labels = -(gradient.bias < 0).long()
    # As many classes as examples: then each holds one.
    return labels.abs() if int(labels.abs().sum()) == knowledge.num_examples else labels


CARD: Card[Attack] = Card(
    title="Logistic regression leakage",
    paper="Fowl et al., ICLR 2022, arXiv:2110.13057, eq. 3",
    summary="Reads one picture per class off the gradient of a model that is one linear layer.",
    presets={"paper": LogisticRegression(), "quick": LogisticRegression()},
    accepts=frozenset({ImageSpec, TableSpec}),
)

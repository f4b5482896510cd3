"""A network and its loss as pure functions of parameters and encoded inputs."""

from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from fedspill.core.errors import BadInput, some
from fedspill.core.inputs import InputSpec, TokenSpec
from fedspill.core.module.answers import is_log_probabilities, logits_of, of_log_probabilities
from fedspill.core.module.calling import called
from fedspill.core.module.twins import copied
from fedspill.core.module.unwrapping import check_usable, materialised, unwrapped
from fedspill.core.types import Encoded, LossFn, Params

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
"""Layers that hold running statistics and, in train mode, mix the examples of a batch."""


class Stochastic(nn.Module):
    """A layer that is random by design: while its own `training` is on it draws, in eval mode of the network too.

    What it draws it takes from PyTorch's global generators, as dropout does.

    Attributes:
        given: what it takes instead of a draw, for one example (1, ...) or as many as there are; None draws.
    """

    given: Tensor | None = None

    def drawn(self, entered: Tensor, left: Tensor) -> Tensor:
        """What was drawn (n, ...), if this is what entered the layer and what left it."""
        raise NotImplementedError


def next_token_loss(logits: Float[Tensor, "n t v"], labels: Tensor) -> Float[Tensor, ""]:
    """Mean cross-entropy over all positions of all sentences; labels are tokens (n, t) or probabilities (n, t, v)."""
    return functional.cross_entropy(logits.flatten(0, 1), labels.flatten(0, 1))


@dataclass(frozen=True)
class Model:
    """Architecture, parameters, loss and input. The module is a template; its own weights are never read.

    Attributes:
        training: BatchNorm uses batch statistics and dropout is on; False is eval mode.
        masks: in train mode, dropout and its kin are on; False leaves batch statistics alone. Layers that are
            `Stochastic` draw in either mode, unless this is False.
        frozen: names of parameters that take no gradient (`requires_grad` is False), which no client trains.

    Example:
        >>> import fedspill, torch
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 10))
        >>> model = fedspill.Model.of(net, fedspill.ImageSpec((3, 8, 8), mean=(0.5,), std=(0.25,)))
        >>> model.logits(model.params, model.input.encode(torch.rand(2, 3, 8, 8))).shape
        torch.Size([2, 10])
    """

    module: nn.Module
    params: Params
    buffers: Params
    loss_fn: LossFn
    input: InputSpec
    training: bool = False
    masks: bool = True
    frozen: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if any(m.training is not self._mode(m) for m in self.module.modules()):
            # A template shared with a Model in the other mode must not change under its feet.
            template = copied(self.module)
            for module in template.modules():
                module.training = self._mode(module)
            object.__setattr__(self, "module", template)

    def _mode(self, module: nn.Module) -> bool:
        if isinstance(module, Stochastic):
            return self.masks
        return self.training and (self.masks or isinstance(module, BATCH_NORMS))

    @classmethod
    def of(
        cls,
        module: nn.Module,
        input: InputSpec,
        loss_fn: LossFn = functional.cross_entropy,
        *,
        training: bool = False,
    ) -> "Model":
        """A Model with the weights that `module` has now, and of its parameters those frozen that take no gradient.

        Wrappers of `torch.compile`, `DataParallel`, DDP and Opacus are taken off, so that names are the network's own;
        lazy layers get their shapes.

        Raises:
            BadInput: the network is a TorchScript module, or a parameter has no dense, real, floating values.
        """
        module = materialised(unwrapped(module), _blank(input))
        check_usable(module)
        named = dict(module.named_parameters())
        params = {k: v.detach().clone() for k, v in named.items()}
        buffers = {k: v.detach().clone() for k, v in module.named_buffers()}
        frozen = frozenset(k for k, v in named.items() if not v.requires_grad)
        return cls(module, params, buffers, loss_fn, input, training, frozen=frozen).with_loss(loss_fn)

    def with_loss(self, loss_fn: LossFn) -> "Model":
        """This model with another loss; of a network that ends in a log-softmax, with what that is by the logits."""
        by_logits = of_log_probabilities(loss_fn)
        if by_logits is loss_fn:
            return replace(self, loss_fn=loss_fn)
        outputs = self.in_eval_mode().logits(self.params, self._blank())
        return replace(self, loss_fn=by_logits if is_log_probabilities(outputs) else loss_fn)

    def _blank(self) -> Tensor:
        blank = _blank(self.input)
        return blank.to(self.like) if blank.is_floating_point() else blank.to(self.like.device)

    def forward(self, params: Params, buffers: Params, z: Tensor) -> tuple[Tensor, Params]:
        """Logits, and the buffers afterwards; nothing that was passed in is written to, nor is the module.

        Raises:
            BadInput: the network returns something in which no logits can be told.
        """
        answer, after = called(self.module, params, buffers, z)
        return logits_of(answer), after

    def logits(self, params: Params, z: Encoded) -> Tensor:
        """The network's output for encoded inputs, before any softmax."""
        return self.forward(params, self.buffers, z)[0]

    def loss(self, params: Params, z: Encoded, labels: Tensor) -> Float[Tensor, ""]:
        """The mean loss; `labels` are classes, or class probabilities (n, classes), or next tokens (n, t)."""
        return self.loss_fn(self.logits(params, z), labels)

    def with_params(self, params: Params, buffers: Params | None = None) -> "Model":
        """This model with other weights.

        Raises:
            BadInput: names or shapes differ from the model's, or a value is not finite.
        """
        checked = conform(params, self.params, "parameter")
        kept = self.buffers if buffers is None else conform(buffers, self.buffers, "buffer")
        return replace(self, params=checked, buffers=kept)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> "Model":
        """This model on another device, and in another floating dtype if one is given."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, dtype if tensor.is_floating_point() else None)

        return replace(
            self,
            params={k: move(v) for k, v in self.params.items()},
            buffers={k: move(v) for k, v in self.buffers.items()},
        )

    def in_eval_mode(self) -> "Model":
        """This model with running statistics and without dropout: no example's output depends on others."""
        return replace(self, training=False, masks=self.masks and not self.is_stochastic)

    def without_masks(self) -> "Model":
        """This model in its mode, but without dropout, stochastic depth and the like."""
        return replace(self, masks=False) if self.training or self.is_stochastic else self

    @property
    def is_stochastic(self) -> bool:
        """Whether a layer is random by design, so that eval mode alone does not still it."""
        return any(isinstance(m, Stochastic) for m in self.module.modules())

    def trained_names(self, trainable: tuple[str, ...] | None) -> list[str]:
        """Names of the parameters that a client trains, in the model's order.

        Args:
            trainable: exact names, or patterns (`fnmatch`), which select frozen parameters too; None, or "*" alone, is
                whatever takes a gradient.

        Raises:
            BadInput: a pattern selects nothing, or nothing takes a gradient.
        """
        names = list(self.params)
        if trainable is None or trainable == ("*",):
            free = [name for name in names if name not in self.frozen]
            if not free:
                raise BadInput(
                    "no parameter takes a gradient (requires_grad is False for all); `trainable` can name some"
                )
            return free
        exact = frozenset(names).intersection(trainable)
        patterns = [pattern for pattern in trainable if pattern not in exact]
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise BadInput(f"trainable={pattern!r} matches none of the parameters {some(names)}")
        return [n for n in names if n in exact or any(fnmatchcase(n, p) for p in patterns)]

    def own_module(self) -> nn.Module:
        """A copy of the network that holds this model's parameters, as constants, and buffers: to be called, or cut."""
        return copied(self.module, {**self.params, **self.buffers})

    @property
    def like(self) -> Tensor:
        """A parameter to copy device and dtype from.

        Raises:
            BadInput: there is none.
        """
        for value in self.params.values():
            return value
        raise BadInput(f"{type(self.module).__name__} has no parameters, so a client that trains it sends nothing")


def _blank(spec: InputSpec) -> Tensor:
    """One encoded input of zeros, to give lazy layers their shapes."""
    return torch.zeros(1, *spec.encoded_shape, dtype=torch.long if isinstance(spec, TokenSpec) else None)


def conform(got: Params, template: Params, what: str) -> Params:
    """`got` in the order, device and dtype of `template`.

    Raises:
        BadInput: names or shapes differ, or a value is not finite.
    """
    missing, unknown = [k for k in template if k not in got], [k for k in got if k not in template]
    if missing or unknown:
        raise BadInput(
            f"{what} names do not fit the model: missing {some(missing)}, unknown {some(unknown)};"
            f" the model has {some(template)}"
        )
    for name, tensor in template.items():
        if got[name].shape != tensor.shape:
            raise BadInput(f"{what} {name!r} has shape {tuple(got[name].shape)}, the model needs {tuple(tensor.shape)}")
        if not got[name].isfinite().all():
            raise BadInput(f"{what} {name!r} holds NaN or infinite values; finite numbers are needed")
    return {k: got[k].detach().to(v) for k, v in template.items()}


def parameter_name(module_name: str, parameter: str) -> str:
    """The name of a module's own parameter among the parameters of the whole network."""
    return f"{module_name}.{parameter}" if module_name else parameter

"""Networks from elsewhere: torchvision, timm, transformers, and the user's own modules.

None of these libraries is needed or imported unless a plan names one of its networks; none is let download.
"""

import importlib
import inspect
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from torch import nn

from fedspill.core.errors import BadInput
from fedspill.core.libraries.named import named
from fedspill.core.libraries.vision import import_torchvision
from fedspill.core.model import Model

Shape = tuple[int, int, int]


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise BadInput(f"{name} cannot be imported ({error}); install it: pip install 'fedspill[vision]'") from error
    except Exception as error:  # a library that does not fit the installed torch fails in any way
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BadInput(f"{name} is installed but cannot be imported: {reason}") from error


def _call(what: str, make: Callable[[], Any]) -> nn.Module:
    """A library's answer to a name or an option that it does not know becomes one line."""
    try:
        made = make()
    except Exception as error:  # every library has its own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BadInput(f"{what} cannot be built: {reason}") from error
    if not isinstance(made, nn.Module):
        raise BadInput(f"{what} gave a {type(made).__name__}; a torch.nn.Module is needed")
    return made


def from_torchvision(name: str, shape: Shape, num_classes: int, options: Mapping[str, Any]) -> nn.Module:
    """A torchvision classifier with untrained weights; options go to its constructor."""
    import_torchvision()
    models = importlib.import_module("torchvision.models")
    if shape[0] != 3:
        raise BadInput(f"torchvision:{name} takes 3 colour channels, the data has {shape[0]}")
    settings = {"weights": None, "num_classes": num_classes, **options}
    return _call(f"torchvision:{name}", lambda: models.get_model(name, **settings))


def from_timm(name: str, shape: Shape, num_classes: int, options: Mapping[str, Any]) -> nn.Module:
    """A timm classifier with untrained weights; options go to `timm.create_model`."""
    import_torchvision()
    timm = _import("timm")
    settings = {"pretrained": False, "num_classes": num_classes, "in_chans": shape[0], **options}
    return _call(f"timm:{name}", lambda: timm.create_model(name, **settings))


def from_hf(name: str, shape: Shape, num_classes: int, options: Mapping[str, Any]) -> nn.Module:
    """A transformers image classifier built from its configuration only; options override the configuration.

    The name is a folder with a config.json, or a model whose configuration lies in the local cache.
    """
    transformers = _import("transformers")
    settings = {"num_labels": num_classes, "image_size": shape[1], "num_channels": shape[0], **options}

    def make() -> nn.Module:
        config = transformers.AutoConfig.from_pretrained(name, local_files_only=True, **settings)
        return transformers.AutoModelForImageClassification.from_config(config)

    module = _call(f"hf:{name}", make)
    # A hook, not a wrapper: parameter names stay those of the library's checkpoints.
    module.register_forward_hook(_logits_only)
    return module


def _logits_only(module: nn.Module, inputs: Any, output: Any) -> Any:
    return output.logits


LIBRARIES: dict[str, Callable[[str, Shape, int, Mapping[str, Any]], nn.Module]] = {
    "torchvision": from_torchvision,
    "timm": from_timm,
    "hf": from_hf,
}


def from_user(name: str, options: Mapping[str, Any], num_classes: int | None = None) -> nn.Module | Model:
    """What the user's own `package.module:factory` returns when called with the options.

    Modules in the current folder are found too.

    Args:
        num_classes: what somebody asks for, which a factory is called with if it takes it; None if nobody does.

    Raises:
        BadInput: no such module or factory, or it returns something else.
    """
    factory = named(name, "model", "factory")
    if num_classes is not None and _takes(factory, "num_classes"):
        options = {"num_classes": num_classes, **options}
    made: list[Model] = []

    def make() -> Any:
        result = factory(**options)
        if isinstance(result, Model):
            made.append(result)
            return result.module
        return result

    module = _call(f"model {name!r}", make)
    return made[0] if made else module


def _takes(factory: Callable[..., Any], name: str) -> bool:
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):  # of C, or no function at all
        return False
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return any(p.kind is p.VAR_KEYWORD or (p.name == name and p.kind in by_name) for p in parameters.values())

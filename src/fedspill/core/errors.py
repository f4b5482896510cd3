"""The errors that fedspill raises; each message names what was got and what is needed."""

from collections.abc import Iterable


def few(names: Iterable[object], most: int = 3) -> str:
    """Names for a sentence: "a, b", or of a long list the first ones and how many there are in all.

    Args:
        most: names that are written.
    """
    every = [str(name) for name in names]
    if len(every) <= most:
        return ", ".join(every)
    return f"{', '.join(every[:most])}, ... ({len(every)} in all)"


def some(names: Iterable[str], most: int = 3) -> str:
    """The same as Python writes a list, for names that may be empty or odd: ['a', 'b']."""
    every = list(names)
    return str(every[:most])[:-1] + (f", ... {len(every)} in all]" if len(every) > most else "]")


class FedspillError(Exception):
    """Base of every error that fedspill raises on purpose."""


class BadInput(FedspillError, ValueError):
    """The user's plan, file, model or data cannot be used as given (exit code 2).

    Example:
        >>> import fedspill
        >>> try:
        ...     fedspill.audit({"audit": {"attacks": ["dgl"]}})
        ... except fedspill.BadInput as error:
        ...     print(error)
        unknown attack 'dgl'; there are ...
    """


class NotApplicable(FedspillError):
    """An attack or a tampering does not fit this model, update or knowledge; says why.

    Example:
        >>> import fedspill, torch
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 10))
        >>> update = {name: torch.ones_like(p) for name, p in net.named_parameters()}
        >>> try:
        ...     fedspill.attack(update, net, attack="linear_layer", num_examples=1, shape=(3, 8, 8), normalise=None)
        ... except fedspill.NotApplicable as error:
        ...     print("does not fit")
        does not fit
    """


class NobodyIsolated(NotApplicable):
    """The update of this batch holds nobody whom a tampering isolates; that of another batch may."""

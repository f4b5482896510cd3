"""The errors that fedspill raises; each message names what was got and what is needed."""


class FedspillError(Exception):
    """Base of every error that fedspill raises on purpose."""


class BadInput(FedspillError, ValueError):
    """The user's plan, file, model or data cannot be used as given (exit code 2)."""


class NotApplicable(FedspillError):
    """An attack or a tampering does not fit this model, update or knowledge; says why."""

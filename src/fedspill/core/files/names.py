"""Which name of a file is which of the model's: nests, prefixes, wrappers, tied weights, and lists in an order."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from fedspill.core.files.contents import BORDER

NESTS = ("state_dict", "model_state_dict", "model")
"""Keys under which training scripts keep the weights among other things, the likeliest first."""
WRAPPERS = {"module", "_orig_mod", "_module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
"""Children by which DataParallel, DDP, torch.compile, Opacus, FSDP and checkpointing wrap a module."""
NUMBERED = re.compile(r"(?:arr_|array_|param_|parameter_)?(\d+)")


@dataclass(frozen=True)
class Found:
    """Names of a file beside the model's.

    Attributes:
        places: name in the file to name in the model, of which several may stand for one tied tensor.
        prefix: of the file's names, as far as the model's are without it.
        rivals: other prefixes that would have named as many.
    """

    places: Mapping[str, str]
    prefix: str = ""
    rivals: tuple[str, ...] = ()


def aliases(module: nn.Module) -> dict[str, str]:
    """Every name of every parameter and buffer, with the one that the model goes by: tied weights have several."""
    first, names = dict[int, str](), dict[str, str]()
    for listed in (module.named_parameters, module.named_buffers):
        for name, tensor in listed(remove_duplicate=False):
            names[name] = first.setdefault(id(tensor), name)
    return names


def match(given: Sequence[str], targets: Sequence[str]) -> Found:
    """The names in a file that are the model's, under the prefix by which most of them are.

    Names as they are go before names without wrappers, and these before those of which a prefix is left out.
    """
    best, most = Found({}), 0
    for plain in (_dotted, _unwrapped):
        if len({plain(t) for t in targets}) < len(targets):
            continue  # the model has a child of its own by the name of a wrapper
        for left_out in _common_prefixes([plain(t) for t in targets]):
            wanted = {plain(t)[len(left_out) :]: t for t in targets}
            found = _under_one_prefix(given, wanted, plain)
            if len(set(found.places.values())) > most:
                best, most = found, len(set(found.places.values()))
    return best


def _dotted(name: str) -> str:
    return name.replace(BORDER, ".")


def _unwrapped(name: str) -> str:
    return ".".join(part for part in _dotted(name).split(".") if part not in WRAPPERS)


def _common_prefixes(names: Sequence[str]) -> Iterator[str]:
    """No prefix, and every chain of modules that all names begin with."""
    yield ""
    split = [name.split(".")[:-1] for name in names]
    shared = list[str]()
    for parts in zip(*split, strict=False):
        if len(set(parts)) > 1:
            return
        shared.append(parts[0])
        yield "".join(f"{part}." for part in shared)


def _under_one_prefix(given: Sequence[str], wanted: Mapping[str, str], plain: Callable[[str], str]) -> Found:
    counts = Counter(prefix for name in given for prefix in _prefixes(plain(name), wanted))
    if not counts:
        return Found({})
    most = max(counts.values())
    equal = sorted((p for p, count in counts.items() if count == most), key=_likelihood)
    chosen = equal[0]
    places = {n: wanted[plain(n)[len(chosen) :]] for n in given if chosen in _prefixes(plain(n), wanted)}
    return Found(places, chosen, tuple(equal[1:]))


def _prefixes(name: str, wanted: Mapping[str, str]) -> Iterator[str]:
    """What a name has before one that is wanted, if it ends in one."""
    at = 0
    while True:
        if name[at:] in wanted:
            yield name[:at]
        at = name.find(".", at) + 1
        if not at:
            return


def _likelihood(prefix: str) -> tuple[int, str]:
    first = prefix.partition(".")[0]
    return (NESTS.index(first) + 1 if first in NESTS else len(NESTS) + 1 if first else 0, prefix)


def nest(names: Sequence[str]) -> str:
    """The nested mapping that all these names lie in, with its border; "" for the file itself."""
    paths = [name.split(BORDER)[:-1] for name in names]
    shared = list[str]()
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return "".join(f"{part}{BORDER}" for part in shared)


def in_order(names: Sequence[str]) -> list[str] | None:
    """The names of a list's members in its order; None of names that are no numbers from 0."""
    numbers = {n: m for n in names if (m := NUMBERED.fullmatch(n)) is not None}
    if len(numbers) < len(names):
        return None
    ordered = sorted(names, key=lambda n: int(numbers[n][1]))
    return ordered if [int(numbers[n][1]) for n in ordered] == list(range(len(names))) else None

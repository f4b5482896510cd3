"""Components of the catalogue, configured as the entries of a plan say."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from fedspill import catalogue
from fedspill.core.errors import BadInput, NotApplicable
from fedspill.core.inputs import InputSpec, kind
from fedspill.core.knowledge import Knows
from fedspill.core.roles import Attack, Card, Defence, Tampering
from fedspill.core.settings import field_names, flat_path, grouped, plain_fields
from fedspill.core.types import ServerRole
from fedspill.plan.sections import STANDARD, AttackEntry, AuditPlan

_ROLES = list(ServerRole)


@dataclass(frozen=True)
class Chosen:
    """One world of an audit: an attack on the plan's model, or a tampering that brings its own readout.

    Attributes:
        explicit: named in the plan; False for those that "standard" added, which may turn out not to fit.
    """

    name: str
    preset: str
    label: str
    card: Card[Any]
    component: Attack | Tampering
    explicit: bool


@dataclass(frozen=True)
class ChosenDefence:
    """A defence of a plan, with its fields set."""

    name: str
    preset: str
    label: str
    card: Card[Defence]
    component: Defence


@dataclass(frozen=True)
class ChosenTampering:
    """The tampering of a plan, with its fields set."""

    label: str
    card: Card[Tampering]
    component: Tampering


@dataclass(frozen=True)
class Components:
    """Every component of a plan.

    Attributes:
        worlds: in the order of the plan.
        defences: what every client applies, in this order.
        tampering: on whose model the attacks are run, if any.
    """

    worlds: tuple[Chosen, ...]
    defences: tuple[ChosenDefence, ...]
    tampering: ChosenTampering | None


def configure(card: Card[Any], entry: AttackEntry, what: str) -> Any:
    """The preset with the entry's fields changed, those of groups by their own names.

    Raises:
        BadInput: a field does not exist or has a value of the wrong type, or fields do not go together.
    """
    component = card.presets[entry.preset]
    kind, known = type(component), field_names(type(component))
    unknown = [k for k in entry.overrides if k not in known]
    if unknown:
        raise BadInput(f"{what} {entry.name!r} has no field {', '.join(map(repr, unknown))}; it has {', '.join(known)}")
    if not entry.overrides:
        return component
    merged = plain_fields(component)
    for key, value in entry.overrides.items():
        nested = isinstance(value, dict) and isinstance(merged[key], dict)
        merged[key] = {**merged[key], **value} if nested else value
    try:
        return TypeAdapter(kind).validate_python(grouped(kind, merged))
    except ValidationError as error:
        first = error.errors()[0]
        path = flat_path(kind, first["loc"])
        if not path:  # of fields that do not go together
            raise BadInput(f"{what} {entry.name!r}: {first['msg'].removeprefix('Value error, ')}") from None
        where = ".".join(map(str, path))
        raise BadInput(f"{what} {entry.name!r}, field {where!r}: {first['msg']} (got {first['input']!r})") from None


def choose(plan: AuditPlan) -> list[Chosen]:
    """The worlds of a plan, in its order.

    Raises:
        BadInput: unknown names, presets or fields, or an attack that needs more than the plan grants.
    """
    chosen = list[Chosen]()
    for entry in plan.audit.attacks:
        chosen += _standard(plan, entry) if entry.name == "standard" else [_one(plan, entry)]
    if not chosen:
        raise BadInput("audit.attacks is empty; name at least one attack, or 'standard'")
    labels = [c.label for c in chosen]
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise BadInput(f"audit.attacks names {', '.join(twice)} twice")
    return chosen


def _one(plan: AuditPlan, entry: AttackEntry) -> Chosen:
    cards: Mapping[str, Card[Any]] = catalogue.attacks()
    if entry.name not in cards:
        tamperings = catalogue.tamperings()
        if entry.name in tamperings and not tamperings[entry.name].reads:
            raise BadInput(f"{entry.name!r} brings no readout of its own; name it in server.tampering instead")
        cards = {**cards, **_readable()}
    catalogue.pick(cards, f"{entry.name}:{entry.preset}", "attack")
    card = cards[entry.name]
    missing = card.needs - _grants(plan)
    if missing:
        raise BadInput(
            f"attack {entry.name!r} needs {sorted(k.value for k in missing)}, which server.knows ="
            f" {[k.value for k in plan.server.knows]} does not grant"
        )
    component = configure(card, entry, "attack")
    return Chosen(entry.name, entry.preset, entry.label, card, component, explicit=True)


def _standard(plan: AuditPlan, entry: AttackEntry) -> list[Chosen]:
    """Every attack whose needs are met, and every readable tampering that the server is willing to do.

    Those of other packages are among them if their cards say `standard`.

    "standard" itself is the schedule of `fedspill.auditing.scheduling.shares` over the strongest preset of each;
    "standard:paper" takes the published ones, "standard:quick" and "standard:strong" those of that name where a
    component has one.
    """
    if entry.overrides:
        raise BadInput(f"'standard' has no fields of its own, got {', '.join(entry.overrides)}")
    cards: dict[str, Card[Any]] = {**catalogue.attacks(), **_readable()}
    limit = _ROLES.index(plan.server.role)
    cards = {n: c for n, c in cards.items() if c.in_standard}
    fitting = {n: c for n, c in cards.items() if c.needs <= _grants(plan) and _ROLES.index(c.role) <= limit}
    wanted = "strong" if entry.preset == STANDARD else entry.preset
    presets = {n: wanted if wanted in c.presets else "paper" for n, c in fitting.items()}
    if fitting and wanted not in presets.values():
        raise BadInput(f"no attack has a preset {entry.preset!r}; 'standard' has {STANDARD}, paper, quick, strong")
    return [
        Chosen(n, presets[n], f"{n}:{presets[n]}", c, c.presets[presets[n]], explicit=False) for n, c in fitting.items()
    ]


def misfit(card: Card[Any], spec: InputSpec) -> str | None:
    """Why a component does not work on inputs of this kind, if so."""
    if isinstance(spec, tuple(card.accepts)):
        return None
    return f"it works on {' and '.join(sorted(map(kind, card.accepts)))}; the data are {kind(type(spec))}"


def components_of(plan: AuditPlan) -> Components:
    """Every component of a plan, with its fields set.

    Raises:
        BadInput: unknown names, presets or fields, or an attack that needs more than the plan grants.
    """
    return Components(tuple(choose(plan)), tuple(defences_of(plan)), tampering_of(plan))


def check_kinds(components: Components, spec: InputSpec) -> None:
    """Tells at once what would only come out when its turn has come.

    Raises:
        NotApplicable: an attack, a defence or a tampering that the plan names does not work on inputs of this kind.
    """
    tampering = () if components.tampering is None else (components.tampering,)
    for named in (*(w for w in components.worlds if w.explicit), *components.defences, *tampering):
        if (reason := misfit(named.card, spec)) is not None:
            raise NotApplicable(f"{named.label!r} does not apply: {reason}")


def _grants(plan: AuditPlan) -> frozenset[Knows]:
    granted = frozenset(plan.server.granted)
    return granted | {Knows.NUM_EXAMPLES} if Knows.LABELS in granted else granted


def _readable() -> dict[str, Card[Any]]:
    return {n: c for n, c in catalogue.tamperings().items() if c.reads}


def defences_of(plan: AuditPlan) -> list[ChosenDefence]:
    """What every client applies, in the plan's order.

    Raises:
        BadInput: unknown names, presets or fields, or fields that do not go together.
    """
    cards, chosen = catalogue.defences(), list[ChosenDefence]()
    for entry in plan.defences:
        name, preset, card = catalogue.pick(cards, f"{entry.name}:{entry.preset}", "defence")
        chosen.append(ChosenDefence(name, preset, entry.label, card, configure(card, entry, "defence")))
    return chosen


def tampering_of(plan: AuditPlan) -> ChosenTampering | None:
    """The tampering on whose model the plan's attacks are run, if any; of its readout no more is used than it isolates.

    Raises:
        BadInput: unknown name, preset or field.
    """
    entry = plan.server.tampering
    if entry is None:
        return None
    cards = catalogue.tamperings()
    _, _, card = catalogue.pick(cards, f"{entry.name}:{entry.preset}", "tampering")
    return ChosenTampering(entry.label, card, configure(card, entry, "tampering"))

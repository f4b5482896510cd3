"""The federation of a plan: who holds which examples, which rounds are run, and what of them is attacked."""

from dataclasses import dataclass
from itertools import accumulate

from fedspill.core.errors import BadInput
from fedspill.core.local_training.protocol import LocalTraining
from fedspill.core.roles import Stages
from fedspill.core.types import Batch
from fedspill.federation.rounds import Federation, ServerStep
from fedspill.plan.sections import ClientSection, FederationSection


@dataclass(frozen=True)
class Observation:
    """What one trial attacks.

    Attributes:
        round: from 0.
        clients: whose examples are behind it.
        by_client: the client that looks on; None is the server.
    """

    round: int
    clients: tuple[int, ...]
    by_client: int | None = None


@dataclass(frozen=True)
class Rounds:
    """The federation of an audit.

    Attributes:
        held: positions in the pool of each client's examples.
        observations: one for each update that is attacked.
    """

    federation: Federation
    held: tuple[tuple[int, ...], ...]
    observations: tuple[Observation, ...]

    @property
    def count(self) -> int:
        """How many rounds must be run to see all that is attacked."""
        return max(o.round for o in self.observations) + 1

    def groups(self) -> list[list[int]]:
        """For each observation the positions of the examples behind it."""
        return [[i for k in o.clients for i in self.held[k]] for o in self.observations]


def rounds_of(
    section: FederationSection,
    client: ClientSection,
    examples: Batch,
    training: LocalTraining,
    defences: tuple[Stages, ...],
    draws: bool,
) -> Rounds:
    """The rounds that a plan asks for.

    Args:
        section: of the plan.
        client: of the plan.
        examples: the private pool, the first of which the clients hold.
        training: of every client.
        defences: of every client.
        draws: whether clients draw anything.

    Raises:
        BadInput: there are too few examples, or the client that looks on takes no part.
    """
    held = _held(section, client, len(examples))
    server = ServerStep(section.server_lr or 1.0, section.server_momentum)
    private = tuple(examples[list(places)] for places in held)
    federation = Federation(private, training, server, section.participation, defences, draws)
    observed = section.observed or (section.rounds - 1,)
    return Rounds(federation, held, tuple(o for number in observed for o in _seen(section, federation, number)))


def sizes_of(section: FederationSection, client: ClientSection) -> tuple[int, ...]:
    """Examples of every client."""
    return section.sizes or (client.num_examples // client.clients,) * client.clients


def _held(section: FederationSection, client: ClientSection, count: int) -> tuple[tuple[int, ...], ...]:
    sizes = sizes_of(section, client)
    if sum(sizes) > count:
        raise BadInput(f"federation: clients of {list(sizes)} examples need {sum(sizes)}, the data has {count}")
    ends = list(accumulate(sizes))
    return tuple(tuple(range(end - size, end)) for end, size in zip(ends, sizes, strict=True))


def _seen(section: FederationSection, federation: Federation, number: int) -> list[Observation]:
    asked = federation.asked(number)
    if section.observes == "each":
        return [Observation(number, (k,)) for k in asked]
    if section.observer == "server":
        return [Observation(number, tuple(asked))]
    me = section.as_client
    others = tuple(k for k in asked if k != me)
    if me not in asked or not others:
        raise BadInput(
            f"federation: client {me} looks on in round {number}, in which clients {asked} take part; it must be one of"
            " several"
        )
    return [Observation(number, others, me)]

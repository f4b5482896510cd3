"""Many rounds: the server sends a model, some clients answer, the server steps along the mean of what they send."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedspill.core.errors import BadInput
from fedspill.core.local_training.draws import with_draws
from fedspill.core.local_training.protocol import LocalTraining
from fedspill.core.local_training.update import encoded_update
from fedspill.core.model import Model
from fedspill.core.rng import split, stream
from fedspill.core.roles import ForClient, Stages, Tampered
from fedspill.core.types import Batch, Params, Update
from fedspill.federation.client import Client


@dataclass(frozen=True)
class ServerStep:
    """How the server follows what clients send (Reddi et al. 2021, FedAvgM).

    Attributes:
        lr: of the server; 1 takes the mean of deltas as it is. For FedSGD this is the learning rate itself.
        momentum: in [0, 1), of the means over rounds.

    Raises:
        BadInput: a value is out of range.
    """

    lr: float = 1.0
    momentum: float = 0.0

    def __post_init__(self) -> None:
        if not self.lr > 0 or not 0 <= self.momentum < 1:
            raise BadInput(f"server: lr={self.lr} must be above 0, momentum={self.momentum} in [0, 1)")


@dataclass(frozen=True)
class Round:
    """One round.

    Attributes:
        number: from 0.
        sent: the model that clients got; where each got another, the one that the server steps on from.
        answers: what each participant sent, by its number; one whose defences withheld its update is left out.
        mean: of the answers, weighted by examples; None if there is none.
        moved: what the server subtracted from its parameters, over its learning rate: with momentum not the mean
            alone.
        after: the model after the server's step.
        for_client: the model that a client got, where they got different ones.
    """

    number: int
    sent: Model
    answers: dict[int, Update]
    mean: Update | None
    moved: Params
    after: Model
    for_client: ForClient | None = None

    def sent_to(self, client: int) -> Model:
        """The model that one client got."""
        return self.sent if self.for_client is None else self.for_client(client)


@dataclass(frozen=True)
class Federation:
    """Clients with examples of their own, and how their rounds go.

    Attributes:
        private: the examples of each client, of any sizes.
        participation: share of the clients that a round asks, drawn anew; at least one.
        defences: what every client applies.
        drawn: clients draw: masks, views or orders.
        seed: of who takes part.

    Raises:
        BadInput: there is no client, or a share is out of range.
    """

    private: tuple[Batch, ...]
    training: LocalTraining
    server: ServerStep = ServerStep()
    participation: float = 1.0
    defences: tuple[Stages, ...] = ()
    drawn: bool = False
    seed: int = 0

    @property
    def sizes(self) -> tuple[int, ...]:
        """Examples of every client."""
        return tuple(len(batch) for batch in self.private)

    def __post_init__(self) -> None:
        if not self.private or not 0 < self.participation <= 1:
            raise BadInput(
                f"a federation of {len(self.private)} clients with participation={self.participation}: at least one"
                " client and a share above 0 and at most 1 are needed"
            )

    def asked(self, number: int) -> list[int]:
        """The clients that take part in a round, in order."""
        count, most = len(self.private), max(1, round(self.participation * len(self.private)))
        return sorted(torch.randperm(count, generator=stream(self.seed, "asked", number))[:most].tolist())

    def training_of(self, clients: Sequence[int], number: int, seed: int) -> LocalTraining:
        """The protocol of those who take part in a round, or of one of them, with their draws."""
        if not self.drawn:
            return self.training
        asked, drawn = self.asked(number), with_draws(self.training, stream(seed, "draws", number))
        return drawn if len(asked) == 1 or len(clients) > 1 else drawn.of_client(asked.index(clients[0]))

    def recomputed(self, sent: Model, clients: Sequence[int], number: int, seed: int) -> Update:
        """What these clients' answers are the mean of before any defence, as an attack computes it."""
        parts = list[tuple[int, Update]]()
        for k in clients:
            batch = self.private[k].to(sent.like)
            training = self.training_of([k], number, seed)
            parts.append((len(batch), encoded_update(sent, sent.input.encode(batch.inputs), batch.labels, training)))
        return weighted(parts)

    def bare(self, sent: Model, client: int, number: int, seed: int) -> Update:
        """What a client computes before its defences."""
        training = self.training_of([client], number, seed)
        update = Client(self.private[client], training).respond(sent, stream(seed, "bare"))
        assert update is not None, "a client without defences withholds nothing"
        return update

    def rounds(
        self, model: Model, count: int, seed: int, tampered: Callable[[Model, int], Model | Tampered] | None = None
    ) -> Iterator[Round]:
        """Round after round.

        Args:
            model: the server's, before the first round.
            count: of rounds.
            seed: of what clients draw.
            tampered: what the server makes of its model before it sends it, to all or to each client another;
                parameters that the model has not are the server's affair, round by round.
        """
        held = dict[str, Tensor]()
        for number in range(count):
            made = model if tampered is None else tampered(model, number)
            sent = made if isinstance(made, Tampered) else Tampered(made)
            done, held = self._round(model, sent, number, seed, held)
            yield done
            model = done.after

    def _round(
        self, model: Model, tampered: Tampered, number: int, seed: int, held: dict[str, Tensor]
    ) -> tuple[Round, dict[str, Tensor]]:
        chosen, sent, for_client = self.asked(number), tampered.model, tampered.for_client
        streams = split(stream(seed, "clients", number), len(chosen))
        answers = dict[int, Update]()
        for client, rng in zip(chosen, streams, strict=True):
            training = self.training_of([client], number, seed)
            answer = Client(self.private[client], training, self.defences).respond(tampered.sent_to(client), rng)
            if answer is not None:
                answers[client] = answer
        if not answers:
            return Round(number, sent, {}, None, {}, model, for_client), held
        mean = weighted([(len(self.private[k]), u) for k, u in answers.items()])
        own = counterparts(model, sent)
        moved = self._along({k: mean.values[v] for k, v in own.items() if v in mean.values}, held)
        after = stepped(model, moved, self.server.lr, mean.buffers)
        return Round(number, sent, answers, mean, moved, after, for_client), moved

    def _along(self, mean: Params, held: dict[str, Tensor]) -> dict[str, Tensor]:
        beta = self.server.momentum
        return {k: v + beta * held[k] if beta and k in held else v for k, v in mean.items()}


def counterparts(model: Model, sent: Model) -> dict[str, str]:
    """The server's parameters by their names in a model that it altered: what it put around them adds to these.

    A parameter that the altered model does not have is left out.
    """
    found = {k: k for k, v in model.params.items() if k in sent.params and sent.params[k].shape == v.shape}
    others = [k for k in sent.params if k not in found]
    for name in model.params.keys() - found.keys():
        alike = [k for k in others if _holds(k, name) and sent.params[k].shape == model.params[name].shape]
        if len(alike) == 1:
            found[name] = alike[0]
    return {k: found[k] for k in model.params if k in found}


def _holds(longer: str, name: str) -> bool:
    """All parts of a name are parts of a longer one, in their order, its end among them."""
    parts = iter(reversed(longer.split(".")))
    wanted = name.split(".")
    return longer.endswith(wanted[-1]) and all(any(p == part for p in parts) for part in reversed(wanted))


def stepped(model: Model, moved: Params, lr: float, buffers: Params | None) -> Model:
    """The server's model after its step; what it does not have is left out.

    Raises:
        BadInput: the step is not finite.
    """
    if not all(bool(v.isfinite().all()) for v in moved.values()):
        raise BadInput(
            "the federation diverged: what clients sent holds NaN or infinite values; lower client.lr or"
            " federation.server_lr, or observe earlier rounds"
        )
    params = {k: v - lr * moved[k].to(v) if k in moved else v for k, v in model.params.items()}
    held = dict(model.buffers) | {k: v for k, v in (buffers or {}).items() if k in model.buffers}
    return model.with_params(params, held)


def weighted(answers: Sequence[tuple[int, Update]]) -> Update:
    """The mean of updates, each with its number of examples; buffers alike, counters rounded down.

    A parameter that a client did not train counts as unchanged there.
    """
    total, first = sum(n for n, _ in answers), answers[0][1]
    names = dict.fromkeys(k for _, u in answers for k in u.values)
    values = {k: _mean([(n, u.values[k]) for n, u in answers if k in u.values], total) for k in names}
    return Update(first.kind, values, _mean_buffers(answers))


def _mean_buffers(answers: Sequence[tuple[int, Update]]) -> dict[str, Tensor] | None:
    sent = [(n, u.buffers) for n, u in answers if u.buffers is not None]
    if not sent:
        return None
    total = sum(n for n, _ in sent)
    return {k: _mean([(n, b[k]) for n, b in sent], total) for k in sent[0][1]}


def _mean(parts: Sequence[tuple[int, Tensor]], total: int) -> Tensor:
    like = parts[0][1]
    exact = torch.stack([v.double() * n for n, v in parts]).sum(0) / total
    return exact.to(like.dtype) if like.is_floating_point() else exact.floor().to(like.dtype)


def seen_by_client(round: Round, client: int, sizes: Sequence[int]) -> Update | None:
    """What a participant learns of the others: from two consecutive global models, less its own share.

    It knows the server's learning rate and momentum, and how many examples took part. None if it was alone.

    Args:
        round: in which it took part.
        client: its number.
        sizes: examples of every client.

    Raises:
        BadInput: it took no part.
    """
    if client not in round.answers:
        raise BadInput(f"client {client} took no part in round {round.number}; it sees two models of a round it is in")
    assert round.mean is not None, "a client that takes part sends something"
    total = sum(sizes[k] for k in round.answers)
    rest = total - sizes[client]
    if rest == 0:
        return None
    own = round.answers[client]
    values = _less(round.mean.values, total, own.values, sizes[client])
    return Update(round.mean.kind, values, _buffers_of_others(round, client, sizes))


def _buffers_of_others(round: Round, client: int, sizes: Sequence[int]) -> dict[str, Tensor] | None:
    """The mean of the running statistics that the others sent; a mean of counters that was rounded is not undone."""
    own = round.answers[client].buffers
    senders = [k for k, u in round.answers.items() if u.buffers is not None]
    if round.mean is None or round.mean.buffers is None or not set(senders) - {client}:
        return None
    shown = {k: v for k, v in round.mean.buffers.items() if v.is_floating_point()}
    total = sum(sizes[k] for k in senders)
    return dict(shown) if own is None else _less(shown, total, own, sizes[client])


def _less(mean: Params, total: int, own: Params, size: int) -> dict[str, Tensor]:
    """What a mean over `total` examples is without the share of one who has `size` of them."""
    rest = total - size
    return {k: (v * total - own[k] * size) / rest if k in own else v * total / rest for k, v in mean.items()}

"""What the server holds when it attacks."""

from collections.abc import Set
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from fedspill.core.local_training.update import LocalTraining
from fedspill.core.model import Model
from fedspill.core.types import Batch, Params
from fedspill.core.words import Knows as Knows


@dataclass(frozen=True)
class ServerKnowledge:
    """Data that the server holds; a field that it does not hold is None, there are no flags.

    Attributes:
        model: as sent to the clients, tampered with or not.
        num_clients: how many updates were averaged into the one that is attacked; a server always knows.
        num_examples: n, over all clients.
        labels: of the private examples, in their order: classes (n,), next tokens (n, t), or what
            else the loss takes, such as several labels each (n, k).
        local_training: the protocol with its settings; its `draws` are None unless they are known, too.
        public_data: examples from the clients' distribution, disjoint from the private ones.
        client_sizes: examples of each client in their order, where the server was granted their number and they differ;
            the mean over clients is then weighted by them.
        bn_statistics: mean and variance of the private batch at every BatchNorm layer: "NAME.mean", "NAME.var".

    Example:
        >>> import fedspill, torch
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 10))
        >>> model = fedspill.Model.of(net, fedspill.ImageSpec((3, 8, 8)))
        >>> knowledge = fedspill.ServerKnowledge(model, num_examples=4)
        >>> [grant.value for grant in knowledge.holds()]
        ['num_examples']
    """

    model: Model
    num_clients: int = 1
    num_examples: int | None = None
    labels: Int[Tensor, " n ..."] | Float[Tensor, " n ..."] | None = None
    local_training: LocalTraining | None = None
    public_data: Batch | None = None
    bn_statistics: Params | None = None
    client_sizes: tuple[int, ...] | None = None

    @property
    def draws(self) -> int | None:
        """The seed of what the clients drew: orders, augmentation, dropout."""
        return None if self.local_training is None else self.local_training.draws

    def holds(self) -> frozenset[Knows]:
        """The grants that this server has."""
        held = {
            Knows.NUM_EXAMPLES: self.num_examples,
            Knows.LABELS: self.labels,
            Knows.LOCAL_TRAINING: self.local_training,
            Knows.PUBLIC_DATA: self.public_data,
            Knows.BN_STATISTICS: self.bn_statistics,
            Knows.DRAWS: self.draws,
        }
        return frozenset(k for k, v in held.items() if v is not None)

    def missing(self, needs: Set[Knows]) -> frozenset[Knows]:
        """The needs that this server cannot meet."""
        return frozenset(needs) - self.holds()

"""What a server comes to hold under a threat model: the one door through which facts of private data pass."""

from collections.abc import Sequence, Set

from fedspill.core.knowledge import KnownDefence, Knows, ServerKnowledge
from fedspill.core.local_training.draws import without_draws
from fedspill.core.local_training.protocol import LocalTraining
from fedspill.core.model import Model
from fedspill.core.roles import Stages
from fedspill.core.types import Batch
from fedspill.federation.client import bn_statistics
from fedspill.federation.simulating import Simulator


def observe(
    sent: Model,
    private: Batch,
    clients: int,
    training: LocalTraining | None,
    public_data: Batch | None,
    grants: Set[Knows],
    *,
    micro_batch: int | None = None,
    sizes: tuple[int, ...] | None = None,
    defence: KnownDefence | None = None,
    stages: Sequence[Stages] | None = None,
) -> ServerKnowledge:
    """The server's knowledge, reduced to what was granted; labels bring their number with them.

    Args:
        sent: the model that the clients received.
        private: all examples behind the update, on any device.
        clients: how many updates are averaged.
        training: the protocol, with the draws of these clients.
        public_data: what the server has of its own.
        grants: what it knows.
        sizes: examples of each client, where they differ.
        defence: what the clients do to their updates, if they do anything.
        micro_batch: private examples that are passed through the network at a time; None is all.
        stages: the same defences, for a server that runs such clients on examples of its own; None where it cannot.
    """
    counted = Knows.NUM_EXAMPLES in grants or Knows.LABELS in grants
    simulate, held = None, counted and {Knows.PUBLIC_DATA, Knows.LOCAL_TRAINING} <= grants
    if held and training is not None and stages is not None:
        acting = tuple(stages) if Knows.DEFENCE in grants else ()
        counts = sizes or (len(private) // clients,) * clients
        simulate = Simulator(sent, counts, training, acting, micro_batch, Knows.DRAWS in grants)
    if Knows.DRAWS not in grants:
        sent, training = without_draws(sent, training)
    elif not sent.training:  # in eval mode attacks rely on a network that draws nothing
        sent = sent.without_masks()
    return ServerKnowledge(
        model=sent,
        num_clients=clients,
        num_examples=len(private) if counted else None,
        labels=private.labels.to(sent.like.device) if Knows.LABELS in grants else None,
        local_training=training if Knows.LOCAL_TRAINING in grants else None,
        public_data=public_data if Knows.PUBLIC_DATA in grants else None,
        client_sizes=sizes if counted and sizes and len(set(sizes)) > 1 else None,
        bn_statistics=bn_statistics(sent, private, micro_batch) if Knows.BN_STATISTICS in grants else None,
        defence=defence if Knows.DEFENCE in grants else None,
        simulate=simulate,
    )

"""Words of a threat model and of plans; needs no PyTorch, so that a wrong one is refused before that is imported."""

from enum import Enum
from typing import Literal

Precision = Literal["float32", "bfloat16", "float16"]
"""Of a client's arithmetic; the latter two by autocast."""


class ServerRole(Enum):
    """What a server must be willing to do to run an attack."""

    HONEST_BUT_CURIOUS = "honest-but-curious"
    MALICIOUS_PARAMETERS = "malicious parameters"
    MALICIOUS_ARCHITECTURE = "malicious architecture"


class Knows(Enum):
    """What a server may be granted; the values are the fields of `ServerKnowledge` and the words in a plan.

    Example:
        >>> import fedspill
        >>> [grant.value for grant in fedspill.Knows][:2]
        ['num_examples', 'labels']
    """

    NUM_EXAMPLES = "num_examples"
    LABELS = "labels"
    LOCAL_TRAINING = "local_training"
    PUBLIC_DATA = "public_data"
    BN_STATISTICS = "bn_statistics"
    DRAWS = "draws"
    DEFENCE = "defence"

from .api import AuditResult as AuditResult
from .api import attack as attack
from .api import audit as audit
from .api import vet as vet
from .catalogue import attacks as attacks
from .catalogue import checks as checks
from .catalogue import defences as defences
from .catalogue import tamperings as tamperings
from .core.errors import BadInput as BadInput
from .core.errors import NotApplicable as NotApplicable
from .core.inputs import ImageSpec as ImageSpec
from .core.inputs import TableSpec as TableSpec
from .core.inputs import TokenSpec as TokenSpec
from .core.knowledge import Knows as Knows
from .core.knowledge import ServerKnowledge as ServerKnowledge
from .core.local_training.update import FedAvg as FedAvg
from .core.local_training.update import FedSGD as FedSGD
from .core.model import Model as Model
from .core.roles import Finding as Finding
from .core.types import Batch as Batch
from .core.types import Reconstruction as Reconstruction
from .core.types import Update as Update
from .core.types import UpdateKind as UpdateKind
from .plan.sections import AuditPlan as AuditPlan
from .report.schema import AuditReport as AuditReport

__version__: str
__all__: list[str]

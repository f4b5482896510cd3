"""The run of an audit: from a plan to a report.

- `run`: a whole audit: every update, every attack, every seed.
- `resolving/`: the plan resolved into what runs and judges its trials.
- `feeding/`: what the network makes of the private examples, and whether that fits its weights.
- `by_round/`: of a federation, how good its model was before each round, and what leaked in it.
- `scheduling/`: the trials in turn, within the budget, resumable.
- `trial`: one trial: what the server sends, what it is answered, what is rebuilt.
- `servers`: the model that a server sends, asked for once per world and seed.
- `isolated`: the plan's attacks on what a tampering has isolated.
- `watch`: progress, checkpoints and the budget.
- `judge`: the truth is opened: scores, beside guesses made without any update.
- `recognition`: what is recognisable of what did not leak.
- `ranks`: how far closed forms come in the network.
- `prior_only`: what a search makes of the prior alone.
- `readings`: every candidate that was read, and which are scored.
- `verdict/`: what the audit concludes, and for each kind of server.
- `bounding/`: what no attack beats on a plan's updates.
- `utility/`: accuracy after a short training by the plan's protocol and defences.
- `exposure`: what a client's own update gives away, for the guard.
- `capturing/`: one captured update, read, attacked, and judged where its truth is at hand.
- `certifying/`: what attacks claim to have read verbatim, and how often such claims were wrong.
"""

from fedspill.auditing.run import AuditResult, run_audit
from fedspill.plan.file import parse_plan, read_plan
from fedspill.plan.sections import AuditPlan
from fedspill.report.schema import AuditReport

__all__ = ["AuditPlan", "AuditReport", "AuditResult", "parse_plan", "read_plan", "run_audit"]

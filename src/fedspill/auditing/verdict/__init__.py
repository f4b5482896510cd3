"""What an audit concludes from its trials.

- `worst`: the closest that any attack came to each private example.
- `levels`: leaks, recognisable, not shown or not tested, from what the trials found.
- `roles`: the same for each kind of server.
- `caveats`: what a reader of the verdict must know.
- `concluding`: the sentence, and the exit code that the policy asks for.
"""

from fedspill.auditing.verdict.concluding import Circumstances, verdict
from fedspill.auditing.verdict.worst import worst_examples

__all__ = ["Circumstances", "verdict", "worst_examples"]

"""What stands for each verdict: its words, and its colour in a page and in a terminal."""

from typing import NamedTuple

from fedspill.report.schema import VerdictName


class VerdictWords(NamedTuple):
    """How one verdict is shown.

    Attributes:
        style: its class in the style sheet.
        word: the verdict itself.
        always: what is always said beside it.
        colour: in a terminal.
    """

    style: str
    word: str
    always: str
    colour: str


WORDS = {
    VerdictName.LEAKS: VerdictWords("leaks", "Leaks", "Private data can be rebuilt from these updates.", "red"),
    VerdictName.RECOGNISABLE: VerdictWords(
        "recognisable",
        "Recognisable",
        "What was rebuilt tells more of the private data than any guess made without the updates.",
        "magenta",
    ),
    VerdictName.BOUNDED: VerdictWords(
        "bounded",
        "Bounded",
        "A bound on every attack lies under the policy, as far as what is declared is true.",
        "green",
    ),
    VerdictName.NOT_SHOWN: VerdictWords("unshown", "Not shown", "This is not evidence of safety.", "yellow"),
    VerdictName.NOT_TESTED: VerdictWords(
        "untested", "Not tested", "Nothing is known of it, and that is not evidence of safety.", "cyan"
    ),
}

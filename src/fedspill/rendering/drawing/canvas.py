"""Matplotlib without global state, and its figures as inline SVG in the page's own colours."""

import io
import re
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.typing import RcKeyType

BLUE, VERMILION = "#2e86c9", "#d55e00"
"""Colours near Okabe and Ito's palette: told apart with any colour vision, on white and on near-black."""

INK, FAINT = "#010203", "#040506"
"""Stand-ins that become the page's own colours, so that one figure reads in light and in dark."""

FONT = 12
_STYLE: dict[RcKeyType, Any] = {"font.size": FONT, "svg.fonttype": "none", "axes.unicode_minus": False}


def figure(width: int, height: int, layout: Literal["constrained"] | None = None) -> Figure:
    """An empty figure in pixels of the page."""
    return Figure(figsize=(width / 72, height / 72), layout=layout)


def axes(drawn_on: Figure, left: int, right: int, bottom: int, top: int) -> Axes:
    """The one set of axes of a figure, with margins in pixels."""
    width, height = drawn_on.get_size_inches() * 72
    box = (left / width, bottom / height, 1 - (left + right) / width, 1 - (bottom + top) / height)
    return dress(drawn_on.add_axes(box))


def dress(undressed: Axes) -> Axes:
    """No frame but the base line, a faint grid, ink from the page."""
    undressed.patch.set_alpha(0)
    for side, spine in undressed.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(FAINT)
    undressed.grid(axis="both", color=FAINT, linewidth=0.8)
    undressed.set_axisbelow(True)
    undressed.tick_params(which="both", length=0, pad=6, labelcolor=INK, labelsize=FONT)
    undressed.xaxis.label.set(color=INK, fontsize=FONT)
    return undressed


def write(on: Axes, x: float, y: float, text: str, **style: Any) -> None:
    """Text that is never read as mathematics; characters that the fonts may lack become question marks."""
    plain = "".join(c if c.isprintable() else "?" for c in text.encode("ascii", "replace").decode())
    on.text(x, y, plain).set(**{"color": INK, "fontsize": FONT, "parse_math": False, **style})


def svg(drawn: Figure, salt: str) -> str:
    """The figure as one SVG element; `salt` keeps its identifiers apart from other figures' in the page."""
    drawn.patch.set_alpha(0)
    buffer = io.StringIO()
    with mpl.rc_context({**_STYLE, "svg.hashsalt": salt}):
        drawn.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor").replace(FAINT, "var(--line)")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{salt}-", text)

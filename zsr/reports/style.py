"""One colour, marker and label for each row, in every figure and study. No matplotlib, so pages can use them too.

Colours are those of Okabe and Ito and of Paul Tol, which people with a colour vision deficiency tell apart. No two
methods of the papers share a marker, so the figures can also be read in grey.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Style(NamedTuple):
    """How figures and pages show a row.

    Attributes:
        colour: the colour, such as "#d55e00".
        marker: the marker in matplotlib's notation, such as "o".
        label: the short name of the row.
    """

    colour: str
    marker: str
    label: str


KNOWN = {  # row -> its colour and its marker, in every study that has the row
    "clip": ("#000000", "o"),
    "ft_clean": ("#888888", "s"),
    "ft_adv": ("#e69f00", "^"),
    "tecoa": ("#56b4e9", "v"),
    "fare": ("#009e73", "D"),
    "pmg_aft": ("#cc79a7", "P"),
    "vision_attention": ("#0072b2", ">"),
    "tga_zsr": ("#d55e00", "*"),
    "comp_tga": ("#882255", "X"),
    "embedding_anchor": ("#999933", "<"),
}
COLOURS = tuple(colour for colour, _ in KNOWN.values())
MARKERS = ("h", "d", "p", *(marker for _, marker in KNOWN.values()))
FREE = tuple(
    look
    for shift in range(len(MARKERS))
    for look in (
        (colour, MARKERS[(place + shift) % len(MARKERS)]) for place, colour in enumerate((*COLOURS[5:], *COLOURS[:5]))
    )
    if look not in KNOWN.values()
)  # the looks that no known row has, each once; neighbours differ in colour and in marker


def styles(names: Sequence[str]) -> dict[str, Style]:
    """The style of each row.

    The style of a known row depends on the name alone. The unknown rows take the free styles in the order of `names`,
    so give all rows of the study in its order, also to a figure that shows few of them. A row that is added at the end
    changes no other style.
    """
    unknown = [name for name in dict.fromkeys(names) if name not in KNOWN]
    free: Mapping[str, tuple[str, str]] = {name: FREE[i % len(FREE)] for i, name in enumerate(unknown)}
    return {name: Style(*(KNOWN.get(name) or free[name]), label(name)) for name in names}


def label(*names: str) -> str:
    """The label of rows that stand at one point, such as "tecoa = vision_attention"."""
    return " = ".join(names)

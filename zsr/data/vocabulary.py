"""The words of the drawn world: objects, colours, backgrounds, and the captions made of them."""

from dataclasses import dataclass

COLOURS = {  # bright RGB in [0, 1]; the object is always brighter than the background
    "red": (0.95, 0.20, 0.20),
    "green": (0.20, 0.85, 0.30),
    "blue": (0.35, 0.50, 1.00),
    "yellow": (0.98, 0.92, 0.20),
    "orange": (1.00, 0.60, 0.15),
    "purple": (0.75, 0.35, 0.95),
    "pink": (1.00, 0.65, 0.80),
    "white": (0.97, 0.97, 0.97),
}
DARKS = {  # plain backgrounds, every channel <= 0.28
    "black": (0.00, 0.00, 0.00),
    "navy": (0.02, 0.04, 0.28),
    "maroon": (0.28, 0.02, 0.06),
    "forest": (0.03, 0.22, 0.06),
}
SHAPES = (
    "circle", "square", "triangle", "star", "ring", "cross",
    "heart", "crescent", "arrow", "house", "tree", "fish",
)  # fmt: skip
LETTERS = tuple("ABCEFHKMRSTX")
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEXTURES = ("striped", "dotted", "checkered", "noisy", "gradient")
PHOTOS = {"china.jpg": "temple", "flower.jpg": "flower"}  # scikit-learn's two sample photographs


def held_out_pairs() -> list[tuple[str, str]]:
    """The 24 (colour, shape) pairs, two colours per shape, that neither pre-training nor the source set ever shows."""
    names = list(COLOURS)
    return [(names[(i + k) % len(names)], shape) for i, shape in enumerate(SHAPES) for k in (0, 3)]


def noun_phrase(classname: str) -> str:
    """The class name with its article: "a star", "an arrow", "the letter a"."""
    if classname.split()[0] in ("letter", "digit", "number"):
        return f"the {classname}"
    return f"{'an' if classname[0] in 'aeiou' else 'a'} {classname}"


@dataclass(frozen=True)
class Scene:
    """The contents of one drawn picture. Every caption of a scene is true.

    Attributes:
        noun: "star", "letter a", "digit three", "striped texture", "photo of a flower".
        colour: a key of COLOURS, or for a texture two keys joined by "and"; "" where the noun has no colour.
        background: "a navy background", "a photo of a flower", or "".
    """

    noun: str
    colour: str
    background: str


def captions(scene: Scene) -> tuple[str, ...]:
    """Eight captions of a scene; the zero-shot form "this is a photo of ..." is among them."""
    plain = noun_phrase(scene.noun)
    if not scene.colour:
        full = plain
    elif plain.startswith("the "):
        full = f"the {scene.colour} {scene.noun}"
    else:
        full = noun_phrase(f"{scene.colour} {scene.noun}")
    behind = f" on {scene.background}" if scene.background else ""
    last = f"{plain} in {scene.colour}" if scene.colour else plain
    return (
        f"this is a photo of {plain}",
        f"a photo of {plain}",
        full,
        f"this is a photo of {full}",
        f"{plain}{behind}",
        f"{full}{behind}",
        f"a photo of {full}",
        last,
    )

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
GREEK = {  # Greek letters that no Latin capital looks like
    "alpha": "α", "beta": "β", "gamma": "Γ", "delta": "Δ", "epsilon": "ε", "zeta": "ζ", "theta": "Θ", "eta": "η",
    "lambda": "Λ", "mu": "μ", "xi": "Ξ", "pi": "Π", "sigma": "Σ", "phi": "Φ", "psi": "Ψ", "omega": "Ω",
}  # fmt: skip
THINGS = {  # symbols that picture a thing; fine-tuning shows every second one, the first among them
    "umbrella": "☂", "snowman": "☃", "comet": "☄", "telephone": "☎", "cup": "☕", "shamrock": "☘", "skull": "☠",
    "sun": "☀", "smiling face": "☺", "moon": "☽", "cloud": "☁", "hot spring": "♨", "flash": "⚡", "flag": "⚑",
    "anchor": "⚓", "pair of hammers": "⚒", "pair of swords": "⚔", "pair of scales": "⚖", "gear": "⚙", "lily": "⚜",
    "coffin": "⚰", "pair of scissors": "✂", "airplane": "✈", "pencil": "✏", "envelope": "✉", "victory hand": "✌",
    "pointing hand": "☞", "snowflake": "❄", "blossom": "❀", "wheel": "☸", "cat face": "🐱", "mouse face": "🐭",
}  # fmt: skip
SIGNS = {  # symbols that stand for an idea; fine-tuning shows every second one, the first among them
    "radioactive sign": "☢", "ankh": "☥", "biohazard sign": "☣", "peace symbol": "☮", "yin yang": "☯",
    "quarter note": "♩", "pair of notes": "♫", "wheelchair": "♿", "recycling symbol": "♻", "atom": "⚛",
    "warning sign": "⚠", "check mark": "✓", "maltese cross": "✠", "hexagram": "✡", "male sign": "♂",
    "female sign": "♀", "infinity sign": "∞", "square root": "√", "integral sign": "∫", "euro sign": "€",
    "dollar sign": "$", "pound sign": "£", "ampersand": "&", "at sign": "@", "hash sign": "#", "percent sign": "%",
    "section sign": "§", "paragraph sign": "¶", "copyright sign": "©", "question mark": "?", "looped square": "⌘",
    "bullseye": "◎",
}  # fmt: skip
GAMES = {  # no fine-tuning shows a piece of a game
    "chess king": "♚", "chess queen": "♛", "chess rook": "♜", "chess bishop": "♝", "chess knight": "♞",
    "chess pawn": "♟", "spade": "♠", "club": "♣", "diamond": "♦",
}  # fmt: skip
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEXTURES = ("striped", "dotted", "checkered", "noisy", "gradient")
PHOTOS = {"china.jpg": "temple", "flower.jpg": "flower"}  # scikit-learn's two sample photographs


def noun_phrase(classname: str) -> str:
    """The class name with its article: "a star", "an arrow", "a euro sign", "the letter a"."""
    if classname.split()[0] in ("letter", "Greek", "digit", "number"):
        return f"the {classname}"
    vowel = classname[0] in "aeiou" and not classname.startswith("eu")
    return f"{'an' if vowel else 'a'} {classname}"


@dataclass(frozen=True)
class Scene:
    """The contents of one drawn picture. Every caption of a scene is true.

    Attributes:
        noun: "star", "letter a", "digit three", "striped texture", "photo of a flower".
        colour: a key of COLOURS, or for a texture two keys joined by "and"; "" where the noun has no colour.
    """

    noun: str
    colour: str


def captions(scene: Scene) -> tuple[str, ...]:
    """Six captions of a scene; the zero-shot form "this is a photo of ..." is among them."""
    plain = noun_phrase(scene.noun)
    if not scene.colour:
        full = plain
    elif plain.startswith("the "):
        full = f"the {scene.colour} {scene.noun}"
    else:
        full = noun_phrase(f"{scene.colour} {scene.noun}")
    return (
        f"this is a photo of {plain}",
        f"a photo of {plain}",
        plain,
        f"this is a photo of {full}",
        f"a photo of {full}",
        full,
    )

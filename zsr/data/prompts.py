"""Class names and prompts of the public sets, joined to what lies on disk by the key a class has there.

They are stored, one row of classnames/<set>.tsv a class, so that they can be read and compared; `official` is the rule
that the stored official ones follow. `python -m stages.classnames` writes the files anew.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields, replace
from functools import cache
from hashlib import sha256
from pathlib import Path

from zsr.data.registry import entry
from zsr.errors import ParamError, StudyError
from zsr.params import nearest

PACKAGE_DATA = ["classnames"]
FOLDER = Path(__file__).with_name("classnames")
PROMPT_SETS = ("official", "clean", "openclip")
GENERIC = "This is a photo of a {}"
TEMPLATES = {
    "food101": "A photo of {}, a type of food.",
    "oxford_pets": "A photo of a {}, a type of pet.",
    "flowers102": "A photo of a {}, a type of flower.",
    "dtd": "A surface with a {} texture.",
    "eurosat": "A centered satellite photo of {}.",
    "fgvc_aircraft": "A photo of a {}, a type of aircraft.",
    "caltech256": "A photo of a {}.",
    "stanford_cars": "A photo of a {}.",
    "pcam": "This is a photo of {}.",
}
FLOWERS = {"colt's foot": "colts foot", "cyclamen": "cyclamen ", "hippeastrum": "hippeastrum "}  # by torchvision's name
EUROSAT = {
    "AnnualCrop": "annual crop land",
    "Forest": "a forest",
    "HerbaceousVegetation": "brushland or shrubland",
    "Highway": "a highway or a road",
    "Industrial": "industrial buildings",
    "Pasture": "pasture land",
    "PermanentCrop": "permanent crop land",
    "Residential": "residential buildings",
    "River": "a river",
    "SeaLake": "a sea or a lake",
}
PCAM = {"0": "healthy lymph node tissue", "1": "lymph node tumor tissue"}
SLIPS = {("pcam", "0"): ("This", "Tthis")}  # typing errors of whole prompts, that the published numbers were made with


@dataclass(frozen=True, kw_only=True)
class ClassRow:
    """One class, as a line of a file has it.

    Attributes:
        index: its label.
        raw_key: its wnid, folder, variant or name on disk.
        name_official: its name as the authors' code makes it, errors included.
        prompt_official: its whole prompt, likewise.
        name_clean: its name without errors; no two classes have the same.
        prompt_clean: its whole prompt with that name.
        name_openclip: open_clip's name; "" where it has none.
        lemmas: WordNet's words for a wnid, with ", " between.
        note: why the clean name differs.
    """

    index: int
    raw_key: str
    name_official: str
    prompt_official: str
    name_clean: str
    prompt_clean: str
    name_openclip: str = ""
    lemmas: str = ""
    note: str = ""


COLUMNS = tuple(field.name for field in fields(ClassRow))


def official(name: str, raw_key: str, lemmas: str = "") -> tuple[str, str]:
    """The name and the whole prompt that the authors' code gives a class.

    Raises ParamError: no such set. Raises StudyError: a class without a name there, or a wnid without lemmas.
    """
    key = entry(name).key
    try:
        said = NAMERS[key](raw_key, lemmas)
    except KeyError:
        said = ""
    if not said.strip():
        way = "its lemmas are needed" if key in WORDNET else f"known: {', '.join(CLOSED.get(key, ())) or 'any name'}"
        raise StudyError(f"{key}: the class '{raw_key}' has no official name ({way})")
    right, typed = SLIPS.get((key, raw_key), ("", ""))
    return said, template(key).format(said).replace(right, typed, 1)


def template(name: str) -> str:
    """A set's sentence with {} for the class name, as the authors have it."""
    return TEMPLATES.get(entry(name).key, GENERIC)


@cache
def rows(name: str) -> tuple[ClassRow, ...]:
    """All classes of a set in the order of their labels. Raises StudyError where its file was changed by hand."""
    path = FOLDER / f"{entry(name).key}.tsv"
    head, found = parsed(path.read_text())
    if head.get("digest") != _digest(found) or head.get("rows") != str(len(found)):
        raise StudyError(f"{path} is not what its first lines say; write it anew with `python -m stages.classnames`")
    return found


def join(name: str, raw_keys: Sequence[str], complete: bool = True) -> tuple[ClassRow, ...]:
    """The classes with these keys, which must come in the order of their labels; all of them where complete.

    Raises StudyError naming the keys that are missing, unexpected or out of order.
    """
    key, known, given = entry(name).key, {row.raw_key: row for row in rows(name)}, Counter(raw_keys)
    found = [known[raw] for raw in raw_keys if raw in known]
    wrong = {
        "unexpected": [raw for raw in given if raw not in known],
        "missing": [raw for raw in known if complete and raw not in given],
        "twice": [raw for raw, times in given.items() if times > 1],
        "out of order": [b.raw_key for a, b in zip(found, found[1:]) if b.index < a.index],
    }
    if any(wrong.values()):
        said = "; ".join(f"{what}: {_listed(keys)}" for what, keys in wrong.items() if keys)
        raise StudyError(f"{key}: the classes on disk are not those of classnames/{key}.tsv ({said})")
    return tuple(found)


def prompts(name: str, raw_keys: Sequence[str], prompt_set: str = "official") -> tuple[str, ...]:
    """One whole prompt a class. Raises ParamError where the set has no such prompts, StudyError as `join`."""
    of = entry(name)
    if prompt_set not in of.prompt_sets:
        known = ", ".join(of.prompt_sets)
        hint = nearest(prompt_set, of.prompt_sets)
        raise ParamError(f"{of.key} has no prompts called '{prompt_set}'{hint} (known: {known})")
    classes = join(name, raw_keys, complete=False)
    if prompt_set == "openclip":
        return tuple(template(name).format(row.name_openclip) for row in classes)
    return tuple(getattr(row, f"prompt_{prompt_set}") for row in classes)


def regenerated(name: str, old: Sequence[ClassRow]) -> tuple[ClassRow, ...]:
    """The rows with everything that follows from a rule made anew: official names and prompts, and clean prompts."""
    made = []
    for row in old:
        said, prompt = official(name, row.raw_key, row.lemmas)
        clean = template(name).format(row.name_clean)
        made.append(replace(row, name_official=said, prompt_official=prompt, prompt_clean=clean))
    return tuple(made)


def text(head: Mapping[str, str], classes: Sequence[ClassRow]) -> str:
    """A file as `rows` reads it; of the head, "rows" and "digest" are made anew."""
    told = {**head, "rows": len(classes), "digest": _digest(classes)}
    return "".join(f"# {what}: {value}\n" for what, value in told.items()) + _body(classes)


def parsed(content: str) -> tuple[dict[str, str], tuple[ClassRow, ...]]:
    """What `text` made its file from."""
    lines = content.splitlines()
    head = dict(line[2:].split(": ", 1) for line in lines if line.startswith("# "))
    found = [line.split("\t") for line in lines[len(head) + 1 :]]
    return head, tuple(ClassRow(index=int(cells[0]), **dict(zip(COLUMNS[1:], cells[1:]))) for cells in found)


def _body(classes: Sequence[ClassRow]) -> str:
    table = [COLUMNS, *(tuple(map(str, astuple(row))) for row in classes)]
    return "".join("\t".join(line).rstrip("\t") + "\n" for line in table)


def _digest(classes: Sequence[ClassRow]) -> str:
    return sha256(_body(classes).encode()).hexdigest()[:32]


def _listed(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    return ", ".join(f"'{key}'" for key in keys[:3]) + more


def _refined(raw: str) -> str:
    return raw.lower().replace("_", " ").replace("-", " ").replace("/", " ")


def _spaced(raw: str) -> str:
    return raw.lower().replace("_", " ").replace("-", " ")


def _first_lemma(raw: str, lemmas: str) -> str:
    return _refined(lemmas.partition(", ")[0])


def _aircraft(raw: str) -> str:
    return (f"Boeing {raw}" if raw.startswith("7") else raw).lower().replace("_", " ")


CLOSED = {"eurosat": EUROSAT, "pcam": PCAM}
WORDNET = ("tiny_imagenet", "imagenet")
NAMERS: dict[str, Callable[[str, str], str]] = {
    "tiny_imagenet": _first_lemma,
    "cifar10": lambda raw, _: _refined(raw),
    "cifar100": lambda raw, _: _refined(raw),
    "stl10": lambda raw, _: _refined(raw),
    "sun397": lambda raw, _: _refined(raw[len("/a/") :]),
    "food101": lambda raw, _: _spaced(raw),
    "oxford_pets": lambda raw, _: _spaced(raw),
    "flowers102": lambda raw, _: _spaced(FLOWERS.get(raw, raw)),
    "dtd": lambda raw, _: _spaced(raw),
    "eurosat": lambda raw, _: EUROSAT[raw],
    "fgvc_aircraft": lambda raw, _: _aircraft(raw),
    "imagenet": _first_lemma,
    "caltech101": lambda raw, _: _refined(raw),
    "caltech256": lambda raw, _: _spaced(raw[len("001.") :].replace("-101", "")).strip(),
    "stanford_cars": lambda raw, _: _spaced(raw[: -len(" 2012")]),
    "pcam": lambda raw, _: PCAM[raw],
}

"""Class names and prompts of the public sets, joined to the classes on disk by the key that a class has on disk.

Class names and prompts are stored in classnames/<set>.tsv, one row per class, so that they can be read and compared.
`official` is the rule behind the stored official names and prompts. `python -m stages.classnames` writes the files.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields, replace
from functools import cache
from hashlib import sha256
from pathlib import Path

from zsr.data.outside import read_text
from zsr.data.registry import entry
from zsr.params import ParamError, StudyError, nearest

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
# torchvision's class name -> the authors' class name.
FLOWERS = {"colt's foot": "colts foot", "cyclamen": "cyclamen ", "hippeastrum": "hippeastrum "}
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
SLIPS = {("pcam", "0"): ("This", "Tthis")}  # typing errors of whole prompts; the published numbers were made with them


@dataclass(frozen=True, kw_only=True)
class ClassRow:
    """One class: a line of classnames/<set>.tsv.

    Attributes:
        index: the label of the class.
        raw_key: the key of the class on disk: a wnid, folder, variant or name.
        name_official: the class name that the authors' code makes, errors included.
        prompt_official: the whole prompt that the authors' code makes, errors included.
        name_clean: the class name without errors; no two classes share a clean name.
        prompt_clean: the whole prompt with the clean name.
        name_openclip: open_clip's class name; "" where open_clip has none.
        lemmas: WordNet's words for a wnid, separated by ", ".
        note: why the clean name differs from the official name.
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

    Raises ParamError: no such set. Raises StudyError: the authors' code has no name for the class, or needs lemmas.
    """
    key = entry(name).key
    try:
        class_name = NAMERS[key](raw_key, lemmas)
    except KeyError:
        class_name = ""
    if not class_name.strip():
        hint = "its lemmas are needed" if key in WORDNET else f"known: {', '.join(CLOSED.get(key, ())) or 'any name'}"
        raise StudyError(f"{key}: the class '{raw_key}' has no official name ({hint})")
    right, typed = SLIPS.get((key, raw_key), ("", ""))
    return class_name, template(key).format(class_name).replace(right, typed, 1)


def template(name: str) -> str:
    """The authors' prompt template of a set, with {} for the class name."""
    return TEMPLATES.get(entry(name).key, GENERIC)


@cache
def rows(name: str) -> tuple[ClassRow, ...]:
    """All classes of a set in the order of their labels. Raises StudyError where the file was changed by hand."""
    path = FOLDER / f"{entry(name).key}.tsv"
    head, class_rows = stored(path)
    if head.get("digest") != _digest(class_rows) or head.get("rows") != str(len(class_rows)):
        raise StudyError(f"{path} is not what its first lines say; write it anew with `python -m stages.classnames`")
    return class_rows


def join(name: str, raw_keys: Sequence[str], complete: bool = True) -> tuple[ClassRow, ...]:
    """The classes with the given keys. The keys must be in the order of the labels.

    complete: the keys must be those of all classes of the set. Raises StudyError that lists the keys that are missing,
    unexpected, duplicate or out of order.
    """
    key, known, counts = entry(name).key, {row.raw_key: row for row in rows(name)}, Counter(raw_keys)
    class_rows = [known[raw] for raw in raw_keys if raw in known]
    wrong = {
        "unexpected": [raw for raw in counts if raw not in known],
        "missing": [raw for raw in known if complete and raw not in counts],
        "twice": [raw for raw, times in counts.items() if times > 1],
        "out of order": [b.raw_key for a, b in zip(class_rows, class_rows[1:]) if b.index < a.index],
    }
    if any(wrong.values()):
        message = "; ".join(f"{fault}: {_listed(keys)}" for fault, keys in wrong.items() if keys)
        raise StudyError(f"{key}: the classes on disk are not those of classnames/{key}.tsv ({message})")
    return tuple(class_rows)


def prompts(name: str, raw_keys: Sequence[str], prompt_set: str = "official") -> tuple[str, ...]:
    """One whole prompt per class. Raises ParamError where the set has no such prompts, StudyError as `join`."""
    dataset = entry(name)
    if prompt_set not in dataset.prompt_sets:
        known = ", ".join(dataset.prompt_sets)
        hint = nearest(prompt_set, dataset.prompt_sets)
        raise ParamError(f"{dataset.key} has no prompts called '{prompt_set}'{hint} (known: {known})")
    classes = join(name, raw_keys, complete=False)
    if prompt_set == "openclip":
        return tuple(template(name).format(row.name_openclip) for row in classes)
    return tuple(getattr(row, f"prompt_{prompt_set}") for row in classes)


def regenerated(name: str, old: Sequence[ClassRow]) -> tuple[ClassRow, ...]:
    """The rows with official names, official prompts and clean prompts made anew by their rules."""
    class_rows = []
    for row in old:
        class_name, prompt = official(name, row.raw_key, row.lemmas)
        clean = template(name).format(row.name_clean)
        class_rows.append(replace(row, name_official=class_name, prompt_official=prompt, prompt_clean=clean))
    return tuple(class_rows)


def text(head: Mapping[str, str], classes: Sequence[ClassRow]) -> str:
    """The content of a file that `rows` reads. "rows" and "digest" of the head are computed anew."""
    facts = {**head, "rows": len(classes), "digest": _digest(classes)}
    return "".join(f"# {key}: {value}\n" for key, value in facts.items()) + _body(classes)


def stored(path: Path) -> tuple[dict[str, str], tuple[ClassRow, ...]]:
    """The head and the classes in a file of `text`. Raises StudyError where the file has another form."""
    content = read_text(path)
    try:
        return parsed(content)
    except (ValueError, TypeError, IndexError):
        remedy = f"restore it with `git checkout {path.name}` in its folder"
        raise StudyError(f"{path} has a line that is neither '# key: value' nor the row of a class: {remedy}") from None


def parsed(content: str) -> tuple[dict[str, str], tuple[ClassRow, ...]]:
    """The head and the classes in the content of a file: the inverse of `text`."""
    lines = content.splitlines()
    head = dict(line[2:].split(": ", 1) for line in lines if line.startswith("# "))
    table = [line.split("\t") for line in lines[len(head) + 1 :]]
    return head, tuple(ClassRow(index=int(cells[0]), **dict(zip(COLUMNS[1:], cells[1:]))) for cells in table)


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

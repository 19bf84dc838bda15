"""Records: the results of one method under one attack on one set, image by image."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from zsr import files
from zsr.params import StudyError

BITS = ("clean_bits", "adv_bits", "zero_bits", "broken_bits")  # one per image, packed in files
OF_MODEL = re.compile(r"; (logit scale [^;]*|linear head)(?=;)")  # in a protocol, see `facts` of the classifiers
TOTALS = ("forwards", "gradients", "zero_pixels", "pixels")
TEXTS = ("method", "attack", "set_name", "fingerprint", "protocol", "counted")


@dataclass(frozen=True, order=True)
class Mark:
    """The reason why a number is not to be trusted as it stands.

    Attributes:
        name: the name of the check.
        reason: the finding of the check, in words and numbers.
    """

    name: str
    reason: str


def _nothing() -> np.ndarray:
    return np.zeros(0, np.int64)


@dataclass(frozen=True, kw_only=True, eq=False)
class Record:
    """One cell (method, attack, set) of one seed of training. ids and bits are NumPy arrays, made of any sequence.

    Attributes:
        method: the name of the method, a row of the study.
        seed: the seed of the training.
        attack: the name of the attack.
        set_name: the name of the set.
        fingerprint: the hash of everything that the bits depend on.
        protocol: the facts that travel with the number.
        attacks_run: the attacks behind the attack's name; the list may be shorter for few classes.
        counted: the bits that make the accuracy. With "both" an image must be right without and with the attack, so
            the accuracy cannot exceed clean accuracy. With "adv" an image must be right with the attack.
        marks: the marks of the model, from the checks before the attack.
        ids: (N,) int64, the numbers of the images in the set.
        clean_bits: (N,) bool: was image i of `ids` classified right without the attack? Where logits are not finite
            the image counts as wrong.
        adv_bits: (N,) bool: was the image classified right with the attack? Where logits are not finite, the bit equals
            the clean bit: the attack has failed.
        zero_bits: (N,) bool: did the image have an input gradient of exactly zero at every pixel in some pass of the
            attack?
        broken_bits: (N,) bool: did the image have logits or a gradient that were not finite in some pass?
        forwards: number of passes of the tower without a gradient, counted per image of a batch, filling images
            included.
        gradients: number of passes with a gradient, counted in the same way.
        zero_pixels: number of entries that were exactly zero, in the gradients that were not zero everywhere.
        pixels: number of all entries of these gradients.
    """

    method: str
    seed: int
    attack: str
    set_name: str
    fingerprint: str
    protocol: str
    attacks_run: tuple[str, ...] = ()
    counted: str = "both"
    marks: tuple[Mark, ...] = ()
    ids: np.ndarray = field(default_factory=_nothing)
    clean_bits: np.ndarray = field(default_factory=_nothing)
    adv_bits: np.ndarray = field(default_factory=_nothing)
    zero_bits: np.ndarray = field(default_factory=_nothing)
    broken_bits: np.ndarray = field(default_factory=_nothing)
    forwards: int = 0
    gradients: int = 0
    zero_pixels: int = 0
    pixels: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", np.asarray(self.ids, np.int64))
        for name in BITS:
            object.__setattr__(self, name, np.asarray(getattr(self, name), bool))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Record):
            return NotImplemented
        pairs = ((getattr(self, attribute.name), getattr(other, attribute.name)) for attribute in fields(self))
        return all(np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b for a, b in pairs)

    @property
    def n(self) -> int:
        """The number of images."""
        return len(self.ids)

    @property
    def robust_bits(self) -> np.ndarray:
        """The images that are right both without and with the attack, (N,) bool."""
        return self.clean_bits & self.adv_bits

    @property
    def hits(self) -> np.ndarray:
        """The images that count as right in the accuracy, (N,) bool."""
        return self.robust_bits if self.counted == "both" else self.adv_bits

    @cached_property
    def ids_digest(self) -> str:
        """A digest of the ids, which identifies the chosen subset of images."""
        return files.digest(repr(tuple(self.ids.tolist())))[:12]

    def save(self, path: Path) -> None:
        """Write one JSON file. Counts stand beside the packed bits for readers without this class."""
        document = self._document()
        files.write_json(path, document | {"digest": files.json_digest(document)})

    def _document(self) -> dict[str, Any]:
        document = asdict(self) | {
            "ids": self.ids.tolist(),
            "n": self.n,
            "ids_digest": self.ids_digest,
            "clean_correct": int(self.clean_bits.sum()),
            "adv_correct": int(self.adv_bits.sum()),
            "clean_and_adv_correct": int(self.robust_bits.sum()),
            "zero_gradient_images": int(self.zero_bits.sum()),
            "non_finite_images": int(self.broken_bits.sum()),
        }
        lists = {"attacks_run": list(self.attacks_run), "marks": [asdict(mark) for mark in self.marks]}
        return document | lists | {name: _pack(getattr(self, name)) for name in BITS}

    @classmethod
    def load(cls, path: Path, **expected: Any) -> "Record":
        """The record in a file that `save` wrote.

        Args:
            path: the file.
            expected: attributes and the values that they must have, such as method="tecoa".

        Raises:
            Unusable: the file is not there or damaged, its counts contradict its bits, or it is of another cell.
        """
        document = files.read_json(path)
        if not isinstance(document, dict) or document.pop("digest", "") != files.json_digest(document):
            raise files.Unusable(path, "is no record, or is damaged: its content has another digest than it states")
        try:
            values = {name: document[name] for name in cls.__dataclass_fields__}
            bits = {name: _unpack(document[name], len(document["ids"])) for name in BITS}
            marks = {"marks": tuple(Mark(**mark) for mark in document["marks"])}
            _check_types(document)
            record = cls(**values | bits | marks | {"attacks_run": tuple(document["attacks_run"])})
            contradicted = record._document() != document
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise files.Unusable(path, f"is no whole record ({type(error).__name__}: {error})") from None
        if contradicted or len(np.unique(record.ids)) < record.n:
            raise files.Unusable(path, "contradicts itself: its counts are not those of its bits and images")
        for name, value in expected.items():
            if getattr(record, name) != value:
                raise files.Unusable(path, f"is of the {name} {getattr(record, name)!r}, not of {value!r}")
        return record


def merged(shards: Sequence[Record], ids: Sequence[int]) -> Record:
    """The record of a set, merged from the records of its shards, with the images in the order of `ids`.

    Raises StudyError: a shard belongs to another cell or fingerprint; an image is missing, duplicate or unexpected.
    """
    first = shards[0]
    for shard in shards[1:]:
        if _identity(shard) != _identity(first):
            raise StudyError(f"records {_identity(first)} and {_identity(shard)} are not parts of one")
    together = np.concatenate([shard.ids for shard in shards])
    order, image_ids = np.argsort(together, kind="stable"), np.asarray(ids, np.int64)
    if not np.array_equal(together[order], np.sort(image_ids)) or len(np.unique(image_ids)) < len(image_ids):
        raise StudyError(f"parts of {_identity(first)} do not hold every image once")
    rows = order[np.searchsorted(together[order], image_ids)]
    bits: dict[str, Any] = {name: np.concatenate([getattr(shard, name) for shard in shards])[rows] for name in BITS}
    totals: dict[str, Any] = {name: sum(getattr(shard, name) for shard in shards) for name in TOTALS}
    marks = tuple(sorted({mark for shard in shards for mark in shard.marks}))
    return replace(first, ids=image_ids, marks=marks, **bits, **totals)


def _identity(record: Record) -> str:
    return f"{record.method} {record.seed} {record.attack} {record.set_name} {record.fingerprint}"


def _pack(bits: np.ndarray) -> str:
    return np.packbits(bits).tobytes().hex()


def check_alike(first: Record, other: Record, path: Path) -> None:
    """Raise Unusable where two models were judged in different ways under one attack on one set. path: of `other`."""
    for name in ("attack", "set_name", "counted", "attacks_run", "ids_digest", "protocol"):
        one, two = getattr(first, name), getattr(other, name)
        if name == "protocol":  # but for the models' own part
            one, two = (OF_MODEL.sub("", text) for text in (one, two))
        if one != two:
            reason = f"cannot stand beside {first.method}, seed {first.seed}: {name} is {two!r} here, {one!r} there"
            raise files.Unusable(path, reason)


def _check_types(document: dict[str, Any]) -> None:
    """Raise TypeError where a text is none, or a count is no whole number of at least 0."""
    texts = {name: document[name] for name in TEXTS}
    texts |= {name: text for mark in document["marks"] for name, text in mark.items()}
    counts = {name: document[name] for name in ("seed", *TOTALS)}
    for name in [name for name, text in texts.items() if not isinstance(text, str)]:
        raise TypeError(f"{name} must be text")
    for name in [name for name, count in counts.items() if type(count) is not int or count < 0]:
        raise TypeError(f"{name} must be a whole number of at least 0")


def _unpack(text: str, n: int) -> np.ndarray:
    return np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8), count=n).astype(bool)


def accuracies(name: str, record: Record | None) -> dict[str, float | str]:
    """Clean and robust accuracy in percent. Blank where there is no record, since the training diverged."""
    bits = {"clean": record.clean_bits, "robust": record.robust_bits} if record else {}
    return {f"{name}_{kind}": round(100 * float(bits[kind].mean()), 2) if bits else "" for kind in ("clean", "robust")}

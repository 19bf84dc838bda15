"""What is known of one method under one attack on one set, image by image."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from zsr import files
from zsr.errors import StudyError

BITS = ("clean_bits", "adv_bits", "zero_bits", "broken_bits")  # one per image, packed in files
TOTALS = ("forwards", "gradients", "zero_pixels", "pixels")


@dataclass(frozen=True, order=True)
class Mark:
    """Why a number is not to be trusted as it stands.

    Attributes:
        name: of a check.
        reason: what it found, in words and numbers.
    """

    name: str
    reason: str


def _nothing() -> np.ndarray:
    return np.zeros(0, np.int64)


@dataclass(frozen=True, kw_only=True, eq=False)
class Record:
    """One cell, of one seed of fine-tuning. ids and bits are NumPy arrays, made of any sequence.

    Attributes:
        method: the row of the study.
        seed: of its training.
        attack: its name.
        set_name: of the set.
        fingerprint: hash of everything the bits depend on.
        protocol: the facts that travel with the number.
        attacks_run: the attacks behind the name, which few classes shorten.
        counted: which bits make the accuracy; "both", an image right both times, cannot exceed clean accuracy.
        marks: of the model, found before it was attacked.
        ids: (N,) int64, the images' own numbers.
        clean_bits: (N,) bool: was image i of `ids` classified right without the attack? Where logits are not finite
            it counts as wrong.
        adv_bits: (N,) bool: with the attack? Where logits are not finite as without it: the attack has failed.
        zero_bits: (N,) bool: had the image an input gradient of exactly zero at every pixel in some pass of the attack?
        broken_bits: (N,) bool: had it logits or a gradient that were not finite in some pass?
        forwards: passes of the tower without a gradient, one for each image of a batch, also for those that only fill
            it up.
        gradients: passes with a gradient, likewise.
        zero_pixels: entries that were exactly zero of the gradients that were not zero everywhere.
        pixels: entries of those gradients.
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
        pairs = ((getattr(self, own.name), getattr(other, own.name)) for own in fields(self))
        return all(np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b for a, b in pairs)

    @property
    def n(self) -> int:
        """How many images it is of."""
        return len(self.ids)

    @property
    def robust_bits(self) -> np.ndarray:
        """Right without and with the attack."""
        return self.clean_bits & self.adv_bits

    @property
    def hits(self) -> np.ndarray:
        """The images that make up the accuracy."""
        return self.robust_bits if self.counted == "both" else self.adv_bits

    @cached_property
    def ids_digest(self) -> str:
        """Names the chosen subset of images."""
        return files.digest(repr(tuple(self.ids.tolist())))[:12]

    def save(self, path: Path) -> None:
        """One JSON file; counts are written beside the packed bits for readers without this class."""
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
        files.write_json(path, document | {name: _pack(getattr(self, name)) for name in BITS})

    @classmethod
    def load(cls, path: Path) -> "Record":
        """The record in a file that `save` wrote."""
        document = files.read_json(path)
        n = document["n"]
        kept = {name: document[name] for name in cls.__dataclass_fields__}
        bits = {name: _unpack(document[name], n) for name in BITS}
        marks = {"marks": tuple(Mark(**mark) for mark in document["marks"])}
        return cls(**kept | bits | marks | {"attacks_run": tuple(document["attacks_run"])})


def merged(shards: Sequence[Record], ids: Sequence[int]) -> Record:
    """The record of a set from those of its parts, images in the order of ids.

    Raises StudyError: a part belongs to another cell or fingerprint; an image is missing, twice or too many.
    """
    first = shards[0]
    for shard in shards[1:]:
        if _identity(shard) != _identity(first):
            raise StudyError(f"records {_identity(first)} and {_identity(shard)} are not parts of one")
    together = np.concatenate([shard.ids for shard in shards])
    order, wanted = np.argsort(together, kind="stable"), np.asarray(ids, np.int64)
    if not np.array_equal(together[order], np.sort(wanted)) or len(np.unique(wanted)) < len(wanted):
        raise StudyError(f"parts of {_identity(first)} do not hold every image once")
    rows = order[np.searchsorted(together[order], wanted)]
    bits: dict[str, Any] = {name: np.concatenate([getattr(shard, name) for shard in shards])[rows] for name in BITS}
    totals: dict[str, Any] = {name: sum(getattr(shard, name) for shard in shards) for name in TOTALS}
    marks = tuple(sorted({mark for shard in shards for mark in shard.marks}))
    return replace(first, ids=wanted, marks=marks, **bits, **totals)


def _identity(record: Record) -> str:
    return f"{record.method} {record.seed} {record.attack} {record.set_name} {record.fingerprint}"


def _pack(bits: np.ndarray) -> str:
    return np.packbits(bits).tobytes().hex()


def _unpack(text: str, n: int) -> np.ndarray:
    return np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8), count=n).astype(bool)


def accuracies(name: str, record: Record | None) -> dict[str, float | str]:
    """Percent right without the attack and with it too; blank where there is no record: the training diverged."""
    bits = {"clean": record.clean_bits, "robust": record.robust_bits} if record else {}
    return {f"{name}_{kind}": round(100 * float(bits[kind].mean()), 2) if bits else "" for kind in ("clean", "robust")}

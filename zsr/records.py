"""What is known of one method under one attack on one set, image by image."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from zsr import storage
from zsr.errors import StudyError

BITS = ("clean_bits", "adv_bits", "zero_bits", "broken_bits")  # one per image, packed in files
TOTALS = ("forwards", "gradients", "zero_pixels", "pixels")


@dataclass(frozen=True, order=True)
class Mark:
    """Why a number is not to be trusted as it stands: the name of a check, and what it found in words and numbers."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Record:
    """One cell, of one seed of fine-tuning.

    clean_bits, adv_bits: was image i classified right, without and with the attack; i follows `ids`. Where logits are
    not finite the image counts as wrong without the attack, and with it as without: the attack has failed.
    zero_bits: had the image an input gradient of exactly zero at every pixel in some pass of the attack?
    broken_bits: had it logits or a gradient that were not finite in some pass?
    fingerprint: hash of everything the bits depend on. attacks_run: the attacks behind the name, which few classes
    shorten. counted: which bits make the accuracy; "both", an image right both times, cannot exceed clean accuracy.
    marks: of the model, found before it was attacked.
    forwards, gradients: passes of the tower without and with a gradient, one for each image of a batch, also for those
    that only fill it up. pixels, zero_pixels: entries of the gradients that were not zero everywhere, and how many of
    them were exactly zero.
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
    ids: tuple[int, ...] = ()
    clean_bits: tuple[bool, ...] = ()
    adv_bits: tuple[bool, ...] = ()
    zero_bits: tuple[bool, ...] = ()
    broken_bits: tuple[bool, ...] = ()
    forwards: int = 0
    gradients: int = 0
    zero_pixels: int = 0
    pixels: int = 0

    @property
    def robust_bits(self) -> tuple[bool, ...]:
        """Right without and with the attack."""
        return tuple(clean and adv for clean, adv in zip(self.clean_bits, self.adv_bits, strict=True))

    @property
    def hits(self) -> tuple[bool, ...]:
        """The images that make up the accuracy."""
        return self.robust_bits if self.counted == "both" else self.adv_bits

    @property
    def ids_digest(self) -> str:
        """Names the chosen subset of images."""
        return storage.digest(repr(self.ids))[:12]

    def save(self, path: Path) -> None:
        """One JSON file; counts are written beside the packed bits for readers without this class."""
        document = asdict(self) | {
            "n": len(self.ids),
            "ids_digest": self.ids_digest,
            "clean_correct": sum(self.clean_bits),
            "adv_correct": sum(self.adv_bits),
            "clean_and_adv_correct": sum(self.robust_bits),
            "zero_gradient_images": sum(self.zero_bits),
            "non_finite_images": sum(self.broken_bits),
        }
        storage.write_json(path, document | {name: _pack(getattr(self, name)) for name in BITS})

    @classmethod
    def load(cls, path: Path) -> "Record":
        document = storage.read_json(path)
        n = document["n"]
        kept = {name: document[name] for name in cls.__dataclass_fields__}
        bits = {name: _unpack(document[name], n) for name in BITS}
        marks = {"marks": tuple(Mark(**mark) for mark in document["marks"])}
        return cls(**kept | bits | marks | {name: tuple(document[name]) for name in ("ids", "attacks_run")})


def merged(shards: Sequence[Record], ids: Sequence[int]) -> Record:
    """The record of a set from those of its parts, images in the order of ids.

    Raises StudyError: a part belongs to another cell or fingerprint; an image is missing, twice or too many.
    """
    first = shards[0]
    for shard in shards[1:]:
        if _identity(shard) != _identity(first):
            raise StudyError(f"records {_identity(first)} and {_identity(shard)} are not parts of one")
    place = {image: (shard, i) for shard in shards for i, image in enumerate(shard.ids)}
    if sum(len(shard.ids) for shard in shards) != len(ids) or set(place) != set(ids):
        raise StudyError(f"parts of {_identity(first)} do not hold every image once")
    bits = {name: tuple(getattr(shard, name)[i] for shard, i in map(place.get, ids)) for name in BITS}
    totals = {name: sum(getattr(shard, name) for shard in shards) for name in TOTALS}
    marks = tuple(sorted({mark for shard in shards for mark in shard.marks}))
    return replace(first, ids=tuple(ids), marks=marks, **bits, **totals)


def _identity(record: Record) -> str:
    return f"{record.method} {record.seed} {record.attack} {record.set_name} {record.fingerprint}"


def _pack(bits: tuple[bool, ...]) -> str:
    return np.packbits(np.array(bits, bool)).tobytes().hex()


def _unpack(text: str, n: int) -> tuple[bool, ...]:
    return tuple(np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8), count=n).astype(bool).tolist())

"""What is known of one method under one attack on one set, image by image."""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from zsr import storage


@dataclass(frozen=True, kw_only=True)
class Record:
    """One cell, of one seed of fine-tuning.

    clean_bits and adv_bits: was image i classified right, without and with the attack; i follows `ids`.
    fingerprint: hash of everything the bits depend on. forwards, gradients: passes of the tower, summed over the
    images. A robust hit is an image right both times, so robust accuracy cannot exceed clean accuracy.
    """

    method: str
    seed: int
    attack: str
    set_name: str
    fingerprint: str
    protocol: str
    ids: tuple[int, ...] = ()
    clean_bits: tuple[bool, ...] = ()
    adv_bits: tuple[bool, ...] = ()
    forwards: int = 0
    gradients: int = 0

    @property
    def robust_bits(self) -> tuple[bool, ...]:
        return tuple(clean and adv for clean, adv in zip(self.clean_bits, self.adv_bits, strict=True))

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
            "clean_bits": _pack(self.clean_bits),
            "adv_bits": _pack(self.adv_bits),
        }
        storage.write_json(path, document)

    @classmethod
    def load(cls, path: Path) -> "Record":
        document = storage.read_json(path)
        n = document["n"]
        kept = {name: document[name] for name in cls.__dataclass_fields__}
        bits = {name: _unpack(document[name], n) for name in ("clean_bits", "adv_bits")}
        return cls(**kept | bits | {"ids": tuple(document["ids"])})


def _pack(bits: tuple[bool, ...]) -> str:
    return np.packbits(np.array(bits, bool)).tobytes().hex()


def _unpack(text: str, n: int) -> tuple[bool, ...]:
    return tuple(np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8), count=n).astype(bool).tolist())

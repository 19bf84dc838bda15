"""Files that survive a kill: tensors with facts beside them, JSON, digests; every write is atomic."""

import csv
import fcntl
import hashlib
import io
import json
import math
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zsr import disk

FACTS = "facts"  # one key only, since safetensors does not keep the order of several keys


def write_atomic(path: Path, content: bytes) -> None:
    """Write to a temporary name, flush to disk, rename: a reader sees the old file or the new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file, indented, with a newline at its end."""
    write_atomic(path, (json.dumps(content, indent=1) + "\n").encode())


def read_json(path: Path) -> Any:
    """The content of a JSON file."""
    return json.loads(path.read_text())


def write_rows(path: Path, rows: Sequence[Mapping], header: Sequence[str] = ()) -> None:
    """Write a CSV file. header: the columns where there may be no rows."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]) if rows else list(header), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(path, buffer.getvalue().encode())


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file, by column; every value is text."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def distinct(rows: Iterable[Mapping[str, str]], key: str) -> list[str]:
    """The distinct values of a column, in the order of first appearance."""
    return list(dict.fromkeys(row[key] for row in rows))


def save_arrays(path: Path, arrays: dict, facts: dict | None = None) -> None:
    """Write named NumPy arrays and a JSON object of facts as one safetensors file, the same bytes every time."""
    from safetensors.numpy import save

    write_atomic(path, save(arrays, metadata={FACTS: json.dumps(facts or {})}))


def save_tensors(path: Path, tensors: dict, facts: dict | None = None) -> None:
    """As `save_arrays`, for torch tensors."""
    from safetensors.torch import save

    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomic(path, save(contiguous, metadata={FACTS: json.dumps(facts or {})}))


def load_arrays(path: Path) -> tuple[dict, dict]:
    """Named NumPy arrays and the facts written with them."""
    return _load(path, "np")


def load_tensors(path: Path) -> tuple[dict, dict]:
    """Named torch tensors, on the CPU, and the facts written with them."""
    return _load(path, "pt")


def load_facts(path: Path) -> dict:
    """The facts alone."""
    return _load(path, "np", tensors=False)[1]


def map_arrays(path: Path) -> tuple[dict, dict]:
    """As `load_arrays`, but the data of an array stay on disk until they are read. Changes are not written back."""
    import numpy as np

    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    facts = json.loads(header.pop("__metadata__", {}).get(FACTS, "{}"))
    types = {"U8": np.uint8, "I64": np.int64}
    return {
        name: np.memmap(path, types[entry["dtype"]], "c", 8 + length + entry["data_offsets"][0], tuple(entry["shape"]))
        for name, entry in header.items()
    }, facts


@contextmanager
def growing_images(path: Path, shape: tuple[int, ...], arrays: dict, facts: dict) -> Iterator[Any]:
    """Write a file as `save_arrays` does, of int64 arrays and of uint8 "images" that need not fit into memory.

    Yields an array (shape) on disk for the caller to fill. Where the caller fails, no file is left. The caller may
    change values in `facts`, to values of the same length. Raises StudyError where the disk has no room for the file,
    before the array is there.
    """
    import numpy as np
    from safetensors.numpy import save

    def header() -> bytes:
        empty = save(arrays | {"images": np.empty((0, *shape[1:]), np.uint8)}, metadata={FACTS: json.dumps(facts)})
        length = int.from_bytes(empty[:8], "little")
        entries = json.loads(empty[8 : 8 + length])
        start = entries["images"]["data_offsets"][0]
        entries["images"] |= {"shape": list(shape), "data_offsets": [start, start + math.prod(shape)]}
        text = json.dumps(entries, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text + empty[8 + length :]

    start, length = len(header()), math.prod(shape)
    disk.require_space(path.parent, start + length, str(path))
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    with disk.writing(path, start + length):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
    try:
        with open(descriptor, "r+b") as file:
            with disk.writing(path, start + length):
                disk.reserve(descriptor, start + length)
            images = np.memmap(file, np.uint8, "r+", start, shape) if length else np.empty(shape, np.uint8)
            yield images
            with disk.writing(path, start + length):
                if length:
                    images.flush()  # type: ignore[attr-defined]  # a map has it
                assert len(header()) == start
                file.seek(0)
                file.write(header())
                file.flush()
                os.fsync(descriptor)
                temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _load(path: Path, framework: str, tensors: bool = True) -> tuple[dict, dict]:
    from safetensors import safe_open

    with safe_open(str(path), framework=framework) as file:
        facts = json.loads((file.metadata() or {}).get(FACTS, "{}"))
        return {name: file.get_tensor(name) for name in file.keys() if tensors}, facts


def digest(*parts: bytes | str | Path) -> str:
    """A short hash of byte strings, texts and contents of files, in order. Parts cannot run into each other."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            total.update(bytes.fromhex(sha256(part)))
        else:
            total.update(hashlib.sha256(part.encode() if isinstance(part, str) else part).digest())
    return total.hexdigest()[:32]


def mix(*numbers: int) -> int:
    """One seed of 60 bits from several numbers."""
    return int(digest(repr(numbers))[:15], 16)


def sha256(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal. The file need not fit into memory."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            total.update(chunk)
    return total.hexdigest()


def identity(path: Path) -> str:
    """A digest of the content of a file. A file of images has a digest in its header, so only the header is read."""
    if path.suffix == ".safetensors" and "digest" in load_facts(path):
        with path.open("rb") as file:
            return digest(file.read(int.from_bytes(file.read(8), "little")))
    return sha256(path)


def of_seed(folder: Path, seed: int) -> Path:
    """The file of a seed, in a folder that has one safetensors file for each seed, or a single one for all seeds."""
    paths = list(folder.glob("*.safetensors"))
    return paths[0] if len(paths) == 1 else folder / f"{seed}.safetensors"


@contextmanager
def claimed(path: Path) -> Iterator[None]:
    """Hold a lock on `path`. A process left over from a killed run is waited for, so two never write one result."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(path.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield

"""The project's own files: every write is atomic, and a reader refuses in one line what is not what it expects.

A file of tensors, and kept JSON, hold a digest of their content. A file may also state the place that it was written
for. Readers compare both.
"""

import csv
import errno
import fcntl
import hashlib
import io
import json
import math
import os
import re
import secrets
import shutil
import socket
import sys
import time
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from zsr.params import StudyError, require_plain

FACTS = "facts"  # one key only, since safetensors does not keep the order of several keys
CONTENT, PLACE = "content", "place"  # facts of a file about itself: the digest of its content, and its path
OF_ITSELF = (CONTENT, PLACE, "digest", "task", "training")  # facts that are text
SMALL = 2**26  # bytes; larger files are verified once for each size, time and inode
HOST = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:4]
TEMPORARY = re.compile(rf"\..+\.(\d+)-{HOST}[0-9a-f]+\.tmp")  # number of the process; files of other hosts are left
SEED = r"0|[1-9][0-9]*"
NUMBERS = ("accuracy", "correct", "high", "low", "mean", "n", "sd", "value")  # columns of numbers, in any CSV file
STAGES = {  # beginning of an output's path -> the stage that makes the output; {} is the next part of the path
    "data/downloads": "download@{}",
    "data/base_weights.json": "download_base",
    "data/sets.json": "sets",
    "data/sets": "data@{}",
    "data/base_model": "base_model",
    "data/text_embeddings": "text_embeddings@{}",
    "data/starts": "start",
    "data/checkpoints": "train@{}",
    "data/records": "evaluate@{}",
    "data/defended": "defend@{}",
    "data/study.json": "check",
    "metrics/curves/base_model.csv": "base_model",
    "metrics/curves": "train@{}",
    "metrics/results": "collect",
    "metrics/summary": "collect",
    "metrics/eps_sweep": "eps_sweep@{}",
    "metrics/attention": "attention@{}",
    "metrics/defended": "defend@{}",
    "metrics/likeness": "likeness@{}",
}
MARGIN = 2**20  # bytes of the disk that stay free, and a hundredth of the file
CANNOT_RESERVE = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
BEFORE_WRITING: list[Callable[[], None]] = []  # called before a file takes its name; a stage ends here without its run


class Unusable(StudyError, ValueError):
    """A file of the project that is not there, cannot be read, or is not what its reader expects.

    Attributes:
        path: the file.
        reason: what is wrong, as the end of a sentence that begins with the path.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} {reason}{remedy(path)}")
        self.path, self.reason = path, reason


def remedy(path: Path) -> str:
    """The end of a message: the commands that bring an output of a study back; "" for any other file."""
    parts = path.parts
    for start in range(len(parts) - 1):
        output = "/".join(parts[start:])
        for beginning, stage in STAGES.items():
            if output == beginning or output.startswith(f"{beginning}/"):
                cell = re.sub(r"\.(csv|json|png)$", "", output.removeprefix(f"{beginning}/").partition("/")[0])
                back = f"dvc checkout --force {output}" if parts[start] == "data" else f"git checkout {output}"
                return f"; run {back}, or dvc repro -f -s {stage.format(cell)}"
    return ""


@contextmanager
def temporary_for(path: Path) -> Iterator[Path]:
    """A new, hidden, empty file beside `path`, which takes the name of `path` where the block ends well.

    Where the block fails, the file is removed. The next writer in the folder removes the file of a killed process.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise StudyError(f"{path} is a device or a pipe, and a file would take its place: name a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{HOST}{secrets.token_hex(4)}.tmp")
    try:
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666))
        yield temporary
        for check in BEFORE_WRITING:
            check()
        temporary.replace(path)
    except OSError as error:
        if str(error.filename) == str(temporary):  # a message names the file that its reader knows
            error.filename, error.filename2 = path, None
        raise
    finally:
        with suppress(OSError):  # such as a name that is too long; the first error tells more
            temporary.unlink(missing_ok=True)


def _sweep(folder: Path) -> None:
    """Remove the temporary files of processes of this host that are gone."""
    with os.scandir(folder) as entries:
        found = [(entry.path, match) for entry in entries if (match := TEMPORARY.fullmatch(entry.name))]
    for path, match in found:
        try:
            os.kill(int(match[1]), 0)
        except ProcessLookupError:
            Path(path).unlink(missing_ok=True)
        except (PermissionError, OverflowError):
            continue  # the process of another user is there


def write_atomic(path: Path, content: bytes) -> None:
    """Write to a temporary name, flush to disk, rename: a reader sees the old file or the new one, never half of it."""
    with temporary_for(path) as temporary, temporary.open("r+b") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file, indented, with a newline at its end."""
    write_atomic(path, (json.dumps(content, indent=1) + "\n").encode())


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises Unusable."""
    with _reading(path):
        return json.loads(path.read_text(encoding="utf-8"))


def write_kept(path: Path, task: str, content: Any) -> None:
    """Write JSON that states its task and a digest of itself. `read_kept` compares both."""
    document = {"task": task, "content": content}
    write_json(path, document | {"digest": json_digest(document)})


def read_kept(path: Path, task: str, keys: Collection[str] | None = None) -> Any:
    """The content of a file of `write_kept`.

    keys: the content must be a mapping with these keys; None: any content is right.

    Raises Unusable: the file is damaged, of another task, or of another form.
    """
    document = read_json(path)
    if not isinstance(document, dict) or document.pop("digest", "") != json_digest(document):
        raise Unusable(path, "is damaged: its content has another digest than it states")
    if document.keys() != {"task", "content"}:  # a record states a digest of itself, too
        raise Unusable(path, f"is another file of the project, not that of the task {task}")
    if document["task"] != task:
        raise Unusable(path, f"is of the task {document['task']}, not of {task}")
    content = document["content"]
    if keys is not None and not (isinstance(content, dict) and content.keys() >= set(keys)):
        raise Unusable(path, f"is of another form than the {task} of this version of the program")
    return content


def json_digest(document: Any) -> str:
    """A digest of what can be written as JSON. The order of keys does not count."""
    return digest(json.dumps(document, sort_keys=True))


def check_zip(path: Path) -> None:
    """Raise Unusable where a zip archive, such as torch writes, is damaged. torch does not compare the checksums."""
    with _reading(path):
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
            if damaged:
                raise ValueError(f"the checksum of {damaged} is another")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what a damaged or absent file raises into Unusable."""
    require_plain(path)
    try:
        yield
    except StudyError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        raise Unusable(path, "is not there") from None
    except (OSError, MemoryError):
        raise  # rights, the disk or memory: the file may be whole
    except Exception as error:  # the parser of a format may raise any exception
        reason = " ".join(str(error).split())[:100]
        raise Unusable(path, f"is damaged ({type(error).__name__}{': ' * bool(reason)}{reason})") from None


def write_rows(path: Path, rows: Sequence[Mapping], header: Sequence[str] = ()) -> None:
    """Write a CSV file. header: the columns where there may be no rows."""
    write_atomic(path, rows_text(rows, header).encode())


def rows_text(rows: Sequence[Mapping], header: Sequence[str] = ()) -> str:
    """The text of a CSV file, see `write_rows`."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]) if rows else list(header), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def read_rows(path: Path, numbers: Iterable[str] | None = NUMBERS) -> list[dict[str, str]]:
    """The rows of a CSV file, by column; every value is text.

    Args:
        path: the file.
        numbers: the columns, where the file has them, that hold nothing but numbers and blanks; None: all columns.

    Raises:
        Unusable: a row is cut, a number is none, or the file is empty.
    """
    with _reading(path), path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file, strict=True)
        rows = list(reader)
        if reader.fieldnames is None and not path.stat().st_size:
            raise ValueError("it is empty")
        for number, row in enumerate(rows, 1):
            if None in row or None in row.values():
                raise ValueError(f"row {number} has other columns than the header")
            for column in row if numbers is None else row.keys() & set(numbers):
                if row[column]:
                    float(row[column])
        return rows


def distinct(rows: Iterable[Mapping[str, str]], key: str) -> list[str]:
    """The distinct values of a column, in the order of first appearance."""
    return list(dict.fromkeys(row[key] for row in rows))


def save_arrays(path: Path, arrays: dict, facts: dict | None = None) -> None:
    """Write named NumPy arrays and a JSON object of facts as one safetensors file, the same bytes every time."""
    from safetensors.numpy import save

    write_atomic(path, save(arrays, metadata={FACTS: json.dumps(facts or {})}))


def save_tensors(path: Path, tensors: dict, facts: dict | None = None, placed: bool = False) -> None:
    """As `save_arrays`, for torch tensors. The file also states the digest of its content.

    placed: the file states its path, too, and `check_place` refuses the file elsewhere.
    """
    from safetensors.torch import save

    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content = save(contiguous)
    length = 8 + int.from_bytes(content[:8], "little")
    entries, data, facts = json.loads(content[8:length]), memoryview(content)[length:], dict(facts or {})
    facts[CONTENT] = _content_digest(entries, facts, [data])
    if placed:
        facts[PLACE] = path.as_posix()
    text = json.dumps({"__metadata__": {FACTS: json.dumps(facts)}} | entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    write_atomic(path, len(text).to_bytes(8, "little") + text + data)


def load_arrays(path: Path) -> tuple[dict, dict]:
    """Named NumPy arrays and the facts written with them. Raises Unusable."""
    return _load(path, "np")


def load_tensors(path: Path) -> tuple[dict, dict]:
    """Named torch tensors, on the CPU, and the facts written with them. Raises Unusable: another digest than stated."""
    return _load(path, "pt")


def load_facts(path: Path) -> dict:
    """The facts alone, without those of the file about itself. Raises Unusable where the header is damaged."""
    return _own(_header(path)[1])


def check_content(path: Path) -> None:
    """Raise Unusable where a file of tensors has another content than the digest that it states, or is damaged.

    An output of a study, and kept work, must state a digest. Files from elsewhere need not.
    """
    entries, facts, start = _header(path)
    if CONTENT in facts:
        verify(path, facts[CONTENT], lambda: _content_digest(entries, facts, _chunks(path, start)))
    elif facts.keys() & {PLACE, "task", "training"} or remedy(path):
        raise Unusable(path, "states no digest of its content, so it may be damaged")


def check_place(path: Path) -> None:
    """Raise Unusable where a file of tensors or images states another place than its own.

    The path may be relative to any folder. What stands in the place of an output must be that output, also where the
    path is a link, as DVC makes links into its cache. Any other path may be a link to the file in its place.
    """
    stated, here = _header(path)[1].get(PLACE), Path(os.path.abspath(path))
    of_output = remedy(here)
    if stated is None:
        if of_output:
            raise Unusable(path, "does not state what it was written as, so it may be another file")
        return
    place = Path(_place(stated)).parts
    if not any(one.parts[-len(place) :] == place for one in [here, *([] if of_output else [path.resolve()])]):
        raise Unusable(path, f"was written as {ascii(stated)[1:-1]}, and is refused elsewhere")


def _place(path: str) -> str:
    """A path from the part on that is an output of a study; the whole path where no part is."""
    parts = Path(path).parts
    ends = ("/".join(parts[start:]) for start in range(len(parts)))
    return next((end for end in ends if any(end.startswith(f"{output}/") for output in STAGES)), path)


def check_finite(path: Path, tensors: Mapping[str, Any]) -> None:
    """Raise Unusable where a torch tensor has a number that is not finite. path: where the tensors come from."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise Unusable(path, f"has numbers in {name} that are not finite")


_verified: set[tuple] = set()


def verify(path: Path, stated: str, computed: Callable[[], str]) -> None:
    """Raise Unusable where a file has another digest than it states. A large file that was verified is not read again.

    computed: reads the file and returns the digest.
    """
    status = path.stat()
    seen = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, stated)
    if seen in _verified:
        return
    if computed() != stated:
        raise Unusable(path, "is damaged: its content has another digest than it states")
    if status.st_size > SMALL:
        _verified.add(seen)


def map_arrays(path: Path) -> tuple[dict, dict]:
    """As `load_arrays`, but the data of an array stay on disk until they are read. Changes are not written back."""
    import numpy as np

    entries, facts, start = _header(path)
    types = {"U8": np.uint8, "I64": np.int64}
    with _reading(path):
        return {
            name: np.memmap(path, types[entry["dtype"]], "c", start + entry["data_offsets"][0], tuple(entry["shape"]))
            for name, entry in entries.items()
        }, _own(facts)


# Room on the disk


def free(folder: Path) -> int:
    """Bytes that are free below a folder; of the nearest folder above it, where the folder is not there yet."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def require_space(folder: Path, needed: int, purpose: str, advice: str = "make room") -> None:
    """Raises StudyError where a folder has not `needed` bytes free, and a margin. purpose: the subject of the line."""
    if needed > 0 and free(folder) < needed + needed // 100 + MARGIN:
        raise StudyError(
            f"{purpose} needs {_said(needed)} below {folder}, where {_said(free(folder))} are free: {advice}"
        )


def check_writable(path: Path, folder: bool = False) -> None:
    """Raise StudyError where no file, or no folder of files, can be made at a path that a user has named.

    It is called before anything is computed. folder: the path is that of a folder, which may be there.
    """
    if path.is_dir() and not folder:
        raise StudyError(f"{path} is a folder, and must be a file: name a file")
    if path.exists() and not path.is_dir() and (folder or not path.is_file()):
        kind, made = "a file" if path.is_file() else "a device or a pipe", "folder" if folder else "file"
        raise StudyError(f"{path} is {kind}, and a {made} would take its place: name another place")
    above = path if path.is_dir() else path.absolute().parent
    while not os.path.lexists(above):
        above = above.parent
    if not above.is_dir():
        raise StudyError(f"{path} cannot be made, since {above} is no folder: name another place")
    if not os.access(above, os.W_OK | os.X_OK):
        raise StudyError(f"{path} cannot be written, since {above} may not be: name another place")


@contextmanager
def writing(path: Path, needed: int = 0) -> Iterator[None]:
    """Turns what the file system refuses into one StudyError line, with the sizes where the disk is full."""
    try:
        yield
    except OSError as error:
        sizes = f"; it needs {_said(needed)}, and {_said(free(path.parent))} are free" if needed else ""
        raise StudyError(f"{path} cannot be written ({error.strerror or error}{sizes}): make room") from None


def reserve(descriptor: int, size: int) -> None:
    """Make an open file `size` bytes long, on the disk as well, so that a write into a memory map finds its place.

    Raises OSError where there is no room. Without a way to reserve, the file has holes.
    """
    try:
        if hasattr(os, "posix_fallocate"):
            return os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno not in CANNOT_RESERVE:
            raise
    os.ftruncate(descriptor, size)


def _said(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.2f} MB"


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
    require_space(path.parent, start + length, str(path))
    with temporary_for(path) as temporary, temporary.open("r+b") as file:
        with writing(path, start + length):
            reserve(file.fileno(), start + length)
        images: Any = np.memmap(file, np.uint8, "r+", start, shape) if length else np.empty(shape, np.uint8)
        yield images
        with writing(path, start + length):
            if length:
                images.flush()
            assert len(header()) == start
            file.seek(0)
            file.write(header())
            file.flush()
            os.fsync(file.fileno())


def _load(path: Path, framework: str) -> tuple[dict, dict]:
    from safetensors import safe_open

    check_content(path)
    with _reading(path), safe_open(str(path), framework=framework) as file:
        facts = json.loads((file.metadata() or {}).get(FACTS, "{}"))
        return {name: file.get_tensor(name) for name in file.keys()}, _own(facts)


def _own(facts: dict) -> dict:
    return {name: value for name, value in facts.items() if name not in (CONTENT, PLACE)}


def _header(path: Path) -> tuple[dict, dict, int]:
    """The entries of the arrays in a safetensors file, the facts, and the place in the file where data begin."""
    with _reading(path), path.open("rb") as file:
        length, size = int.from_bytes(file.read(8), "little"), path.stat().st_size
        if not 2 <= length <= size - 8:
            raise ValueError(f"{size} bytes are no file of safetensors")
        entries = json.loads(file.read(length))
        facts = json.loads(entries.pop("__metadata__", {}).get(FACTS, "{}"))
        end = 8 + length + max((entry["data_offsets"][1] for entry in entries.values()), default=0)
        if size != end:
            raise ValueError(f"it has {size} bytes, and its header says {end}")
        if not isinstance(facts, dict) or not all(isinstance(facts.get(name, ""), str) for name in OF_ITSELF):
            raise ValueError("its facts are not those that the project writes")
    return entries, facts, 8 + length


def _chunks(path: Path, start: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(start)
        while chunk := file.read(2**20):
            yield chunk


def _content_digest(entries: dict, facts: dict, data: Iterable[bytes | memoryview]) -> str:
    total = hashlib.sha256(json.dumps([entries, _own(facts)], sort_keys=True).encode())
    for chunk in data:
        total.update(chunk)
    return total.hexdigest()


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
    return _hashed(path, hashlib.sha256())


def md5(path: Path) -> str:
    """The MD5 of a file in hexadecimal, for publishers who state no other hash."""
    return _hashed(path, hashlib.md5(usedforsecurity=False))


def _hashed(path: Path, total: Any) -> str:
    require_plain(path)
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            total.update(chunk)
    return total.hexdigest()


def identity(path: Path) -> str:
    """A digest of the content of a file, wherever it lies. Of a file that states a digest only the header is read."""
    if path.suffix == ".safetensors":
        entries, facts, _ = _header(path)
        if CONTENT in facts or "digest" in facts:
            facts.pop(PLACE, None)
            return json_digest([entries, facts])
    return sha256(path)


def of_seed(folder: Path, seed: int) -> Path:
    """The file of a seed, in a folder that has one safetensors file for each seed, or a single one for all seeds."""
    paths = listed(folder, ".safetensors")
    return paths[0] if len(paths) == 1 else folder / f"{seed}.safetensors"


def listed(folder: Path, suffix: str, stem: str = SEED) -> list[Path]:
    """The files and folders of a folder whose names are known, by number or name. Other names are passed over.

    stem: a regular expression of the whole name before the suffix.
    """
    known = re.compile(f"(?:{stem}){re.escape(suffix)}")
    paths = [path for path in (folder.iterdir() if folder.is_dir() else []) if known.fullmatch(path.name)]
    return sorted(paths, key=lambda path: int(path.stem) if stem == SEED else path.name)


@contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Hold a lock on `path`. A process left over from a killed run is waited for, so two never write one result.

    A process that must wait says once, on stderr, who holds the lock. Yields whether it had to wait.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    name = path.with_name(f".{path.name}.lock")
    descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    with os.fdopen(descriptor, "r+", encoding="utf-8", errors="backslashreplace") as lock:
        waited = not _locked_at_once(lock.fileno())
        if waited:
            holder = lock.read(500).strip() or "another process"
            say(f"Waiting for {path}, which is held by {holder}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        lock.seek(0)
        lock.truncate()
        command = " ".join([Path(sys.argv[0]).stem, *sys.argv[1:]])[:200]
        lock.write(f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%F %T')} ({command})\n")
        lock.flush()
        yield waited


def _locked_at_once(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def say(line: str) -> None:
    """One line on stderr, for whoever watches; nothing where nobody can."""
    with suppress(OSError, ValueError):
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()

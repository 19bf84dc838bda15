"""params.yaml -> frozen dataclasses. Errors name the key that is unknown, missing, of the wrong type or out of range.

The schema of a block is the dataclass beside the code that the block configures. This module does not know the schemas;
`zsr.study` puts them together.

The errors of the whole project are here, too. A stage shows one as one line and exits with 1, without a traceback.
"""

import datetime
import errno
import math
import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from difflib import get_close_matches
from fractions import Fraction
from functools import cache
from importlib import import_module
from inspect import signature
from pathlib import Path
from pkgutil import iter_modules
from reprlib import Repr
from traceback import walk_tb
from types import ModuleType, UnionType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

EXTENSIONS = Path(__file__).resolve().parents[1] / "extensions"  # packages and weights from outside the project


class StudyError(Exception):
    """An error whose message is one sentence with the key or file, the value, and the choices or the remedy."""


class ParamError(StudyError):
    """A mistake in params.yaml."""


class Diverged(StudyError):
    """The loss or the gradient of a training is no longer finite."""


SYSTEM = {  # errno -> what it means for a file, and what to do
    errno.EACCES: "permission denied; give this user the right to it, or choose another place",
    errno.EPERM: "permission denied; give this user the right to it, or choose another place",
    errno.EROFS: "the file system is read-only; choose another place (ZSR_SCRATCH moves kept work)",
    errno.ENOENT: "is not there",
    errno.EEXIST: "is there already, and is no folder; move it away, or name another place",
    errno.EISDIR: "is a folder, and must be a file",
    errno.ENOTDIR: "must be in a folder, and a part of the path is a file",
    errno.ENOTEMPTY: "is a folder that is not empty",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ELOOP: "is a link to itself",
    errno.EMFILE: "too many files are open; allow more (ulimit -n), or set evaluate.workers lower",
    errno.ENFILE: "too many files are open on this machine; end other programs and run again",
    errno.EFBIG: "the file is too large for its file system",
    errno.EBADF: "is closed; send it to a file or a terminal",
    errno.EIO: "the disk fails to read or write it",
    errno.EAGAIN: "the system gives no more processes or threads; set threads lower, or allow more (ulimit -u)",
}
FULL = (errno.ENOSPC, errno.EDQUOT)
OUTPUT = "the output of the command"  # where it was sent to
IN_THE_WAY = (errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY)
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "bad_alloc", "bad allocation")
PARSERS = {  # modules whose exceptions say that a file is damaged
    *("safetensors_rust", "safetensors", "json", "csv", "_csv", "zipfile", "tarfile", "zlib", "lzma", "_lzma", "gzip"),
    *("pickle", "_pickle", "struct", "PIL", "h5py", "ruamel", "xml"),
}


def line_of(error: BaseException) -> str:
    """The one line that tells a user of an error; "": the error is a bug of ours, whose traceback is needed.

    No words of libraries are passed on, since some advise what nobody should do.
    """
    if isinstance(error, StudyError):
        return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in str(error))
    if _is_of_memory(error):
        return (
            "out of memory; set batch_size or workers lower, train.accumulate higher, or end other programs, and run "
            "again: finished work is kept"
        )
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return f"the system gives no more threads; {SYSTEM[errno.EAGAIN].partition('; ')[2]}"
    if isinstance(error, OSError) and error.errno in FULL:
        return _of_full_disk(error)
    if isinstance(error, OSError) and error.errno in SYSTEM:
        return f"{_path_of(error)}: {SYSTEM[error.errno]}"
    if isinstance(error, OSError) and (isinstance(error, ConnectionError | TimeoutError) or error.errno is not None):
        return f"{_path_of(error)}: {error.strerror or type(error).__name__}"
    if isinstance(error, UnicodeDecodeError):
        return f"{_path_of(error)}: must be UTF-8 text, and byte {error.object[error.start]:#x} is not; save it so"
    if isinstance(error, UnicodeEncodeError):
        names_are_utf8 = error.encoding == sys.getfilesystemencoding() == "utf-8"
        way = "rename what has a byte in its name that is no UTF-8" if names_are_utf8 else "set PYTHONUTF8=1"
        return f"{_path_of(error)}: {error.encoding} has no {shown(error.object[error.start])}; {way}"
    root = type(error).__module__.partition(".")[0]
    if isinstance(error, OSError | EOFError) or root in PARSERS:
        return (
            f"{_path_of(error)}: damaged, or no file of its kind ({type(error).__name__}); restore it (dvc checkout, "
            "zsr fetch) or delete it, and run again"
        )
    return _of_extension(error)


def _of_extension(error: BaseException) -> str:
    """The line about an error in code of the folder `extensions`, with the last line there; "": no such code ran."""
    frames = [(Path(frame.f_code.co_filename), line) for frame, line in walk_tb(error.__traceback__)]
    theirs = [f"{path}, line {line}" for path, line in frames if EXTENSIONS in path.parents]
    return f"{theirs[-1]}: {_short_of(error)}; mend it there" if theirs else ""


def _short_of(error: BaseException) -> str:
    return _printable(cut(f"{type(error).__name__}: {error}", 200))


def _is_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in OUT_OF_MEMORY)


def _of_full_disk(error: OSError) -> str:
    """The line about a full disk: the file, and the place where its disk is mounted."""
    path = _path_of(error)
    if path == OUTPUT:
        return f"no space left for {path}; finished work is kept: send it to another place and run again"
    disk = next((folder for folder in Path(path).absolute().parents if os.path.ismount(folder)), "the disk")
    what = "no space left" if error.errno == errno.ENOSPC else "the quota is used up"
    return f"{what} on {disk} while writing {path}; finished work is kept: free some space and run again"


def _path_of(error: BaseException) -> str:
    """The file that an error is about: the error's own, or what the innermost function with a `path` had in hand."""
    named = getattr(error, "filename", None)
    if isinstance(error, OSError) and error.errno in IN_THE_WAY:  # of a file that was to take this name
        named = error.filename2 or named
    found = os.fsdecode(named) if isinstance(named, (str, bytes, os.PathLike)) else ""
    trace = error.__traceback__
    while trace and not named:
        if trace.tb_frame.f_globals.get("__name__") == "click.utils":  # its `echo`, not a file of the caller
            return OUTPUT
        path = trace.tb_frame.f_locals.get("path")
        found = str(path) if isinstance(path, Path) else found
        trace = trace.tb_next
    return _printable(found) or "a file"


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)


@dataclass(frozen=True)
class Interval:
    """The numbers a key may take.

    Attributes:
        low: the lower end.
        high: the upper end.
        above: numbers must be above low; else low itself is allowed.
        below: numbers must be below high; else high itself is allowed.
        ceiling: the upper end that spares the machine, where there is no other. Only a message about a larger number
            names the ceiling.
    """

    low: float
    high: float = math.inf
    above: bool = False
    below: bool = False
    ceiling: float = math.inf

    def __contains__(self, value: float) -> bool:
        after = self.low < value if self.above else self.low <= value
        return after and (value < self.high if self.below else value <= self.high) and value <= self.ceiling

    def told(self, value: float) -> str:
        """The interval in a message about a value outside of it."""
        ceiling = f"{self.ceiling:,}" if isinstance(self.ceiling, int) else f"{self.ceiling:g}"
        return f"{self} and at most {ceiling}" if value > self.ceiling else str(self)

    def advice(self, value: Any) -> str:
        """The end of a message about a value outside the interval."""
        return ""

    def __str__(self) -> str:
        start = f"{'above' if self.above else 'at least'} {self.low:g}"
        end = f"{'below' if self.below else 'at most'} {self.high:g}"
        return start if self.high == math.inf else f"{start} and {end}"


@dataclass(frozen=True)
class PixelInterval(Interval):
    """The distances of pixels in [0, 1]. The commonest mistake is a distance in grey levels."""

    def advice(self, value: Any) -> str:
        """The fraction that a number of grey levels is."""
        return f"; {value:g} grey levels are {value:g}/255" if 1 < value <= 255 else ""


@dataclass(frozen=True)
class OneSlot:
    """Texts with one place for a class name."""

    def __contains__(self, text: str) -> bool:
        return text.count("{}") == 1 and not set(text.replace("{}", "")) & set("{}")

    def told(self, value: Any) -> str:
        """What is wanted."""
        return str(self)

    def advice(self, value: Any) -> str:
        """Nothing."""
        return ""

    def __str__(self) -> str:
        return "text that holds {} once, for the class name, and no other brace"


# Kinds of numbers. The ceilings are far above what studies need. Above them a later stage would run out of memory, run
# for years, or overflow fp32.
Positive = Annotated[float, Interval(0, above=True, ceiling=1e38)]
NonNegative = Annotated[float, Interval(0, ceiling=1e38)]
Share = Annotated[float, Interval(0, 1)]
PixelRange = Annotated[float, PixelInterval(0, 1, above=True)]  # a distance between pixels in [0, 1], such as 8/255
PixelRangeOrZero = Annotated[float, PixelInterval(0, 1)]
Count = Annotated[int, Interval(1, ceiling=1_000_000_000)]
Natural = Annotated[int, Interval(0, ceiling=10**15)]  # also bytes of a file
Seed = Annotated[int, Interval(0, ceiling=2**32 - 1)]
Images = Annotated[int, Interval(1, ceiling=10_000_000)]
ImagesOrNone = Annotated[int, Interval(0, ceiling=10_000_000)]
Threads = Annotated[int, Interval(1, ceiling=1_024)]
BatchSize = Annotated[int, Interval(1, ceiling=16_384)]  # in evaluation a batch has this size also for fewer images
Epochs = Annotated[float, Interval(0, ceiling=10_000)]
Iterations = Annotated[int, Interval(1, ceiling=100_000)]  # and queries of one image
IterationsOrNone = Annotated[int, Interval(0, ceiling=100_000)]
Rounds = Annotated[int, Interval(1, ceiling=1_000)]  # of one attack: restarts, target classes
Pixels = Annotated[int, Interval(1, ceiling=1_024)]  # side of an image
Side = Annotated[int, Interval(0, ceiling=1_024)]  # of an image that is enlarged; 0: it is not
Template = Annotated[str, OneSlot()]

MOST_ENTRIES = 1_000  # in one list or block
MOST_LETTERS = 2_000  # in one text
MOST_BYTES = 100_000  # in one params file: ruamel reads 70 kB in a second
MOST_VALUES, MOST_LEVELS = 20_000, 20  # in one params file, an alias counted wherever it stands
BARRED = re.compile("[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\ud800-\\udfff]")  # control characters, halves of characters
MOST_DIGITS = 60  # in one number that is written as text, such as "8/255"


def require_plain(path: Path) -> None:
    """Raise StudyError where a path is that of a device or a pipe: a reader would wait for ever, or read for ever."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise StudyError(f"{_printable(str(path))} is a device or a pipe, and must be a file: put the file back")


def text_of(path: Path) -> str:
    """The text in a UTF-8 file, with or without a byte order mark. Raises ParamError where it cannot be read."""
    try:
        require_plain(path)
        content = path.read_bytes()
    except (OSError, StudyError) as error:
        raise ParamError(line_of(error)) from None
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ParamError(f"{path}: must be UTF-8 text, and is UTF-16 or UTF-32; save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        byte = content[error.start]
        raise ParamError(f"{path}: must be UTF-8 text, and byte {byte:#x} in line {line} is not; save it so") from None


def read(path: Path) -> dict:
    """The document in a params file, read as YAML 1.2 as DVC does (`1e-05` is a number, `off` a string).

    Raises ParamError: no such file; not UTF-8; not YAML; too large or too deep; a key twice; not a mapping at the top;
    a value that is no text, number, true, false, null, list or block.
    """
    from ruamel.yaml import YAMLError

    text = text_of(path)
    if len(text) > MOST_BYTES:
        raise ParamError(f"{path}: must have at most {MOST_BYTES:,} letters, got {len(text):,}")
    try:
        document = _parser().load(text)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" in line {mark.line + 1}" if mark else ""
        problem = str(getattr(error, "problem", None) or error).partition("\n")[0]
        raise ParamError(f"{path}: not valid YAML{place}: {cut(problem, 200)}") from None
    except StudyError as error:
        raise ParamError(f"{path}: {error}") from None
    except Exception as error:  # of a parser that is not ours: a month 13, a number of 5,000 digits
        raise ParamError(f"{path}: holds a number or date that YAML cannot read ({type(error).__name__})") from None
    if not isinstance(document, dict):
        raise ParamError(f"{path}: must hold keys and values, got {shown(document)}")
    try:
        _check_plain(document)
    except ParamError as error:
        raise ParamError(f"{path}: {error}") from None
    return document


def _parser() -> Any:
    """A parser of YAML 1.2 that ends at MOST_LEVELS: with depth its time grows by the square."""
    from ruamel.yaml import YAML
    from ruamel.yaml.composer import Composer

    class Shallow(Composer):
        """Composes blocks and lists that are nested in at most MOST_LEVELS levels."""

        level = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            self.level += 1
            if self.level > MOST_LEVELS:
                raise ParamError(f"blocks and lists must be nested in at most {MOST_LEVELS} levels")
            node = super().compose_node(parent, index)
            self.level -= 1
            return node

    parser = YAML(typ="safe", pure=True)
    parser.Composer = Shallow
    return parser


def _check_plain(document: Mapping) -> None:
    """Check the kinds of all values, and their number and depth: an alias may repeat a block a million times."""
    queue: list[tuple[Any, tuple[str, ...]]] = [(document, ())]
    values = 0
    while queue:
        block_or_list, keys = queue.pop()
        if len(keys) > MOST_LEVELS:
            raise ParamError(f"{cut('.'.join(keys))} is nested in more than {MOST_LEVELS} levels")
        named = block_or_list.items() if isinstance(block_or_list, dict) else enumerate(block_or_list)
        for name, value in named:
            values, inner = values + 1, (*keys, str(name))
            if values > MOST_VALUES:
                raise ParamError(f"must hold at most {MOST_VALUES:,} values, aliases counted wherever they stand")
            if isinstance(value, (dict, list)):
                queue.append((value, inner))
            elif not isinstance(value, (str, bool, int, float, type(None))):
                raise ParamError(
                    f"{'.'.join(inner)} must be text, a number, true, false, null, a list or a block, "
                    f"got {shown(value)}; put text between quotes"
                )


_short = Repr()
_short.maxlevel, _short.maxstring, _short.maxother, _short.maxlong = 2, MOST_DIGITS, MOST_DIGITS, MOST_DIGITS


def shown(value: Any) -> str:
    """A value in a message, cut to some 60 characters."""
    if isinstance(value, datetime.date):
        return f"the date {value.isoformat()}"
    try:
        return cut(_short.repr(value))
    except ValueError:  # Python writes no number of more than 4,300 digits
        return "a number of thousands of digits"


def cut(text: str, most: int = MOST_DIGITS) -> str:
    """A text with at most some 60 characters, on one line."""
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 3]}..."


def block(document: Mapping, key: str, schema: Any) -> Any:
    """The value under a dotted key, checked against a schema: a dataclass or a type hint."""
    value = document
    for depth, part in enumerate(key.split(".")):
        if not isinstance(value, Mapping) or part not in value:
            raise ParamError(f"missing key '{'.'.join(key.split('.')[: depth + 1])}'")
        value = value[part]
    return build(schema, value, key)


def build(schema: Any, value: Any, key: str) -> Any:
    """A checked value of the schema. Raises ParamError with the key, the value and the allowed values."""
    if is_dataclass(schema):
        return _build_dataclass(schema, value, key)
    origin, args = get_origin(schema), get_args(schema)
    if schema is Any:
        return value
    if origin is Annotated:
        checked = build(args[0], value, key)
        if checked not in args[1]:
            raise ParamError(f"{key} must be {args[1].told(checked)}, got {shown(value)}{args[1].advice(checked)}")
        return checked
    if origin is Literal:
        if value not in args:
            raise ParamError(f"{key} must be {_choices(args)}, got {shown(value)}{nearest(value, args)}")
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):  # a tuple where Python code makes the object
            raise ParamError(f"{key} must be a list, got {shown(value)}")
        _check_length(value, key, MOST_ENTRIES, "entries")
        return tuple(build(args[0], item, f"{key}[{i}]") for i, item in enumerate(value))
    if origin is dict:
        _check_block(value, key)
        return {name: build(args[1], item, f"{key}.{name}") for name, item in value.items()}
    plain = isinstance(origin, type) and origin is not UnionType  # of list[int] the list alone is checked
    return _build_scalar(origin if plain else schema, value, key)


def _check_block(value: Any, key: str) -> None:
    if not isinstance(value, Mapping):
        raise ParamError(f"{key} must hold keys and values, got {shown(value)}")
    _check_length(value, key, MOST_ENTRIES, "entries")


def _check_length(value: Any, key: str, most: int, what: str) -> None:
    if len(value) > most:
        raise ParamError(f"{key} must have at most {most:,} {what}, got {len(value):,}")


def _build_dataclass(schema: Any, value: Any, key: str) -> Any:
    _check_block(value, key)
    names = [field.name for field in fields(schema)]
    prefix = f"{key}." if key else ""
    for name in value:
        if name not in names:
            raise ParamError(
                f"unknown key '{prefix}{cut(str(name))}'{nearest(name, names)} (known: {', '.join(names) or 'none'})"
            )
    for field in fields(schema):
        if field.name not in value and field.default is MISSING and field.default_factory is MISSING:
            raise ParamError(f"missing key '{prefix}{field.name}'")
    hints = _hints(schema)
    built = {name: build(hints[name], item, f"{prefix}{name}") for name, item in value.items()}
    try:
        return schema(**built)
    except ValueError as error:
        raise ParamError(f"{key}: {error}" if key else str(error)) from None


@cache
def _hints(schema: Any) -> dict[str, Any]:
    return get_type_hints(schema, include_extras=True)


class Checked:
    """The base of a dataclass whose values are checked as those of params.yaml, also where Python code makes it.

    A default is not checked. Raises ParamError with the class, the field, the value and the allowed values.
    """

    def __post_init__(self) -> None:
        schema: Any = type(self)
        hints = _hints(schema)
        for field in fields(schema):
            value = getattr(self, field.name)
            if value is not field.default:
                object.__setattr__(self, field.name, build(hints[field.name], value, f"{schema.__name__}.{field.name}"))


def _build_scalar(schema: type, value: Any, key: str) -> Any:
    names = {bool: "true or false", int: "a whole number", float: "a number such as 0.1, 1e-3 or 8/255", str: "text"}
    if schema is float:
        number = _number(value)
        if number is not None:
            return number
    elif isinstance(value, schema) and (schema is bool or not isinstance(value, bool)):
        if isinstance(value, str):
            _check_text(value, key)
        return value
    raise ParamError(f"{key} must be {names.get(schema, schema)}, got {shown(value)}")


def _check_text(value: str, key: str) -> None:
    """Refuse what no file, path or terminal takes: a text without end, control characters, half of a character."""
    _check_length(value, key, MOST_LETTERS, "letters")
    if BARRED.search(value):
        raise ParamError(f"{key} must be text without control characters, got {shown(value)}")


def _number(value: Any) -> float | None:
    """The number of a value or of its text, such as "8/255"; None where it is none, or outside of what floats hold."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    if isinstance(value, str) and len(value) > MOST_DIGITS:
        return None
    try:  # a Fraction of "1e999999999" would be computed without end, and a fraction of two whole numbers is not
        number = float(Fraction(value) if isinstance(value, str) and "/" in value else value)
    except (ValueError, ZeroDivisionError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _choices(options: tuple) -> str:
    return "one of " + ", ".join(map(str, options))


def nearest(value: Any, options: Iterable) -> str:
    """The text after an unknown name in a message: "; did you mean 'x'?", or "" where no option is close."""
    close = get_close_matches(value[:MOST_DIGITS], list(map(str, options)), n=1) if isinstance(value, str) else []
    return f"; did you mean '{close[0]}'?" if close else ""


@dataclass(frozen=True)
class Row:
    """A row of methods, starts, attacks or defences: the module of its code, and its hyper-parameters.

    Attributes:
        module: the module below zsr.methods, zsr.attacks or zsr.defences, or one in the folder `extensions`; by default
            the module with the name of the row.
        numbers: hyper-parameters, without the keys of ROW_KEYS, without `train` and without `defend`.
        train: the values that the row changes in the block `train`; those of a defence, in the block `defend`.
        key: the key of the block that holds the hyper-parameters.
        start: a row of starts, whose weights a training begins with; "": none.
        file: a file of published weights that a training begins with; "": none.
        sha256: the expected hash of that file; "": the hash is not compared.
        on: the row of methods whose tower a defence defends.
    """

    module: ModuleType
    numbers: dict[str, Any]
    train: dict[str, Any]
    key: str
    start: str = ""
    file: str = ""
    sha256: str = ""
    on: str = ""


ROW_KEYS = {  # the keys of a row besides its hyper-parameters
    "methods": ("section", "module", "start"),
    "starts": ("section", "module", "file", "sha256"),
    "attacks": ("module",),
    "defences": ("module", "on"),
}
PACKAGES = {"methods": "zsr.methods", "starts": "zsr.methods", "attacks": "zsr.attacks", "defences": "zsr.defences"}


def row(document: Mapping, kind: str, name: str) -> Row:
    """The row with the given name. kind: "methods", "starts", "attacks" or "defences".

    The hyper-parameters of a method are in the row itself, or in a block that several rows may share: `method`, or a
    block of `shared`.

    Raises ParamError: a key is missing, unknown or no text; there is no such module or section.
    """
    key = f"{kind}.{name}"
    numbers = block(document, key, dict[str, Any])
    facts = {k: build(str, numbers.pop(k), f"{key}.{k}") for k in ROW_KEYS[kind] if k in numbers}
    key_of_module = f"{key}.module" if "module" in facts else key
    module = module_of(PACKAGES[kind], facts.pop("module", name), key_of_module)
    if kind in ("attacks", "defences"):
        changes = build(dict[str, Any], numbers.pop("defend", {}), f"{key}.defend") if kind == "defences" else {}
        return Row(module, numbers, changes, key, **facts)
    blocks = block(document, "shared", dict[str, Any]) if "shared" in document else {}
    shared = tuple(f"shared.{block_name}" for block_name in blocks)
    section = build(Literal[(key, "method", *shared)], facts.pop("section", None), f"{key}.section")
    if section != key:
        for stray in numbers:
            raise ParamError(f"unknown key '{key}.{stray}': the hyper-parameters of {name} are in '{section}'")
        numbers = block(document, section, dict[str, Any])
    train = build(dict[str, Any], numbers.pop("train", {}), f"{section}.train")
    return Row(module, numbers, train, section, **facts)


def component(document: Mapping, kind: str, name: str) -> Any:
    """What a row makes of its hyper-parameters: the METHOD, ATTACK or DEFENCE of the row's module."""
    named_row = row(document, kind, name)
    schema = getattr(named_row.module, {"attacks": "ATTACK", "defences": "DEFENCE"}.get(kind, "METHOD"))
    return build(schema, named_row.numbers, named_row.key)


def nested_component(numbers: Mapping, kind: str, key: str) -> Any:
    """A method or attack inside another block, given by hyper-parameters and `module`, since it has no name."""
    module = nested_module(numbers, kind, key)
    schema = module.ATTACK if kind == "attacks" else module.METHOD
    return build(schema, {k: v for k, v in numbers.items() if k != "module"}, key)


def nested_module(numbers: Mapping, kind: str, key: str) -> ModuleType:
    """The module of a method or attack inside another block."""
    if "module" not in numbers:
        raise ParamError(f"missing key '{key}.module'")
    return module_of(f"zsr.{kind}", build(str, numbers["module"], f"{key}.module"), f"{key}.module")


def training_of(document: Mapping, name: str, schema: Any, kind: str = "methods") -> Any:
    """The recipe of a row: the block `train`, with the values that the row changes."""
    common = block(document, "train", dict[str, Any])
    plain = build(schema, common, "train")
    named_row = row(document, kind, name)
    return build(schema, over(common, named_row.train), f"{named_row.key}.train") if named_row.train else plain


def under_protocol(document: Mapping, name: str = "") -> dict:
    """A copy of the document with the values of a protocol in place, by default of the protocol chosen in `evaluate`.

    Raises ParamError: no such protocol; the protocol changes an attack that is not there.
    """
    chosen = name or build(
        str, block(document, "evaluate", dict[str, Any]).get("protocol", "trusted"), "evaluate.protocol"
    )
    known, there = (block(document, key, dict[str, dict[str, Any]]) for key in ("protocols", "attacks"))
    if chosen not in known:
        raise ParamError(
            f"evaluate.protocol must be {_choices(tuple(known))}, got {shown(chosen)}{nearest(chosen, known)}"
        )
    for attack in build(dict[str, dict[str, Any]], known[chosen].get("attacks", {}), f"protocols.{chosen}.attacks"):
        if attack not in there:
            key = f"protocols.{chosen}.attacks.{attack}"
            raise ParamError(f"{key} is none of attacks ({', '.join(map(str, there))}){nearest(attack, there)}")
    return over(document, known[chosen])


def over(common: Mapping, changes: Mapping) -> dict:
    """A copy of `common` in which the values of `changes` replace those at the same keys, at any depth."""
    return dict(common) | {
        key: over(common[key], value) if isinstance(value, Mapping) and isinstance(common.get(key), Mapping) else value
        for key, value in changes.items()
    }


def module_of(package: str, name: str, key: str) -> ModuleType:
    """The module of a name in params.yaml, such as `zsr.methods.tga_zsr` for "tga_zsr".

    A name with a dot, such as "my_package.my_method", is a module in the folder `extensions`.
    """
    defines = f"{package.removeprefix('zsr.').removesuffix('s').upper()}"
    if "." in name:
        return _extension(name, key, defines)
    choices = _modules_in(package)
    if name not in choices:
        known = ", ".join(sorted(choices))
        raise ParamError(f"{key} names no module of {package}: '{cut(name)}'{nearest(name, choices)} (known: {known})")
    module = import_module(f"{package}.{name}")
    if "." not in defines and not hasattr(module, defines):
        raise ParamError(f"{key}: {package}.{name} is no {defines.lower()}; other modules of {package} use it")
    return module


@cache
def _modules_in(package: str) -> list[str]:
    return [m.name for m in iter_modules(import_module(package).__path__) if not m.name.startswith("_")]


def _extension(name: str, key: str, defines: str) -> ModuleType:
    """A module in the folder `extensions` that defines METHOD, ATTACK or DEFENCE."""
    path = EXTENSIONS / f"{name.replace('.', '/')}.py"
    if not path.is_file():
        raise ParamError(f"{key} names no module in the folder extensions: '{name}' would be {path}")
    if str(EXTENSIONS) not in sys.path:
        sys.path.append(str(EXTENSIONS))
    try:
        module = import_module(name)
    except (Exception, SystemExit) as error:  # the code is not ours, so any exception may come
        raise ParamError(f"{key}: {path} cannot be imported ({_short_of(error)})") from None
    made = getattr(module, defines, None)
    if made is None:
        raise ParamError(f"{key}: {path} defines no {defines}, the class that the row makes")
    _check_class(made, f"{key}: {defines} of {path}", defines)
    return module


CALLED = {  # functions of a row's class -> the number of arguments that stages give
    "METHOD": {"losses": 5, "inner_objective": 3, "refusal": 1},
    "ATTACK": {"__call__": 6, "protocol": 1},
    "DEFENCE": {"logits": 5, "surrogate": 5, "protocol": 1},
}
READ = {"METHOD": ("trains", "norm_stats"), "ATTACK": ("eps",), "DEFENCE": ("name", "title", "violates")}


def _check_class(made: Any, label: str, defines: str) -> None:
    """Raise ParamError where the METHOD, ATTACK or DEFENCE of an extension is no class as those of the project are."""
    if not (isinstance(made, type) and is_dataclass(made)):
        raise ParamError(f"{label} must be a dataclass, got {shown(made)}")
    lacking = {*READ[defines], *CALLED[defines]} - {*dir(made), *(field.name for field in fields(made))}
    if lacking:
        raise ParamError(f"{label} lacks {min(lacking)}, see the classes in zsr/{defines.lower()}s")
    try:
        _hints(made)
        for name, given in CALLED[defines].items():
            signature(getattr(made, name)).bind(*[None] * given)
    except Exception as error:  # a type that is not there, other arguments
        raise ParamError(f"{label} is no class as those in zsr/{defines.lower()}s ({_short_of(error)})") from None

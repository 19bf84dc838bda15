"""params.yaml -> frozen dataclasses. Errors name the key that is unknown, missing, of the wrong type or out of range.

The schema of a block is the dataclass beside the code that the block configures. This module does not know the schemas;
`zsr.study` puts them together.

The errors of the whole project are here, too. A stage shows one as one line and exits with 1, without a traceback.
"""

import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from difflib import get_close_matches
from fractions import Fraction
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

EXTENSIONS = Path(__file__).resolve().parents[1] / "extensions"  # packages and weights from outside the project


class StudyError(Exception):
    """An error whose message is one sentence with the key or file, the value, and the choices or the remedy."""


class ParamError(StudyError):
    """A mistake in params.yaml."""


class Diverged(StudyError):
    """The loss or the gradient of a training is no longer finite."""


@dataclass(frozen=True)
class Interval:
    """The numbers a key may take.

    Attributes:
        low: the lower end.
        high: the upper end.
        above: numbers must be above low; else low itself is allowed.
        below: numbers must be below high; else high itself is allowed.
    """

    low: float
    high: float = math.inf
    above: bool = False
    below: bool = False

    def __contains__(self, value: float) -> bool:
        after = self.low < value if self.above else self.low <= value
        return after and (value < self.high if self.below else value <= self.high)

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

    def advice(self, value: Any) -> str:
        """Nothing."""
        return ""

    def __str__(self) -> str:
        return "text that holds {} once, for the class name, and no other brace"


Positive = Annotated[float, Interval(0, above=True)]
NonNegative = Annotated[float, Interval(0)]
Share = Annotated[float, Interval(0, 1)]
PixelRange = Annotated[float, PixelInterval(0, 1, above=True)]  # a distance between pixels in [0, 1], such as 8/255
Count = Annotated[int, Interval(1)]
Natural = Annotated[int, Interval(0)]
Template = Annotated[str, OneSlot()]


def read(path: Path) -> dict:
    """The document in a params file, read as YAML 1.2 as DVC does (`1e-05` is a number, `off` a string).

    Raises ParamError: no such file; not YAML; a key twice; not a mapping at the top.
    """
    from ruamel.yaml import YAML, YAMLError

    try:
        document = YAML(typ="safe", pure=True).load(path.read_text())
    except OSError as error:
        raise ParamError(f"{path}: {error.strerror}") from None
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" in line {mark.line + 1}" if mark else ""
        raise ParamError(f"{path}: not valid YAML{place}: {getattr(error, 'problem', error)}") from None
    if not isinstance(document, dict):
        raise ParamError(f"{path}: must hold keys and values, got {document!r}")
    return document


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
            raise ParamError(f"{key} must be {args[1]}, got {value!r}{args[1].advice(checked)}")
        return checked
    if origin is Literal:
        if value not in args:
            raise ParamError(f"{key} must be {_choices(args)}, got {value!r}{nearest(value, args)}")
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise ParamError(f"{key} must be a list, got {value!r}")
        return tuple(build(args[0], item, f"{key}[{i}]") for i, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ParamError(f"{key} must hold keys and values, got {value!r}")
        return {name: build(args[1], item, f"{key}.{name}") for name, item in value.items()}
    return _build_scalar(schema, value, key)


def _build_dataclass(schema: Any, value: Any, key: str) -> Any:
    if not isinstance(value, Mapping):
        raise ParamError(f"{key} must hold keys and values, got {value!r}")
    names = [field.name for field in fields(schema)]
    prefix = f"{key}." if key else ""
    for name in value:
        if name not in names:
            raise ParamError(
                f"unknown key '{prefix}{name}'{nearest(name, names)} (known: {', '.join(names) or 'none'})"
            )
    for field in fields(schema):
        if field.name not in value and field.default is MISSING and field.default_factory is MISSING:
            raise ParamError(f"missing key '{prefix}{field.name}'")
    hints = get_type_hints(schema, include_extras=True)
    built = {name: build(hints[name], item, f"{prefix}{name}") for name, item in value.items()}
    try:
        return schema(**built)
    except ValueError as error:
        raise ParamError(f"{key}: {error}") from None


class Checked:
    """The base of a dataclass whose values are checked as those of params.yaml, also where Python code makes it.

    A default is not checked. Raises ParamError with the class, the field, the value and the allowed values.
    """

    def __post_init__(self) -> None:
        schema: Any = type(self)
        hints = get_type_hints(schema, include_extras=True)
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
        return value
    raise ParamError(f"{key} must be {names[schema]}, got {value!r}")


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(Fraction(value)) if isinstance(value, str) else float(value)
    except (ValueError, ZeroDivisionError):
        return None
    return number if math.isfinite(number) else None


def _choices(options: tuple) -> str:
    return "one of " + ", ".join(map(str, options))


def nearest(value: Any, options: Iterable) -> str:
    """The text after an unknown name in a message: "; did you mean 'x'?", or "" where no option is close."""
    close = get_close_matches(str(value), list(map(str, options)), n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


@dataclass(frozen=True)
class Row:
    """A row of methods, starts or attacks: the module of its code, and its hyper-parameters.

    Attributes:
        module: the module below zsr.methods or zsr.attacks, or one in the folder `extensions`; by default the module
            with the name of the row.
        numbers: hyper-parameters, without the keys of ROW_KEYS and without `train`.
        train: the values that the row changes in the block `train`.
        key: the key of the block that holds the hyper-parameters.
        start: a row of starts, whose weights a training begins with; "": none.
        file: a file of published weights that a training begins with; "": none.
        sha256: the expected hash of that file; "": the hash is not compared.
    """

    module: ModuleType
    numbers: dict[str, Any]
    train: dict[str, Any]
    key: str
    start: str = ""
    file: str = ""
    sha256: str = ""


ROW_KEYS = {  # the keys of a row besides its hyper-parameters
    "methods": ("section", "module", "start"),
    "starts": ("section", "module", "file", "sha256"),
    "attacks": ("module",),
}


def row(document: Mapping, kind: str, name: str) -> Row:
    """The row with the given name. kind: "methods", "starts" or "attacks".

    The hyper-parameters of a method are in the row itself, or in a block that several rows may share: `method`, or a
    block of `shared`.

    Raises ParamError: a key is missing, unknown or no text; there is no such module or section.
    """
    key = f"{kind}.{name}"
    numbers = block(document, key, dict[str, Any])
    facts = {k: build(str, numbers.pop(k), f"{key}.{k}") for k in ROW_KEYS[kind] if k in numbers}
    package = "zsr.attacks" if kind == "attacks" else "zsr.methods"
    module = module_of(package, facts.pop("module", name), f"{key}.module" if "module" in document[kind][name] else key)
    if kind == "attacks":
        return Row(module, numbers, {}, key)
    shared = tuple(f"shared.{block_name}" for block_name in document.get("shared", {}))
    section = build(Literal[(key, "method", *shared)], facts.pop("section", None), f"{key}.section")
    if section != key:
        for stray in numbers:
            raise ParamError(f"unknown key '{key}.{stray}': the hyper-parameters of {name} are in '{section}'")
        numbers = block(document, section, dict[str, Any])
    train = build(dict[str, Any], numbers.pop("train", {}), f"{section}.train")
    return Row(module, numbers, train, section, **facts)


def component(document: Mapping, kind: str, name: str) -> Any:
    """The method or attack of a row: METHOD or ATTACK of the row's module, built from the row's hyper-parameters."""
    named_row = row(document, kind, name)
    schema = named_row.module.ATTACK if kind == "attacks" else named_row.module.METHOD
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
    known = build(dict[str, dict[str, Any]], document.get("protocols", {"trusted": {}}), "protocols")
    if chosen not in known:
        raise ParamError(f"evaluate.protocol must be {_choices(tuple(known))}, got {chosen!r}{nearest(chosen, known)}")
    for attack in known[chosen].get("attacks", {}):
        if attack not in document["attacks"]:
            key, there = f"protocols.{chosen}.attacks.{attack}", document["attacks"]
            raise ParamError(f"{key} is none of attacks ({', '.join(there)}){nearest(attack, there)}")
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
    if "." in name:
        return _extension(name, key, f"{package.removeprefix('zsr.').removesuffix('s').upper()}")
    choices = [m.name for m in iter_modules(import_module(package).__path__) if not m.name.startswith("_")]
    if name not in choices:
        known = ", ".join(sorted(choices))
        raise ParamError(f"{key} names no module of {package}: '{name}'{nearest(name, choices)} (known: {known})")
    return import_module(f"{package}.{name}")


def _extension(name: str, key: str, defines: str) -> ModuleType:
    """A module in the folder `extensions` that defines METHOD or ATTACK."""
    path = EXTENSIONS / f"{name.replace('.', '/')}.py"
    if not path.is_file():
        raise ParamError(f"{key} names no module in the folder extensions: '{name}' would be {path}")
    if str(EXTENSIONS) not in sys.path:
        sys.path.append(str(EXTENSIONS))
    try:
        module = import_module(name)
    except Exception as error:  # the code is not ours, so any exception may come
        raise ParamError(f"{key}: {path} cannot be imported ({type(error).__name__}: {error})") from None
    if not hasattr(module, defines):
        raise ParamError(f"{key}: {path} defines no {defines}, the class that the row makes")
    return module

"""params.yaml -> frozen dataclasses. A key that is unknown, missing, of the wrong type or out of range is named.

The schema of a block is the dataclass beside the code that the block configures; this module knows none of them.
`zsr.study` puts them together.
"""

import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from difflib import get_close_matches
from fractions import Fraction
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from zsr.errors import ParamError


@dataclass(frozen=True)
class Interval:
    """The numbers a key may take; `low` itself is in unless `above`, `high` unless `below`."""

    low: float
    high: float = math.inf
    above: bool = False
    below: bool = False

    def __contains__(self, value: float) -> bool:
        after = self.low < value if self.above else self.low <= value
        return after and (value < self.high if self.below else value <= self.high)

    def __str__(self) -> str:
        start = f"{'above' if self.above else 'at least'} {self.low:g}"
        end = f"{'below' if self.below else 'at most'} {self.high:g}"
        return start if self.high == math.inf else f"{start} and {end}"


@dataclass(frozen=True)
class OneSlot:
    """Texts with one place for a class name."""

    def __contains__(self, text: str) -> bool:
        return text.count("{}") == 1 and not set(text.replace("{}", "")) & set("{}")

    def __str__(self) -> str:
        return "text that holds {} once, for the class name, and no other brace"


Positive = Annotated[float, Interval(0, above=True)]
NonNegative = Annotated[float, Interval(0)]
Share = Annotated[float, Interval(0, 1)]
PixelRange = Annotated[float, Interval(0, 1, above=True)]  # a distance between pixels in [0, 1]; write 8/255
Count = Annotated[int, Interval(1)]
Natural = Annotated[int, Interval(0)]
Template = Annotated[str, OneSlot()]


def read(path: Path) -> dict:
    """The document in a params file, read as YAML 1.2 like DVC does (`1e-05` is a number, `off` a string).

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
    """A checked value of the schema. Raises ParamError naming the key, the value and what it may be."""
    if is_dataclass(schema):
        return _build_dataclass(schema, value, key)
    origin, args = get_origin(schema), get_args(schema)
    if schema is Any:
        return value
    if origin is Annotated:
        checked = build(args[0], value, key)
        if checked not in args[1]:
            raise ParamError(f"{key} must be {args[1]}, got {value!r}")
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


def _build_dataclass(schema: type, value: Any, key: str) -> Any:
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


def nearest(value: Any, options) -> str:
    """What follows an unknown name in a message: "; did you mean 'x'?", or nothing where no option is close."""
    close = get_close_matches(str(value), list(map(str, options)), n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


def component(document: Mapping, kind: str, name: str) -> Any:
    """The method or attack that a name under `methods` or `attacks` stands for, built from its block.

    kind: "methods" or "attacks". The class is METHOD or ATTACK of the module `zsr.<kind>.<name>`. A method's block
    says in `section` where its hyper-parameters are: in the block itself, or in `method`; and, where its name is not
    that of its module, in `module` which one it is.
    """
    key = f"{kind}.{name}"
    own = block(document, key, dict[str, Any])
    if kind == "attacks":
        return build(module_of(f"zsr.{kind}", name, key).ATTACK, own, key)
    named = f"{key}.module" if "module" in own else key
    module = module_of(f"zsr.{kind}", build(str, own.get("module", name), named), named)
    own, key = _method_block(document, name)
    return build(module.METHOD, {k: v for k, v in own.items() if k != "train"}, key)


def nested_method(own: Mapping, key: str) -> Any:
    """A method inside the block of another: its hyper-parameters, and `module`, since it has no name."""
    if "module" not in own:
        raise ParamError(f"missing key '{key}.module'")
    module = module_of("zsr.methods", build(str, own["module"], f"{key}.module"), f"{key}.module")
    return build(module.METHOD, {k: v for k, v in own.items() if k != "module"}, key)


def training_of(document: Mapping, name: str, schema: Any) -> Any:
    """How a method is trained: the block `train`, over which the method's own block may have a `train` of changes."""
    common = block(document, "train", dict[str, Any])
    plain = build(schema, common, "train")
    own, key = _method_block(document, name)
    if "train" not in own:
        return plain
    return build(schema, over(common, build(dict[str, Any], own["train"], f"{key}.train")), f"{key}.train")


def _method_block(document: Mapping, name: str) -> tuple[dict, str]:
    """The block that holds a method's own numbers, without `section` and `module`, and its key."""
    key = f"methods.{name}"
    own = block(document, key, dict[str, Any])
    own.pop("module", None)
    section = build(Literal[key, "method"], own.pop("section", None), f"{key}.section")
    if section == key:
        return own, key
    for stray in own:
        raise ParamError(f"unknown key '{key}.{stray}': the hyper-parameters of {name} are in '{section}'")
    return block(document, section, dict[str, Any]), section


def under_protocol(document: Mapping, name: str = "") -> dict:
    """A copy of the document with the values that a protocol, by default the one chosen in `evaluate`, puts in place.

    Raises ParamError: no such protocol; it changes an attack that is not there.
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
    """A copy of common, with the values that changes has at the same keys, however deep."""
    return dict(common) | {
        key: over(common[key], value) if isinstance(value, Mapping) and isinstance(common.get(key), Mapping) else value
        for key, value in changes.items()
    }


def module_of(package: str, name: str, key: str) -> ModuleType:
    """The module that a name in params.yaml stands for, as `zsr.methods.tga_zsr` for "tga_zsr"."""
    choices = [m.name for m in iter_modules(import_module(package).__path__) if not m.name.startswith("_")]
    if name not in choices:
        known = ", ".join(sorted(choices))
        raise ParamError(f"{key} names no module of {package}: '{name}'{nearest(name, choices)} (known: {known})")
    return import_module(f"{package}.{name}")

"""Cases of params.yaml, and of numbers that only a later stage can stumble over."""

import json
import random
import re
from pathlib import Path
from typing import Any

from tests.campaign import bad_bytes, forks
from tests.campaign.verdicts import CLEAR, LATE, TAKEN, WRONG, Finding, refusal, refused, working
from tests.campaign.world import World, replaced, stage, without_outs, yaml

NUMBERS = (  # keys of numbers of the campaign's study
    *("threads", "data.seed", "data.image_size", "data.sets.shapes.train", "data.sets.shapes.test"),
    *("data.sets.letters.test", "base_model.pool", "base_model.threads", "base_model.epochs", "base_model.batch_size"),
    *("base_model.lr", "base_model.weight_decay", "base_model.warmup_steps", "base_model.grad_clip"),
    *("base_model.save_every", "train.epochs", "train.batch_size", "train.lr", "train.weight_decay"),
    *("train.warmup_steps", "train.grad_clip", "train.save_every", "train.attack.eps", "train.attack.step_size"),
    *("train.attack.n_iter", "train.attack.gradient_leak", "evaluate.seed", "evaluate.batch_size"),
    *("evaluate.save_every", "evaluate.workers", "attacks.pgd.eps", "attacks.pgd.step_size", "attacks.pgd.n_iter"),
    "attacks.cw.kappa",
)
FRACTIONAL = {"eps", "step_size", "lr", "weight_decay", "grad_clip", "kappa", "lambda_ar", "gradient_leak"}
TEXTS = (
    *("name", "caution", "launcher", "compute.device", "data.attack_resolution", "data.template", "data.prompt_set"),
    *("data.source", "data.start_source", "model.arch", "base_model.optimizer", "train.optimizer"),
    *("train.attack.precision", "train.attack.reduction", "evaluate.protocol"),
    *("evaluate.precision", "evaluate.counted", "attacks.pgd.success", "methods.tecoa.section"),
)
NO_NUMBER = ("abc", [], {}, None, True, "1/0", "1e999999999", "0x10", ".nan", "--1", "1,5", "", "1/2/3", " ")
HUGE = (10**7, 2**31, 2**63, 10**30, 1e308, "1" * 5000, "9" * 400 + "/7", float("inf"))
NAMES = (
    "my tecoa",
    "a/b",
    "t;touch PWNED",
    "$HOME",
    "",
    "TECOA",
    "7",
    "te.coa",
    "../up",
    "a\nb",
    "ü",
    "-f",
    "worst_case",
)
DOWNSTREAM = {  # a key, or the first part of a key -> the stage that reads it
    "data": ("data", "shapes"),
    "data.template": ("text_embeddings", "shapes"),
    "base_model": ("base_model",),
    "evaluate": ("evaluate", "tecoa", "pgd"),
    "attacks": ("evaluate", "tecoa", "pgd"),
    "protocols": ("evaluate", "tecoa", "pgd"),
    "tables": ("tables",),
    "caution": ("tables",),
    "name": ("tables",),
    "figures": ("figures",),
}


def at(document: dict, key: str) -> Any:
    for part in key.split("."):
        document = document[part]
    return document


def put(document: dict, key: str, value: Any) -> None:
    *parents, last = key.split(".")
    (at(document, ".".join(parents)) if parents else document)[last] = value


def params(rng: random.Random, world: World, folder: Path) -> Finding:
    """A changed params.yaml: `check` must refuse it, or the stage that reads the key must go on well."""
    text = (world.study / "params.yaml").read_text(encoding="utf-8")
    change = rng.choices((_encoding, _value, _structure, _name, _anything), (22, 30, 16, 12, 20))[0]
    label, content, must_refuse, names = change(rng, world.document(), text)
    key = label.partition(" ")[0]
    must_refuse = must_refuse and key.partition(".")[0] != "method"  # no row of the campaign's study has this block
    return _checked(world, folder, label, content, must_refuse, ["params.yaml", *names], key)


def late(rng: random.Random, world: World, folder: Path) -> Finding:
    """A number that only a later stage can stumble over."""
    key, value = rng.choice(NUMBERS), rng.choice((*HUGE, *HUGE, 0, 1, 3, 1e-300, 100_000, 5_000))
    document = world.document()
    put(document, key, value)
    return _checked(world, folder, f"{key} = {str(value)[:20]}", yaml(document).encode(), False, [key], key)


def _checked(
    world: World, folder: Path, label: str, content: bytes, must_refuse: bool, names: list[str], key: str
) -> Finding:
    study, dump = world.copied(folder), folder / "read.json"
    replaced(study / "params.yaml", content)
    ended = stage(("check",), study)
    if ended.status or ended.hung:
        return refusal(ended, ["params.yaml", *names], label)
    original = world.document()

    def read() -> None:
        from zsr.params import read

        dump.write_text(json.dumps(read(study / "params.yaml") == original))

    forks.call(read)
    if json.loads(dump.read_text()):
        return Finding(TAKEN, label)
    if must_refuse:
        return Finding(WRONG, label, "the check takes it")
    return _downstream(study, label, _reader(key), [*names, key])


def _reader(key: str) -> tuple[str, ...]:
    return DOWNSTREAM.get(key) or DOWNSTREAM.get(key.partition(".")[0]) or ("train", "tecoa")


def _downstream(study: Path, label: str, command: tuple[str, ...], names: list[str]) -> Finding:
    without_outs(study, command)
    ended = stage(command, study)
    if working(ended):
        return Finding(LATE, label, f"{' '.join(command)} is at work for long")
    if not ended.status:
        return Finding(TAKEN, label)
    known = [*names, *(name.rpartition(".")[2] for name in names), "training stopped"]
    kind, said = refused(ended, known)
    return Finding(LATE if kind == CLEAR else kind, label, f"{' '.join(command)}: {said}")


def _encoding(rng: random.Random, document: dict, text: str) -> tuple[str, bytes, bool, list[str]]:
    """Bytes that are no plain UTF-8 text, or no YAML."""
    spoken, lines = text.replace("campaign", "Größe"), text.splitlines()
    place = rng.randrange(len(lines))
    ways: dict[str, tuple[bytes, bool]] = {
        "UTF-16": (text.encode("utf-16"), False),
        "UTF-16 without a mark": (text.encode("utf-16-le"), False),
        "UTF-32": (text.encode("utf-32"), False),
        "Latin-1": (spoken.encode("latin-1"), True),
        "umlauts in UTF-8": (spoken.encode(), False),
        "byte order mark": (b"\xef\xbb\xbf" + text.encode(), False),
        "CRLF": (text.replace("\n", "\r\n").encode(), False),
        "NUL": (text.encode().replace(b"campaign", b"camp\0aign"), True),
        "half a character": (text.encode().replace(b"campaign", b"camp\xc3"), True),
        "surrogate": (text.encode().replace(b"campaign", b"\xed\xa0\x80"), True),
        "escape codes": (text.encode().replace(b"campaign", b"\x1b[31mred"), True),
        "cut": (bad_bytes.cut(text.encode(), rng), False),
        "bits flipped": (bad_bytes.bits_flipped(text.encode(), rng), False),
        "empty": (b"", True),
        "page": (bad_bytes.HTML, True),
        "a list": (b"- 1\n- 2\n", True),
        "a tab": ("\n".join([*lines[:place], "\t" + lines[place], *lines[place + 1 :]]).encode(), False),
        "a tab between": (text.replace(": ", ":\t", 1 + rng.randrange(9)).encode(), False),
        "a key of a block twice": (_key_twice(rng, text).encode(), True),
        "a block by anchor": (_by_anchor(text).encode(), False),
        "an anchor of nothing": (text.replace("seeds:", "seeds: *nothing #").encode(), True),
        "a merge of a number": (text.encode() + b"<<: 7\n", True),
        "a second document": (text.encode() + b"---\nname: other\n", True),
        "old Mac line ends": (text.replace("\n", "\r").encode(), False),
        "NUL at the end": (text.encode() + bytes(rng.choice((1, 4096))), True),
        "two byte order marks": (b"\xef\xbb\xbf" * 2 + text.encode(), False),
        "a key of no text": (text.encode() + rng.choice((b"7: x\n", b"null: x\n", b"[a]: x\n", b"{a: b}: x\n")), True),
        "a line twice": ("\n".join([*lines[:place], lines[place], *lines[place:]]).encode(), False),
        "deep nesting": (text.encode() + b"deep: " + b"[" * 20_000 + b"]" * 20_000, True),
        "deep mapping": (text.encode() + b"deep: " + b"{a: " * 3000 + b"1" + b"}" * 3000, True),
        "aliases of aliases": (text.encode() + _laughs(), True),
        "a tag of Python": (text.encode() + b"x: !!python/object/apply:os.system ['touch PWNED']\n", True),
        "an unknown tag": (text.replace("seeds:", "seeds: !mine").encode(), True),
        "merge key of itself": (text.encode() + b"x: &x\n  <<: *x\n", True),
        "a date": (text.replace("name: campaign", "name: 2024-02-30").encode(), False),
        "an odd date": (text.replace("threads: 1", "threads: 9999-99-99").encode(), True),
    }
    name = rng.choice(list(ways))
    content, must_refuse = ways[name]
    return f"encoding: {name}", content, must_refuse, []


def _key_twice(rng: random.Random, text: str) -> str:
    """A key of a block stands there again with another value."""
    lines = text.splitlines()
    place = rng.choice([k for k, line in enumerate(lines) if line.startswith("  ") and re.search(r": \S", line)])
    return "\n".join([*lines[: place + 1], lines[place].partition(": ")[0] + ": 7", *lines[place + 1 :]]) + "\n"


def _by_anchor(text: str) -> str:
    """The same document, in which a block is given by its name."""
    return text.replace("threads: 1\n", "threads: &one 1\n", 1).replace("save_every: 1\n", "save_every: *one\n", 1)


def _laughs() -> bytes:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]" for k in range(1, 9)]
    return "\n".join([*lines, ""]).encode()


def _value(rng: random.Random, document: dict, text: str) -> tuple[str, bytes, bool, list[str]]:
    """A value of another type, or out of range."""
    if rng.random() < 0.7:
        key = rng.choice(NUMBERS)
        whole = key.rpartition(".")[2] not in FRACTIONAL
        value, must_refuse = rng.choice(
            [(bad, True) for bad in NO_NUMBER]
            + [(float("nan"), True), (float("inf"), True), (-float("inf"), True)]
            + [(-1, key != "attacks.cw.kappa"), (-(10**30), key != "attacks.cw.kappa")]
            + [(0.5, whole and "epochs" not in key), (rng.choice(HUGE), False)]
        )
    else:
        key = rng.choice(TEXTS)
        free = key in ("name", "caution", "data.template")
        value = rng.choice((7, [], {}, None, True, 1.5, "nonsense", "x" * 10_000, "{}", "{0}", "a\nb", "\x07"))
        must_refuse = not isinstance(value, str) or not free
    put(document, key, value)
    return f"{key} = {str(value)[:24]!r}", yaml(document).encode(), must_refuse, [key, *key.split(".")[-1:]]


ODD: tuple[Any, ...] = (
    *(10**40, -1, float("nan"), float("inf"), "text", [1, 2], [], {}, {"a": 1}, [[{"a": [1]}]], True, None, 1.5),
    *("1e999999", {1: 2}, {None: 1}, "\x7f", "x" * 5000, [None], {"": ""}),
)


def _kind(value: object) -> str:
    if isinstance(value, dict | list):
        return type(value).__name__
    return "text or number" if isinstance(value, str | int | float) and not isinstance(value, bool) else "other"


def _anything(rng: random.Random, document: dict, text: str) -> tuple[str, bytes, bool, list[str]]:
    """Any value of the document, of any block, becomes something odd."""
    found: list[tuple[list[str], Any, Any, Any]] = []

    def walk(part: Any, parents: list[str]) -> None:
        for key, value in part.items() if isinstance(part, dict) else enumerate(part):
            found.append(([*parents, str(key)], part, key, value))
            if isinstance(value, dict | list):
                walk(value, [*parents, str(key)])

    walk(document, [])
    names, part, key, value = rng.choice(found)
    part[key] = rng.choice(ODD)
    must_refuse = None not in (value, part[key]) and _kind(value) != _kind(part[key])
    return f"{'.'.join(names)} = {str(part[key])[:24]!r}", yaml(document).encode(), must_refuse, [names[0], names[-1]]


def _structure(rng: random.Random, document: dict, text: str) -> tuple[str, bytes, bool, list[str]]:
    """A key that is missing, unknown or of another structure."""
    mappings = ["data", "data.sets", "data.sets.shapes", "model", "base_model", "train", "train.attack", "methods"]
    mappings += ["methods.tecoa", "evaluate", "protocols", "attacks", "attacks.pgd", "compute", "method", "grid"]
    where, how = rng.choice(mappings), rng.choice(("lacks", "gets", "is", "is", "misspells"))
    block = at(document, where)
    if how == "lacks" or (how == "misspells" and not block):
        key = rng.choice([*(f"{where}.{name}" for name in block), where])
        *parents, last = key.split(".")
        del (at(document, ".".join(parents)) if parents else document)[last]
        return f"{key} is missing", yaml(document).encode(), False, [last, key]
    if how == "gets":
        block["unknown_key"] = rng.choice((1, {}, "text"))
        return f"{where}.unknown_key", yaml(document).encode(), where not in ("attacks", "protocols"), ["unknown_key"]
    if how == "misspells":
        name = rng.choice(list(block))
        block[name + "s"] = block.pop(name)
        return f"{where}.{name}s", yaml(document).encode(), False, [name, where]
    value = rng.choice((None, 7, "text", [1, 2], [{"a": 1}]))
    put(document, where, value)
    return f"{where} = {value!r}", yaml(document).encode(), True, [where, where.rpartition(".")[2]]


def _name(rng: random.Random, document: dict, text: str) -> tuple[str, bytes, bool, list[str]]:
    """A row, an attack or a set of another name."""
    kind, name = rng.choice(("methods", "attacks", "data.sets", "shared", "starts")), rng.choice(NAMES)
    bad = name not in ("worst_case",) or kind == "attacks"
    rows = at(document, kind)
    if kind == "methods":
        rows[name] = {"section": f"methods.{name}", "module": rng.choice(("tecoa", "no_such"))}
        bad = bad or rows[name]["module"] == "no_such"
    elif kind == "attacks":
        rows[name] = rows["pgd"] | {"module": "pgd"}
    elif kind == "data.sets":
        rows[name], bad = {"train": 0, "test": 5}, True
    else:
        rows[name] = {"section": f"starts.{name}", "module": "tecoa"} if kind == "starts" else {"lambda_ar": 1}
    return f"{kind}.{name!r} is added", yaml(document).encode(), bad, [kind, name]

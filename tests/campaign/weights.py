"""Cases of checkpoints and base files, through `zsr convert` and `zsr evaluate`."""

import io
import json
import os
import random
import re
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.campaign import bad_bytes, forks
from tests.campaign.verdicts import TAKEN, WRONG, Finding, refusal
from tests.campaign.world import ARCH, World, contents, evaluated, linked, records, replaced

STATED = ("--activation", "gelu", "--norm-stats", "clip")
FORMS = {  # file -> the options that it needs
    "whole.safetensors": (),
    "tower.safetensors": ("--base", "whole.safetensors"),
    "plain.pt": STATED,
    "wrapped.pt": STATED,
}


def weights(rng: random.Random, world: World, folder: Path) -> Finding:
    """A damaged or strange file of weights, or base file: the converted model must be the same as ever, or one line."""
    place = linked(world.weights, folder / "weights")
    name = rng.choice(list(FORMS))
    options = list(FORMS[name])
    changed = "whole.safetensors" if options[:1] == ["--base"] and rng.random() < 0.4 else name
    forks.call(lambda: (place / "made.json").write_text(json.dumps(_change(rng, place / changed, folder))))
    label, must_refuse = json.loads((place / "made.json").read_text())
    if label == "nothing":
        label, must_refuse, options = rng.choice(_statements(name, options))
    label = f"{name}: {f'base {changed}: ' if changed != name else ''}{label}"
    if rng.random() < 0.25:
        return _evaluated(world, folder, place, name, options, label, must_refuse)
    return _converted(world, folder, place, name, options, label, must_refuse)


def _converted(
    world: World, folder: Path, place: Path, name: str, options: list[str], label: str, must_refuse: bool | None
) -> Finding:
    options = [str(place / one) if one.endswith(".safetensors") else one for one in options]
    command = ("zsr", "convert", place / name, "--arch", ARCH, "--out", folder / "out.safetensors", *options)
    ended = forks.run(command, folder)
    there = contents(folder)
    if "PWNED" in there or (place / "PWNED").exists():
        return Finding(WRONG, label, "code in the file was run")
    left = [one for one in contents(folder, hidden=True) if "out.safetensors" in one]
    if ended.status or ended.hung:
        return refusal(ended, [name, "whole.safetensors", *_keys(options)], label, left)
    if must_refuse:
        return Finding(WRONG, label, "converted without a word")
    same = _content(folder / "out.safetensors") == _content(world.weights / "whole.safetensors")
    return Finding(TAKEN, label) if same or must_refuse is None else Finding(WRONG, label, "converted to another model")


def _content(path: Path) -> str:
    """The digest of the weights and their statistics, which a file of the project states."""
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return json.loads(header["__metadata__"]["facts"])["content"]


def _evaluated(
    world: World, folder: Path, place: Path, name: str, options: list[str], label: str, must_refuse: bool | None
) -> Finding:
    options = [str(place / one) if one.endswith(".safetensors") else one for one in options]
    ended = evaluated(place / name, world.pictures, folder / "out", "--arch", ARCH, *options)
    label = f"evaluate {label}"
    if (folder / "PWNED").exists():
        return Finding(WRONG, label, "code in the file was run")
    if ended.status or ended.hung:
        return refusal(ended, [name, "whole.safetensors", *_keys(options)], label)
    if must_refuse:
        return Finding(WRONG, label, "evaluated without a word")
    bits = [_verdicts(out) for out in (folder / "out", world.folder / "records")]
    same = bits[0] == bits[1]
    return Finding(TAKEN, label) if same or must_refuse is None else Finding(WRONG, label, "other verdicts")


def _keys(options: list[str]) -> list[str]:
    return [one.lstrip("-") for one in options if one.startswith("--")]


def _verdicts(out: Path) -> dict[str, tuple]:
    """The verdicts of all records below a folder; their names and fingerprints may differ."""
    found = {}
    for name in records(out):
        document = json.loads((out / name).read_text())
        found[name] = tuple(document[key] for key in ("ids", "clean_bits", "adv_bits", "protocol"))
    return found


def _statements(name: str, options: list[str]) -> list[tuple[str, bool | None, list[str]]]:
    """Options that do not state what a file does not say, or contradict what it says."""
    other = (
        ["--activation", "quickgelu", *options[2:]]
        if options[:1] == ["--activation"]
        else ["--activation", "quickgelu"]
    )
    found: list[tuple[str, bool | None, list[str]]] = [
        ("an activation that the arch has not", True, [*options, *other])
    ]
    if name.endswith(".pt"):
        found += [("no activation is stated", True, ["--norm-stats", "clip"]), ("nothing is stated", True, [])]
    elif name == "whole.safetensors":
        found += [("other pixel statistics", True, [*options, "--norm-stats", "imagenet"])]
    else:
        found += [("no base", True, []), ("a base that is a tower", True, ["--base", "tower.safetensors"])]
    return found


def _change(rng: random.Random, path: Path, folder: Path) -> tuple[str, bool | None]:
    """Change the file. Returns what was done, and whether it must be refused; None: it may be another model."""
    if rng.random() < 0.1:
        return "nothing", False
    if rng.random() < 0.4:
        return _bytes(rng, path)
    return (_safetensors if path.suffix == ".safetensors" else _pickle)(rng, path, folder)


def _bytes(rng: random.Random, path: Path) -> tuple[str, bool | None]:
    content = path.read_bytes()
    ways: dict[str, tuple[Callable[[], bytes], bool | None]] = {
        **{way.__name__: (lambda way=way: way(content, rng), True) for way in bad_bytes.RUINED},
        "a byte less": (lambda: content[:-1], None if path.suffix == ".pt" else True),
        "a byte more": (lambda: content + b"x", None if path.suffix == ".pt" else True),
        "cut at the end": (lambda: bad_bytes.cut_last(content, rng), None if path.suffix == ".pt" else True),
        "header flipped": (lambda: bad_bytes.flipped(content, rng, 0, 60), False),
        "a link to nothing": (lambda: b"", True),
        "a folder": (lambda: b"", True),
        "a pipe": (lambda: b"", True),
    }
    if path.suffix == ".pt":  # its parts have checksums
        ways["bits flipped"] = (lambda: bad_bytes.bits_flipped(content, rng), False)
        ways["a member less"] = (lambda: _zipped(rng, content, "less"), True)
        ways["a member cut"] = (lambda: _zipped(rng, content, "cut"), True)
        ways["a member longer"] = (lambda: _zipped(rng, content, "longer"), None)
        ways["a member twice"] = (lambda: _zipped(rng, content, "twice"), None)
        ways["a member of zeros"] = (lambda: _zipped(rng, content, "zeros"), None)
        ways["a hole"] = (lambda: bad_bytes.hole(content, rng), False)
    name = rng.choice(list(ways))
    if name == "a link to nothing":
        path.unlink()
        path.symlink_to("nothing.pt")
    elif name in ("a folder", "a pipe"):
        path.unlink()
        (path.mkdir if name == "a folder" else lambda: os.mkfifo(path))()
    else:
        replaced(path, ways[name][0]())
    return name, ways[name][1]


def _zipped(rng: random.Random, content: bytes, how: str) -> bytes:
    """torch's archive, packed again with right checksums, in which a member of numbers is another."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    name, buffer = rng.choice([one for one in members if re.search(r"/data(\.pkl|/\d+)$", one)]), io.BytesIO()
    old = members[name]
    changed = {"cut": old[: rng.randrange(len(old))], "longer": old + old, "zeros": bytes(len(old))}
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w") as archive:
        warnings.simplefilter("ignore")
        for one, held in members.items():
            if one != name or how != "less":
                archive.writestr(one, changed.get(how, held) if one == name else held)
            if one == name and how == "twice":
                archive.writestr(one, held[::-1])
    return buffer.getvalue()


def _safetensors(rng: random.Random, path: Path, folder: Path) -> tuple[str, bool | None]:
    """A file of safetensors with another header, other facts or other tensors."""
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    names = [name for name in header if name != "__metadata__"]
    one, other = rng.sample(names, 2)
    facts = json.loads(header.get("__metadata__", {}).get("facts", "{}"))

    def with_facts(**changes: object) -> None:
        header["__metadata__"] = {"facts": json.dumps(facts | changes)}

    ways: dict[str, tuple[Callable[[], object], bool | None]] = {
        "a tensor less": (lambda: header.pop(one), True),
        "a tensor under another name": (lambda: header.update({one + "_x": header.pop(one)}), True),
        "offsets beyond the end": (lambda: header[one]["data_offsets"].__setitem__(1, 2**40), True),
        "offsets of another": (lambda: header[one].update(data_offsets=header[other]["data_offsets"]), True),
        "a shape below 0": (lambda: header[one].update(shape=[-1, 4]), True),
        "a huge shape": (lambda: header[one].update(shape=[2**40, 2**40]), True),
        "a type of its own": (lambda: header[one].update(dtype="F33"), True),
        "facts of no JSON": (lambda: header.update(__metadata__={"facts": "{"}), True),
        "facts as a list": (lambda: header.update(__metadata__={"facts": "[1]"}), True),
        "no facts": (lambda: header.pop("__metadata__", None), None),
        "another arch in the facts": (lambda: with_facts(arch="ViT-B-32"), True),
        "an arch of no text": (lambda: with_facts(arch=7), True),
        "a length of the header that is huge": (lambda: None, True),
        "a header of no JSON": (lambda: None, True),
        "deep JSON": (lambda: None, True),
        "numbers that are not finite": (lambda: None, True),
        "weights of 0": (lambda: None, None),
    }
    name = rng.choice(list(ways))
    ways[name][0]()
    text = json.dumps(header).encode()
    if name == "a header of no JSON":
        text = text[:-3] + b"}}}"
    elif name == "deep JSON":
        text = b'{"a":' * 5000 + b"1" + b"}" * 5000
    elif name in ("numbers that are not finite", "weights of 0"):
        start, end = header[rng.choice([n for n in names if path.stem == "tower" or "visual" in n])]["data_offsets"]
        value = struct.pack("<f", rng.choice((float("nan"), float("inf"))) if name != "weights of 0" else 0.0)
        data = data[:start] + value * ((end - start) // 4) + data[end:]
    size = 2**50 if name == "a length of the header that is huge" else len(text)
    replaced(path, struct.pack("<Q", size) + text + data)
    return name, ways[name][1]


class _Runs:
    def __reduce__(self):
        return os.system, ("touch PWNED",)


def _pickle(rng: random.Random, path: Path, folder: Path) -> tuple[str, bool | None]:
    """A pickle of torch with other tensors, other wrappings, or code."""
    import torch

    stored: Any = torch.load(path, weights_only=True)
    state: dict[str, Any] = dict(stored["state_dict"] if "state_dict" in stored else stored)
    one = rng.choice([name for name in state if "visual" in name])
    tensor = state[one]
    prefix = rng.choice(("module.", "_orig_mod.", "model.", "clip_model.", "module.model._orig_mod."))
    ways: dict[str, tuple[Callable[[], Any], bool | None]] = {
        "code": (lambda: _Runs(), True),
        "code beside": (lambda: state | {"more": _Runs()}, True),
        "a tensor less": (lambda: {name: value for name, value in state.items() if name != one}, True),
        "a tensor more": (lambda: state | {"visual.extra.weight": torch.zeros(3)}, True),
        "a wrong shape": (lambda: state | {one: torch.zeros(*tensor.shape, 2)}, True),
        "a flat tensor": (lambda: state | {one: tensor.flatten()[:-1]}, True),
        "not finite": (lambda: state | {one: torch.full_like(tensor, rng.choice((float("nan"), float("inf"))))}, True),
        "whole numbers": (lambda: state | {one: tensor.to(torch.int64)}, True),
        "complex numbers": (lambda: state | {one: tensor.to(torch.complex64)}, True),
        "a sparse tensor": (lambda: state | {one: torch.zeros(4, 4).to_sparse()}, True),
        "no numbers": (lambda: state | {one: "text"}, True),
        "double precision": (lambda: {name: value.double() for name, value in state.items()}, False),
        "names of numbers": (lambda: dict(enumerate(state.values())), True),
        "a list": (lambda: list(state.values()), True),
        "a tensor alone": (lambda: tensor, True),
        "nothing": (lambda: {}, True),
        "a whole number": (lambda: 7, True),
        f"the prefix {prefix}": (lambda: {prefix + name: value for name, value in state.items()}, False),
        "a prefix in some names": (lambda: {("x." * (k % 2)) + n: v for k, (n, v) in enumerate(state.items())}, True),
        "two models": (lambda: {"student": state, "teacher": {n: v + 1 for n, v in state.items()}}, False),
        "two equal places": (lambda: {"a": state, "b": {n: v + 1 for n, v in state.items()}}, True),
        "an average beside": (lambda: {"state_dict": state, "ema": {n: v + 1 for n, v in state.items()}}, False),
        "in a training": (lambda: {"epoch": 3, "state_dict": state, "optimizer": {"lr": 0.1}}, False),
        "in a training of trainings": (lambda: {"state": {"model": {"state_dict": state}}}, None),
        "buffers beside": (lambda: state | {"visual.position_ids": torch.arange(5)}, None),
        "the old format": (lambda: state, False),
    }
    name = rng.choice(list(ways))
    buffer = io.BytesIO()
    torch.save(ways[name][0](), buffer, _use_new_zipfile_serialization=name != "the old format")
    replaced(path, buffer.getvalue())
    return (name if name != "nothing" else "an empty dict"), ways[name][1]

"""Cases of pictures, class lists, shards and pickles of public sets."""

import io
import os
import pickle
import random
import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

from tests.campaign import bad_bytes
from tests.campaign.verdicts import TAKEN, UNTOLD, WRONG, Finding, refusal
from tests.campaign.world import (
    CIFAR,
    PUBLIC,
    SHARDS,
    World,
    evaluated,
    linked,
    made,
    outs,
    public_study,
    records,
    replaced,
    set_of,
    stage,
)

RAW = ("test_X.bin",)  # of STL-10: pixels without a header, of which any are as good as others


def images(rng: random.Random, world: World, folder: Path) -> Finding:
    return rng.choices((_own_pictures, _public_set), (45, 55))[0](rng, world, folder)


def _own_pictures(rng: random.Random, world: World, folder: Path) -> Finding:
    """`zsr evaluate --data` on a folder of one's own in which something is wrong."""
    data = linked(world.pictures, folder / "pictures")
    change = rng.choice((_one_picture, _one_picture, _one_picture, _folder_of_pictures, _names_of_classes, _templates))
    label, must_refuse, names, options = change(rng, data, folder)
    ended = evaluated(world.weights / "whole.safetensors", data, folder / "out", *options)
    if ended.status or ended.hung:
        return refusal(ended, names, f"--data: {label}")
    if records(folder / "out") == world.reference["records"]:
        return Finding(TAKEN, f"--data: {label}")
    if must_refuse is None:
        return Finding(TAKEN, f"--data: {label}", "other input, other result")
    return Finding(WRONG, f"--data: {label}", "taken, with another result" if must_refuse else "changed the result")


Changed = tuple[
    str, bool | None, list[str], list[object]
]  # label, must it be refused (None: may change), names, options


def _one_picture(rng: random.Random, data: Path, folder: Path) -> Changed:
    from PIL import Image

    path = rng.choice(sorted(data.rglob("*.png")))
    content = path.read_bytes()
    if rng.random() < 0.2:  # the same pixels in another format
        form, buffer = rng.choice(("BMP", "TIFF", "PPM", "WEBP", "PNG")), io.BytesIO()
        with Image.open(io.BytesIO(content)) as image:
            mode = rng.choice(("RGB", "RGBA")) if form in ("TIFF", "PNG") else "RGB"
            image.convert(mode).save(buffer, form, **({"lossless": True} if form == "WEBP" else {}))
        replaced(path, buffer.getvalue())
        return f"{path.name} is {mode} as {form}", False, [path.name], []
    if rng.random() < 0.5:
        way = rng.choice((*bad_bytes.RUINED, bad_bytes.bits_flipped, bad_bytes.bits_flipped, bad_bytes.hole))
        replaced(path, way(content, rng))
        return f"{path.name}: {way.__name__}", True, [path.name], []
    maker = rng.choice(bad_bytes.PICTURES)
    replaced(path, maker(rng))
    return f"{path.name}: {maker.__name__}", True, [path.name], []


def _folder_of_pictures(rng: random.Random, data: Path, folder: Path) -> Changed:
    path = rng.choice(sorted(data.rglob("*.png")))
    place = path.parent
    ways: dict[str, tuple[Callable[[], object], bool | None]] = {
        "stray files": (lambda: [replaced(data / name, b"x") for name in (".DS_Store", "Thumbs.db", "README")], False),
        "._ files": (lambda: replaced(place / f"._{path.name}", b"Mac OS X"), False),
        "a hidden folder": (lambda: replaced(data / ".ipynb_checkpoints" / "a.png", b"x"), False),
        "text among pictures": (lambda: replaced(place / "notes.txt", b"x"), False),
        "no picture in a class": (lambda: [one.unlink() for one in place.glob("*")], True),
        "an empty class": (lambda: (data / "empty").mkdir(), True),
        "one class": (lambda: shutil.rmtree(place), True),
        "nothing": (lambda: [shutil.rmtree(one) for one in data.iterdir()], True),
        "a folder as a picture": (lambda: (path.unlink(), path.mkdir()), True),
        "a link to nothing": (lambda: (path.unlink(), path.symlink_to("nothing.png")), True),
        "a link to itself": (lambda: (path.unlink(), path.symlink_to(path.name)), True),
        "a link to the folder above": (lambda: (place / "up").symlink_to(data), None),
        "a class of another name": (
            lambda: place.rename(data / rng.choice(("ü b", "a\nb", "\x1b[31m", "x" * 200))),
            None,
        ),
        "bytes as a name": (lambda: os.rename(os.fsencode(path), os.fsencode(place) + b"/\xff\xfe.png"), None),
        "a device": (lambda: (path.unlink(), path.symlink_to("/dev/zero")), True),
        "a pipe": (lambda: (path.unlink(), os.mkfifo(path)), True),
        "a class in two cases": (lambda: shutil.copytree(place, data / place.name.upper()), None),
        "a picture without rights": (lambda: path.chmod(0), None),
    }
    name = rng.choice(list(ways))
    change, must_refuse = ways[name]
    change()
    return name, must_refuse, [path.name, place.name, "pictures", "empty"], []


def _names_of_classes(rng: random.Random, data: Path, folder: Path) -> Changed:
    text = "class_0\tclass 0\nclass_1\tclass 1\n"
    ways: dict[str, tuple[bytes, bool | None]] = {
        "plain": (text.encode(), False),
        "byte order mark": (b"\xef\xbb\xbf" + text.encode(), False),
        "CRLF": (text.replace("\n", "\r\n").encode(), False),
        "blank lines": (("\n\n" + text + "\n").encode(), False),
        "UTF-16": (text.encode("utf-16"), True),
        "Latin-1": ("class_0\tGröße\nclass_1\tb\n".encode("latin-1"), True),
        "no tabulator": (text.replace("\t", " ").encode(), True),
        "a class twice": ((text + "class_0\tb\n").encode(), True),
        "a name twice": (b"class_0\ta\nclass_1\ta\n", True),
        "a class less": (b"class_0\ta\n", True),
        "a class more": ((text + "class_2\tb\n").encode(), True),
        "empty": (b"", True),
        "noise": (rng.randbytes(200), True),
        "a name of 200 words": (b"class_0\t" + b"very " * 200 + b"\nclass_1\tb\n", True),
        "three columns": (b"class_0\ta\tb\nclass_1\tb\tc\n", True),
        "a NUL": (b"class_0\ta\0b\nclass_1\tb\n", None),
    }
    name = rng.choice(list(ways))
    replaced(folder / "names.tsv", ways[name][0])
    return (
        f"--classnames: {name}",
        ways[name][1],
        ["names.tsv", "class_", "pictures"],
        ["--classnames", folder / "names.tsv"],
    )


def _templates(rng: random.Random, data: Path, folder: Path) -> Changed:
    ways: dict[str, tuple[bytes, bool | None]] = {
        "too long": (b"in this picture you can clearly see a small and brightly coloured drawing of {}\n", True),
        "the usual": (b"This is a photo of a {}\n", False),
        "byte order mark": (b"\xef\xbb\xbfThis is a photo of a {}\r\n", False),
        "no place": (b"a photo\n", True),
        "two places": (b"{} and {}\n", True),
        "a format": (b"a {0} {}\n", None),
        "empty": (b"", True),
        "Latin-1": ("schöne {}\n".encode("latin-1"), True),
        "UTF-16": ("a {}\n".encode("utf-16"), True),
        "noise": (rng.randbytes(300).replace(b"{}", b""), True),
        "a thousand": (b"a {}\n" * 1000, None),
        "the place alone": (b"{}\n", None),
    }
    name = rng.choice(list(ways))
    replaced(folder / "templates.txt", ways[name][0])
    return f"--templates: {name}", ways[name][1], ["template", "prompt"], ["--templates", folder / "templates.txt"]


def _public_set(rng: random.Random, world: World, folder: Path) -> Finding:
    """The stage `data` on a public set in its own layout in which one file is wrong."""
    name = rng.choice((*PUBLIC, SHARDS, SHARDS, SHARDS))
    root = linked(world.public / name, folder / "root")
    files = [path for path in sorted(root.rglob("*")) if path.is_file()]
    path = rng.choice(files)
    if rng.random() < 0.15:
        label = _stray(rng, path)
    elif rng.random() < 0.1:
        label = _no_file(rng, path)
    elif path.suffix == ".tar" or path.name == "nshards.txt":
        label = _shard(rng, path)
    elif path.suffix in (".txt", ".json"):
        label = _list(rng, path)
    elif path.suffix.lower() in (".jpg", ".jpeg"):
        maker = rng.choice((*bad_bytes.PICTURES, *bad_bytes.RUINED))
        arguments = (path.read_bytes(), rng) if maker in bad_bytes.RUINED else (rng,)
        replaced(path, maker(*arguments))
        label = maker.__name__
    else:
        way = rng.choice(bad_bytes.RUINED)
        replaced(path, way(path.read_bytes(), rng))
        label = way.__name__
    label = f"{name}: {path.relative_to(root)}: {label}"
    raw = path.name if path.name in RAW and label.endswith(bad_bytes.noise.__name__) else ""
    return _prepared(world, folder, name, root, label, [path.name, path.parent.name, set_of(name)], raw)


def _prepared(
    world: World, folder: Path, name: str, root: Path, label: str, names: list[str], raw: str = ""
) -> Finding:
    """What the stage `data` makes of a data root: the same as ever, or one line.

    raw: a file of raw pixels that are others. It may be taken, with a warning that names the file.
    """
    count = world.reference["counts"][name]  # type: ignore[index]
    study, command = public_study(world.folder, name, folder / "study", count), ("data", set_of(name))
    ended = stage(command, study, environment={"DATA_ROOT": root})
    if (study / "PWNED").exists():
        return Finding(WRONG, label, "code in the file was run")
    if ended.status or ended.hung:
        left = [one.name for one in study.rglob("*") if one.is_file() and one.name.endswith(".tmp")]
        return refusal(ended, names, label, left)
    if made(study, command) == world.reference[f"data {name}"]:
        return Finding(TAKEN, label)
    if raw and re.search(rf"^Warning: .*/{re.escape(raw)} is not the published file", ended.err, re.MULTILINE):
        return Finding(TAKEN, label, UNTOLD)
    return Finding(WRONG, label, f"another {', '.join(outs(command))}")


def _no_file(rng: random.Random, path: Path) -> str:
    """Something else than a file in the place of a file."""
    ways: dict[str, Callable[[], object]] = {
        "a pipe": lambda: os.mkfifo(path),
        "a folder": path.mkdir,
        "a link to nothing": lambda: path.symlink_to("nothing"),
        "a link to itself": lambda: path.symlink_to(path.name),
        "gone": lambda: None,
    }
    name = rng.choice(list(ways))
    path.unlink()
    ways[name]()
    return name


def _stray(rng: random.Random, path: Path) -> str:
    name = rng.choice((".DS_Store", ".ipynb_checkpoints/a.jpg", f"._{path.name}", "Thumbs.db", "desktop.ini", "~lock"))
    replaced(path.parent / name, b"stray")
    return f"{name} lies beside it"


def _list(rng: random.Random, path: Path) -> str:
    """A list of classes, of images or of labels. Only damage that can be told, or that changes nothing."""
    content = path.read_bytes()
    text = content.decode()
    lines = text.splitlines()
    place = rng.randrange(len(lines))
    ways: dict[str, bytes] = {
        "byte order mark": b"\xef\xbb\xbf" + content,
        "CRLF": text.replace("\n", "\r\n").encode(),
        "blank lines": ("\n" + text + "\n\n").encode(),
        "no newline at the end": text.rstrip("\n").encode(),
        "UTF-16": text.encode("utf-16"),
        "a line less": "\n".join(lines[:place] + lines[place + 1 :]).encode() + b"\n",
        "a line twice": "\n".join(lines[: place + 1] + lines[place:]).encode() + b"\n",
        "a line of noise": "\n".join([*lines[:place], "\x00\x7f ???", *lines[place:]]).encode() + b"\n",
        "half a line": "\n".join(
            [*lines[:place], lines[place][: len(lines[place]) // 2], *lines[place + 1 :]]
        ).encode(),
        "a label too large": "\n".join([*lines[:place], lines[place] + "99999", *lines[place + 1 :]]).encode(),
        "bytes of Latin-1": content + "Größe 1 1 1\n".encode("latin-1"),
        "empty": b"",
        "page": bad_bytes.HTML,
        "noise": rng.randbytes(len(content)),
        "cut": bad_bytes.cut(content, rng),
    }
    name = rng.choice(list(ways))
    replaced(path, ways[name])
    return name


def _shard(rng: random.Random, path: Path) -> str:
    if path.name == "nshards.txt":
        value = rng.choice(
            ("999999999", "10000000000000000000000", "-1", "0", "1", "x", "", "2.0", "\ufeff2", "2\n2", " 2 ")
        )
        replaced(path, value.encode())
        return f"nshards is {value!r}"
    with tarfile.open(path) as tar:
        members = [(info.name, tar.extractfile(info).read()) for info in tar]  # type: ignore[union-attr]
    place, noise = rng.randrange(len(members)), rng.randbytes(40)
    name, content = members[place]
    label_place = next(k for k, (one, _) in enumerate(members) if one.endswith(".cls"))
    ways: dict[str, list[tuple[str, bytes]] | bytes] = {
        "a member twice": [*members, (name, content)],
        "a label twice, unlike": [*members, (members[label_place][0], b"2"), (members[label_place][0], b"0")],
        "a picture twice": [*members, *[(n, c) for n, c in members if not n.endswith("cls")]],
        "a picture in two formats": [*members, (name.partition(".")[0] + ".png", content)],
        "a member less": members[:place] + members[place + 1 :],
        "a label below 0": [(n, b"-1" if k == label_place else c) for k, (n, c) in enumerate(members)],
        "a label too large": [(n, b"77" if k == label_place else c) for k, (n, c) in enumerate(members)],
        "a label of noise": [(n, noise if k == label_place else c) for k, (n, c) in enumerate(members)],
        "an empty label": [(n, b"" if k == label_place else c) for k, (n, c) in enumerate(members)],
        "a label in another script": [(n, "٢".encode() if k == label_place else c) for k, (n, c) in enumerate(members)],
        "more kinds of members": [*members, ("s0000000.json", b"{}"), ("__MACOSX/._s0000000.jpg", noise)],
        "a hidden member": [*members, ("._s0000000.jpg", noise)],
        "a member of noise": [(n, noise if k == place else c) for k, (n, c) in enumerate(members)],
        "no members": [],
        "escape codes": [*members, ("\x1b[31mred.jpg", noise)],
        "cut": bad_bytes.cut(path.read_bytes(), rng),
        "page": bad_bytes.HTML,
        "header flipped": bad_bytes.flipped(path.read_bytes(), rng, 0, 500),
    }  # fmt: skip
    way = rng.choice(list(ways))
    new = ways[way]
    if isinstance(new, bytes):
        replaced(path, new)
    else:
        path.unlink()
        with tarfile.open(path, "w") as tar:
            for name, content in new:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return way


# CIFAR's pickles


class _Runs:
    """Its pickle runs a command when it is read as pickles are."""

    def __reduce__(self):
        return os.system, ("touch PWNED",)


def pickles(rng: random.Random, world: World, folder: Path) -> Finding:
    """The stage `data` on CIFAR-10 in which a pickle is wrong."""
    root = linked(world.public / CIFAR, folder / "root")
    path = root / "cifar-10-batches-py" / rng.choice(("test_batch", "test_batch", "batches.meta"))
    content = path.read_bytes()
    held = pickle.loads(content)
    meta = path.name == "batches.meta"
    key = "label_names" if meta else "labels"
    ways: dict[str, Callable[[], bytes]] = {
        "code": lambda: pickle.dumps(_Runs()),
        "code beside": lambda: pickle.dumps(held | {"more": _Runs()}),
        "cut": lambda: bad_bytes.cut(content, rng),
        "empty": lambda: b"",
        "page": lambda: bad_bytes.HTML,
        "noise": lambda: rng.randbytes(300),
        "no labels": lambda: pickle.dumps({name: value for name, value in held.items() if name != key}),
        "half of the labels": lambda: pickle.dumps(held | {key: held[key][: 1 if meta else -1]}),
        "labels of text": lambda: pickle.dumps(held | {key: [7] * len(held[key]) if meta else ["a"] * len(held[key])}),
        "a label too large": lambda: pickle.dumps(held | {key: [*held[key][:-1], 99]}),
        "labels as a mapping": lambda: pickle.dumps(held | {key: dict(enumerate(held[key]))}),
        "a list": lambda: pickle.dumps([1, 2]),
        "another protocol": lambda: pickle.dumps(held, rng.randrange(2, 6)),
        "a length of 2 GB": lambda: b"\x80\x04\x8e" + (2**40).to_bytes(8, "little") + b"x.",
    }
    name = rng.choice(list(ways))
    replaced(path, ways[name]())
    return _prepared(world, folder, CIFAR, root, f"{path.name}: {name}", [path.name, "cifar"])

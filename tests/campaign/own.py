"""Cases of the project's own files, and of disks that are full or may not be written."""

import csv
import ctypes
import io
import json
import locale
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

from tests.campaign import bad_bytes, forks
from tests.campaign.verdicts import TAKEN, WRONG, Finding, refusal
from tests.campaign.world import (
    ATTACKS,
    METHODS,
    SETS,
    STAGES,
    World,
    evaluated,
    linked,
    made,
    outs,
    records,
    replaced,
    stage,
    without_outs,
)

# Files of our own: who reads them -> patterns of the files. An edited number of a file of metrics, which git holds, or
# of a whole checkpoint is another input and cannot be told; so these are damaged in their form alone.
KEPT = {
    ("evaluate", "tecoa", "pgd"): ("scratch/evaluate/*.json",),
    ("evaluate", "clip", "cw"): ("scratch/evaluate/*.json",),
    ("train", "tecoa"): ("scratch/training/*/tower.safetensors", "scratch/training/*/curve.csv"),
    ("base_model",): ("scratch/pretraining/*/model.safetensors", "scratch/pretraining/*/curve.csv"),
}
INPUTS = {
    ("evaluate", "tecoa", "pgd"): ("data/sets/*/test.safetensors", "data/text_embeddings/*/0.safetensors"),
    ("evaluate", "clip", "pgd"): ("data/sets.json", "data/sets/*/test.safetensors"),
    ("train", "tecoa"): ("data/sets/shapes/train.safetensors", "data/text_embeddings/shapes/0.safetensors"),
    ("text_embeddings", "shapes"): ("data/sets/shapes/test.safetensors",),
    ("sets",): ("data/text_embeddings/*/entry.json", "data/study.json"),
    ("data", "shapes"): ("data/downloads/shapes.json",),
    ("collect",): ("data/records/*/0/*.json", "data/records/*/0/*.json", "data/study.json"),
    ("tables",): ("metrics/results/*.csv", "metrics/results/study.json"),
    ("figures",): ("metrics/curves/*/curve.csv",),
}
FORM_ONLY = {
    ("evaluate", "clip", "cw"): ("data/checkpoints/clip/0.safetensors",),
    ("train", "tecoa"): ("data/base_model/0.safetensors",),
    ("text_embeddings", "shapes"): ("data/base_model/0.safetensors",),
}
SWAPPED = {  # reader -> pairs of outputs, each of which is right in its own place alone
    ("collect",): (
        ("data/records/tecoa-pgd", "data/records/clip-pgd"),
        ("data/records/tecoa-pgd", "data/records/tecoa-cw"),
        ("data/records/clip-cw/0", "data/records/tecoa-cw/0"),
        ("data/records/clip-pgd/0/shapes.json", "data/records/clip-pgd/0/letters.json"),
    ),
    ("evaluate", "tecoa", "pgd"): (
        ("data/checkpoints/tecoa", "data/checkpoints/clip"),
        ("data/checkpoints/tecoa/0.safetensors", "data/base_model/0.safetensors"),
        ("data/sets/shapes", "data/sets/letters"),
        ("data/text_embeddings/shapes", "data/text_embeddings/letters"),
    ),
    ("train", "tecoa"): (
        ("data/sets/shapes/train.safetensors", "data/sets/shapes/test.safetensors"),
        ("data/text_embeddings/shapes/0.safetensors", "data/text_embeddings/letters/0.safetensors"),
        ("data/base_model/0.safetensors", "data/checkpoints/clip/0.safetensors"),
    ),
    ("sets",): (("data/text_embeddings/shapes", "data/text_embeddings/letters"),),
}
PARTIAL = {("train", "tecoa"): "training/*/unfinished", ("evaluate", "tecoa", "pgd"): "evaluate/*.json"}


def own(rng: random.Random, world: World, folder: Path) -> Finding:
    """A file of our own is damaged, edited, or lies in another's place; then the stage that reads it runs."""
    study = world.copied(folder)
    kind = rng.choices(("kept", "partial", "inputs", "form", "swapped"), (25, 15, 40, 8, 12))[0]
    if kind == "swapped":
        return _swapped(rng, world, study)
    if kind == "partial":
        command = rng.choice(list(PARTIAL))
        shutil.rmtree(study / "scratch")
        linked(world.unfinished[command], study / "scratch")
        patterns: tuple[str, ...] = (f"scratch/{PARTIAL[command]}",)
    else:
        table = {"kept": KEPT, "inputs": INPUTS, "form": FORM_ONLY}[kind]
        command = rng.choice(list(table))
        patterns = table[command]
    path = rng.choice(sorted(study.glob(rng.choice(patterns))))
    if kind == "inputs" and command[0] == "evaluate" and rng.random() < 0.7:
        shutil.rmtree(study / "scratch")  # else kept work may answer before the input is read
    label = _damaged(rng, path, study, kind == "form" or path.suffix == ".csv" and kind == "inputs")
    label = f"{' '.join(command)}: {path.relative_to(study)}: {label}"
    without_outs(study, command)
    ended = stage(command, study)
    if ended.status or ended.hung:
        return refusal(ended, [path.name, path.parent.name], label)
    if made(study, command) == world.undisturbed[command]:
        return Finding(TAKEN, label)
    return Finding(WRONG, label, f"exit 0, another {', '.join(outs(command))}")


def _swapped(rng: random.Random, world: World, study: Path) -> Finding:
    """An output lies in the place of another, or both do: with another method, attack, set, seed or split."""
    command = rng.choice(list(SWAPPED))
    one, other = (study / place for place in rng.choice(SWAPPED[command]))
    how = rng.choice(("in the place of", "and", "is also"))
    spare, target = study / "data/spare", one
    one.rename(spare)
    if how == "and":
        other.rename(one)
        spare.rename(other)
    elif how == "is also" and one.name in ("0", "0.safetensors"):  # as another seed
        spare.rename(one)
        target = one.with_name(one.name.replace("0", "1"))
        (shutil.copytree if other.is_dir() else shutil.copy)(other, target)
    else:
        (shutil.copytree if other.is_dir() else shutil.copy)(other, one)
        (shutil.rmtree if spare.is_dir() else os.unlink)(spare)
    if rng.random() < 0.7:
        shutil.rmtree(study / "scratch")
    label = f"{' '.join(command)}: {other.relative_to(study)} {how} {target.relative_to(study)}"
    without_outs(study, command)
    ended = stage(command, study)
    if ended.status or ended.hung:
        return refusal(ended, [target.name, one.parent.name, other.name, other.parent.name], label)
    same = made(study, command) == world.undisturbed[command]
    return Finding(TAKEN, label) if same else Finding(WRONG, label, f"exit 0, another {', '.join(outs(command))}")


def _damaged(rng: random.Random, path: Path, study: Path, form_only: bool) -> str:
    """Change a file; returns what was done. form_only: only damage to its form."""
    content = path.read_bytes()
    ruin = [*bad_bytes.RUINED, bad_bytes.cut_last]
    if path.suffix != ".csv":
        ruin += [bad_bytes.hole] * (not form_only)
    shapes = ("ruin", "gone", "pipe", "folder", "link", "flip", "edit", "swap")
    shape = rng.choices(shapes, (20, 3, 3, 3, 3, 20, 28, 20))[0]
    if form_only and shape in ("flip", "swap") or (shape == "swap" and not _siblings(path)):
        shape = "edit"
    if shape in ("gone", "pipe", "folder", "link"):
        return _no_file(rng, path, shape)
    if shape == "flip":
        replaced(path, bad_bytes.bits_flipped(content, rng))
        return "bits flipped"
    if shape == "swap":
        other = rng.choice(_siblings(path))
        replaced(path, other.read_bytes())
        return f"{other.relative_to(study)} in its place"
    edits = {".json": _edited_json, ".csv": _edited_rows, ".safetensors": _edited_tensors}.get(path.suffix)
    if shape == "edit" and edits and not (form_only and path.suffix == ".safetensors"):
        return edits(rng, path, form_only)
    way = rng.choice(ruin)
    replaced(path, way(content, rng))
    return way.__name__


def _no_file(rng: random.Random, path: Path, shape: str) -> str:
    """Something else than a file in the place of a file."""
    path.unlink()
    if shape == "pipe":
        os.mkfifo(path)
    elif shape == "folder":
        path.mkdir()
    elif shape == "link":
        path.symlink_to(rng.choice(("nothing", path.name, "/dev/zero", "/proc/self/mem", "..")))
    return "is gone" if shape == "gone" else f"is a {shape}"


def _siblings(path: Path) -> list[Path]:
    """Files of the same kind in other places, with other contents."""
    near = [*path.parent.glob(f"*{path.suffix}"), *path.parent.parent.parent.glob(f"*/*/*{path.suffix}")]
    near += path.parent.parent.glob(f"*/*{path.suffix}")
    return [one for one in sorted(set(near)) if one != path and one.read_bytes() != path.read_bytes()]


def _edited_json(rng: random.Random, path: Path, form_only: bool) -> str:
    """A record, an index or a catalogue with a value changed, gone, or of another type."""
    document = json.loads(path.read_text())
    key = rng.choice(list(document))
    value = document[key]
    how = rng.choice(("gone", "type", "edit", "edit", "edit", "more"))
    if how == "gone":
        del document[key]
    elif how == "more":
        document["more"] = 1
    elif how == "type":
        document[key] = rng.choice((None, 7, "text", [], {}, [1.5], True))
        how = f"becomes {document[key]!r}"
    else:
        document[key] = _other(rng, value)
    replaced(path, (json.dumps(document, indent=1) + "\n").encode())
    return f"{key if how != 'more' else 'an unknown key'}: {how}"


def _other(rng: random.Random, value: object) -> object:
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + rng.choice((-1, 1, 100, -(10**9)))
    if isinstance(value, str) and value and set(value) <= set("0123456789abcdef") and len(value) % 2 == 0:
        place = rng.randrange(len(value))
        return value[:place] + rng.choice([c for c in "0123456789abcdef" if c != value[place]]) + value[place + 1 :]
    if isinstance(value, str):
        names = [*METHODS, *ATTACKS, *SETS, "both", "adv", "other"]
        return rng.choice([name for name in names if name != value])
    if isinstance(value, list) and value:
        return rng.choice((value[:-1], value[::-1], [*value, value[-1]], [_other(rng, value[0]), *value[1:]]))
    if isinstance(value, dict) and value:
        key = rng.choice(list(value))
        return value | {key: _other(rng, value[key])}
    return ["x"] if isinstance(value, list) else {"x": 1}


def _edited_rows(rng: random.Random, path: Path, form_only: bool) -> str:
    """A table with a column less, or a cell that is no number. No number becomes another: nobody could tell."""
    rows = list(csv.reader(io.StringIO(path.read_text())))
    if len(rows) < 2:
        replaced(path, b"")
        return "empty"
    row, column = rng.randrange(1, len(rows)), rng.randrange(len(rows[0]))
    how = rng.choice(
        ("a cell of text", "an empty cell", "a cell less", "a cell more", "a column less", "nan", "a row of another")
    )
    if how == "a column less":
        rows = [cells[:column] + cells[column + 1 :] for cells in rows]
    elif how == "a cell less":
        rows[row] = rows[row][:-1]
    elif how == "a cell more":
        rows[row] = [*rows[row], "7"]
    elif how == "a row of another":
        rows[row] = ["other", *rows[row][1:]]
    else:
        rows[row][column] = {"a cell of text": "text", "an empty cell": "", "nan": "nan"}[how]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    replaced(path, text.getvalue().encode())
    return f"row {row}, column {rows[0][min(column, len(rows[0]) - 1)] if rows[0] else ''}: {how}"


def _edited_tensors(rng: random.Random, path: Path, form_only: bool) -> str:
    """Arrays of the right form with other numbers."""
    said = path.with_suffix(".said")
    number = rng.randrange(2**32)
    forks.call(lambda: said.write_text(_with_numbers(random.Random(number), path)))
    text = said.read_text()
    said.unlink()
    return text


def _with_numbers(rng: random.Random, path: Path) -> str:
    import numpy as np
    from safetensors.numpy import load_file

    from zsr import files

    arrays = load_file(path)
    name = rng.choice(list(arrays))
    array = arrays[name].copy()
    flat = array.reshape(-1)
    ways: dict[str, Callable[[], object]] = {
        "reversed": lambda: flat.__setitem__(slice(None), flat[::-1].copy()),
        "one number is another": lambda: flat.__setitem__(rng.randrange(len(flat)), flat[0] + 1),
        "all are the first": lambda: flat.__setitem__(slice(None), flat[0]),
        "turned": lambda: flat.__setitem__(slice(None), np.roll(flat, 1)),
    }
    if array.dtype.kind == "f":
        ways["not finite"] = lambda: flat.__setitem__(rng.randrange(len(flat)), rng.choice((np.nan, np.inf)))
        ways["zeros"] = lambda: flat.__setitem__(slice(None), 0)
    if array.dtype == np.int64:
        ways["out of range"] = lambda: flat.__setitem__(0, rng.choice((-1, 10**6)))
    way = rng.choice(list(ways))
    ways[way]()
    if np.array_equal(array, arrays[name]):
        way, array = "the last row is missing", array[:-1]
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    stated = json.loads(header["__metadata__"]["facts"])  # with the digest of what was there
    path.unlink()
    files.save_arrays(path, arrays | {name: array}, stated)
    return f"{name}: {way}"


# Full disk and rights


def disk(rng: random.Random, world: World, folder: Path) -> Finding:
    """A place that is full, or that may not be written: one line; and once there is room, the same as ever."""
    if rng.random() < 0.25:
        return _no_place(rng, world, folder)
    command = rng.choice([command for command in STAGES if command[0] != "check"])
    study = folder / "study"
    shutil.copytree(world.study, study)  # no links: rights change
    without_outs(study, command)
    if rng.random() < 0.7:
        shutil.rmtree(study / "scratch")
        (study / "scratch").mkdir()
    before = {path for path in study.rglob("*") if path.is_file()}
    ways = (_full_limit, _full_limit, _full_disk, _no_rights, _in_the_way, _odd_scratch, _odd_place)
    label, ended = rng.choice(ways)(rng, study, command)
    label = f"{' '.join(command)}: {label}"
    now = {path for path in study.rglob("*") if path.is_file()} - before
    left = [path.name for path in now if path.name.endswith(".tmp")]
    again = _again(world, study, command)
    if ended.status or ended.hung:
        names = [
            str(study),
            str(study.parent),
            "/dev/null",
            "/proc",
            "nnnnn",
            *outs(command),
            "scratch",
            "data/",
            "metrics/",
            "tables",
            *_parts(study),
        ]
        finding = refusal(ended, names, label, left)
        return Finding(WRONG, label, again) if again else finding
    if again or made(study, command) != world.undisturbed[command]:
        return Finding(WRONG, label, again or f"exit 0, another {', '.join(outs(command))}")
    return Finding(TAKEN, label)


def _parts(study: Path) -> list[str]:
    return [path.name for path in (study / "data").glob("*")]


def _again(world: World, study: Path, command: tuple[str, ...]) -> str:
    """What is wrong with the result of the same command once there is room; "" where nothing is."""
    without_outs(study, command)
    ended = stage(command, study)
    if ended.status:
        return f"run again with room, it fails: {ended.err.strip()[-200:]}"
    same = made(study, command) == world.undisturbed[command]
    return "" if same else "run again with room, the result is another"


def _full_limit(rng: random.Random, study: Path, command: tuple[str, ...]) -> tuple[str, forks.Ended]:
    """No file may grow beyond a limit, as on a disk that is full."""
    limit = rng.choice((1, 10, 100, 500, 1000, 5000, 20_000, 200_000, 1_000_000, 10_000_000))
    return f"files of {limit} bytes", stage(command, study, largest=limit)


@contextmanager
def _small_disk(place: Path, size: int):
    """A disk of so many bytes in memory, in the place of a folder; no disk where mounting is not allowed."""
    place.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], capture_output=True)
    try:
        yield mounted.returncode == 0
    finally:
        if mounted.returncode == 0:
            subprocess.run(["umount", "-l", place], capture_output=True)


def _full_disk(rng: random.Random, study: Path, command: tuple[str, ...]) -> tuple[str, forks.Ended]:
    out = study / outs(command)[0]
    scratch = rng.random() < 0.4
    place, size = study / "scratch" if scratch else out.parent, rng.choice((4096, 8192, 16_384, 65_536, 1_048_576))
    if not scratch:  # the disk begins at a folder of outputs, so what lies in it must be there
        kept = study.with_name("kept")
        shutil.copytree(place, kept)
    with _small_disk(place, size) as mounted:
        if not mounted:
            return _full_limit(rng, study, command)
        if not scratch:
            _filled(kept, place)
        ended = stage(command, study)
    return f"a disk of {size} bytes below {place.relative_to(study)}", ended


def _filled(source: Path, target: Path) -> None:
    """Links to what lay in the place of the small disk."""
    for path in source.iterdir():
        os.symlink(path, target / path.name)


def _no_rights(rng: random.Random, study: Path, command: tuple[str, ...]) -> tuple[str, forks.Ended]:
    """A folder that may not be written; the command gives up what makes root an exception."""
    place = rng.choice((study / "scratch", (study / outs(command)[0]).parent, study))
    place.mkdir(parents=True, exist_ok=True)
    folders = [place, *(path for path in place.rglob("*") if path.is_dir())]
    for path in folders:
        path.chmod(0o555)
    ended = stage(command, study, before=_without_privileges)
    for path in folders:
        path.chmod(0o755)
    return f"{place.relative_to(study.parent)} may not be written", ended


def _odd_scratch(rng: random.Random, study: Path, command: tuple[str, ...]) -> tuple[str, forks.Ended]:
    """A folder of kept work that the environment names oddly, or where none can be."""
    os.mkfifo(study.with_name("pipe"))
    (study.with_name("link")).symlink_to("nowhere/at/all")
    places = (study / "params.yaml", Path("/dev/null"), Path("/proc/x"), Path("n" * 300), study.with_name("pipe"))
    place = rng.choice((*places, study.with_name("link"), study.with_name("ü b"), study.with_name("two\nlines")))
    ended = stage(command, study, environment={"ZSR_SCRATCH": place})
    return f"ZSR_SCRATCH is {place.name[:20]!r}", ended


def _odd_place(rng: random.Random, study: Path, command: tuple[str, ...]) -> tuple[str, forks.Ended]:
    """A folder of a name in no encoding, or a locale that knows ASCII alone: nothing of that may matter."""
    how = rng.choice(("locale C", "locale C", "a name of bytes"))
    plain = _plain_locale if how == "locale C" else lambda: None
    odd = Path(os.fsdecode(os.fsencode(study) + rng.choice((b"\xff\xfe", b" \xc3\xa4", b"'\"$(x)", b"\xed\xa0\x80"))))
    study.rename(odd)
    ended = stage(command, odd, before=plain)
    odd.rename(study)
    return f"{how}, the folder is {ascii(odd.name)}", ended


def _plain_locale() -> None:
    """What Python makes of LC_ALL=C, where it is told to leave the locale as it is."""
    locale.setlocale(locale.LC_ALL, "C")
    for name, errors in (("stdout", "surrogateescape"), ("stderr", "backslashreplace")):
        stream = getattr(sys, name)
        setattr(sys, name, io.TextIOWrapper(stream.detach(), "ascii", errors, write_through=True))


def _without_privileges() -> None:
    """Drop CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH and CAP_FOWNER, by which root writes where nobody may."""
    if os.geteuid():
        return
    libc, header = ctypes.CDLL(None), (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted and inheritable; twice
    assert libc.capget(header, sets) == 0
    for place in range(3):
        sets[place] &= ~0b1110
    assert libc.capset(header, sets) == 0


def _in_the_way(rng: random.Random, study: Path, command: tuple[str, ...]) -> tuple[str, forks.Ended]:
    """A file in the place of a folder, or a folder in the place of a file."""
    out = study / outs(command)[-1]
    place = rng.choice((out, study / "scratch"))
    if place.name == "scratch":
        shutil.rmtree(place)
    place.parent.mkdir(parents=True, exist_ok=True)
    if rng.random() < 0.4:
        place.symlink_to(rng.choice(("nothing/at/all", place.name, "/dev/null", "/proc/x")))
    elif place.suffix:
        place.mkdir()
    else:
        place.write_text("in the way")
    ended = stage(command, study)
    if place.is_dir() and not place.is_symlink() and place.suffix:
        shutil.rmtree(place)
    elif place.is_symlink() or place.is_file():
        place.unlink()
    return f"something lies in the place of {place.relative_to(study)}", ended


def _no_place(rng: random.Random, world: World, folder: Path) -> Finding:
    """A path of an option that cannot be written."""
    (folder / "file").write_text("a file")
    (folder / "folder").mkdir()
    os.mkfifo(folder / "pipe")
    (folder / "loop").symlink_to("loop")
    whole = world.weights / "whole.safetensors"
    option = rng.choice(("convert --out", "evaluate --out", "evaluate --entry", "fetch --root"))
    places = ["file/x", "pipe", "pipe/x", "n" * 300, "loop/x", "n" * 300 + "/x", "file/a\nb"]
    places += ["file", "loop"] if option in ("evaluate --out", "fetch --root") else ["folder"]
    target = rng.choice(
        (Path("/dev/full/x"), Path("/proc/x"), Path("/proc/x/y"), *(folder / place for place in places))
    )
    if option == "convert --out":
        ended = forks.run(("zsr", "convert", whole, "--arch", "zsr-tiny-32", "--out", target), folder)
    elif option == "fetch --root":
        ended = forks.run(("zsr", "fetch", "cifar10", "--from", folder / "folder", "--root", target), folder)
    elif rng.random() < 0.2:
        ended = evaluated(whole, world.pictures, folder / "folder", largest=100)
        good = evaluated(whole, world.pictures, folder / "folder")
        if good.status or records(folder / "folder") != world.reference["records"]:
            return Finding(WRONG, "evaluate on a full disk, and again", good.err.strip()[-200:])
        return _one_line("evaluate --out on a full disk", ended, ["folder"])
    elif option == "evaluate --out":
        ended = evaluated(whole, world.pictures, folder / "out", "--out", target)
    else:
        ended = evaluated(whole, world.pictures, folder / "out", "--entry", target, "--n-iter", "0", "-n", "2")
    return _one_line(
        f"{option} {ascii(str(target.relative_to(folder) if folder in target.parents else target))[:30]}",
        ended,
        [str(target)[:60].partition("\n")[0]],
    )


def _one_line(label: str, ended: forks.Ended, names: list[str]) -> Finding:
    if ended.status or ended.hung:
        return refusal(ended, names, label)
    return Finding(WRONG, label, "exit 0, though nothing can be written there")

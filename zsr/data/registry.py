"""The public sets: what each holds, where its files come from and how they are recognised.

The facts are in registry.yaml. A fact that is not known is absent there, and "", 0 or () here.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from string import hexdigits
from typing import Any, Literal

from zsr.errors import ParamError
from zsr.params import Count, Natural, build, nearest, read

PACKAGE_DATA = ["registry.yaml"]
PATH = Path(__file__).with_name("registry.yaml")
DIGITS = {"sha256": 64, "md5": 32}  # of a hash written in hexadecimal


@dataclass(frozen=True, kw_only=True)
class Inner:
    """An archive inside an archive, and the only member of it that is needed.

    Attributes:
        name: its path inside.
        size: in bytes; 0 where unknown.
        sha256: in hexadecimal; "" where unknown.
        md5: in hexadecimal; "" where unknown.
        unpack: its kind; "tar" may be compressed in any way, "gz" is one compressed file.
        into: the folder below the data root where what it holds is put.
    """

    name: str
    size: Natural = 0
    sha256: str = ""
    md5: str = ""
    unpack: Literal["tar", "zip", "gz"] = "tar"
    into: str = ""

    def __post_init__(self) -> None:
        _check_hashes(self)
        _check_inside(self.into)


@dataclass(frozen=True, kw_only=True)
class File:
    """One file to download.

    Attributes:
        name: what it is called once it is here, without a folder.
        urls: mirrors of the same bytes, the best first; () where a person has to get it.
        size: in bytes; 0 where unknown.
        sha256: in hexadecimal; "" where unknown.
        md5: in hexadecimal; "" where unknown.
        unpack: its kind; "tar" may be compressed in any way, "gz" is one compressed file, "none" leaves it as it is.
        into: the folder below the data root where what it holds, or with "none" the file itself, is put; "" is the
            data root.
        inner: at most one archive inside; nothing else is then taken out.
    """

    name: str
    urls: tuple[str, ...] = ()
    size: Natural = 0
    sha256: str = ""
    md5: str = ""
    unpack: Literal["tar", "zip", "gz", "none"] = "none"
    into: str = ""
    inner: tuple[Inner, ...] = ()

    def __post_init__(self) -> None:
        _check_hashes(self)
        _check_inside(self.into)
        if "/" in self.name or not self.name:
            raise ValueError(f"name must be that of a file, without a folder, got {self.name!r}")
        if len(self.inner) > 1:
            raise ValueError(f"inner must be at most one archive, got {len(self.inner)}")


@dataclass(frozen=True, kw_only=True)
class Source:
    """One way to get the splits it serves; those of an entry are tried in order.

    Attributes:
        kind: "archive" has files to download, "hub" a data-set repository of the Hugging Face Hub, "manual" is a way
            that only a person can go, as `note` says.
        splits: those that it serves.
        files: those to download; () of a repository.
        repo: a repository of the Hub, as owner/name; of a manual way it is where the way starts.
        revision: a commit, maybe abbreviated; "" where none was pinned.
        include: patterns of the files of the repository that are needed.
        shards: tar files of the split; 0 where unknown.
        size: of all, in bytes, about; 0 where unknown.
        backend: the form in which it arrives.
        status: "slow" works, "dead" is kept so that nobody tries it again, "gated" needs an account and accepted
            terms, "manual" a person.
        note: for a person: what to do, or what is wrong.
    """

    kind: Literal["archive", "hub", "manual"]
    splits: tuple[Literal["train", "test"], ...] = ("test",)
    files: tuple[File, ...] = ()
    repo: str = ""
    revision: str = ""
    include: tuple[str, ...] = ()
    shards: Natural = 0
    size: Natural = 0
    backend: Literal["torchvision", "shards"] = "torchvision"
    status: Literal["ok", "slow", "dead", "gated", "manual"] = "ok"
    note: str = ""

    def __post_init__(self) -> None:
        if self.kind == "archive" and not (self.files and all(file.urls for file in self.files)):
            raise ValueError("kind archive needs files, each with urls")
        if self.kind == "hub" and not (self.repo.count("/") == 1 and self.include):
            raise ValueError("kind hub needs repo as owner/name, and include")
        if self.kind == "manual" and not self.note:
            raise ValueError("kind manual needs a note that says what to do")

    @property
    def folder(self) -> str:
        """The folder below the data root that a Hub repository's files go to: its name without the owner."""
        return self.repo.rpartition("/")[2]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One set.

    Attributes:
        key: its name in params.yaml.
        title: its name for people.
        aliases: other names that stand for it.
        splits: number of images of each; "test" is the one evaluated, whatever its publisher calls it.
        whole: is "test" all the images there are?
        num_classes: how many classes it has.
        layout_root: the one folder below the data root that the set fills, laid out as torchvision expects it.
        layout: how that folder is laid out, for messages.
        transform_group: "small" images are stretched to a square, "natural" ones resized and cropped.
        prompt_sets: those that it has, see `zsr.data.prompts`.
        download_gb: what the test split costs, in GB.
        licence: its name; "" where none is stated.
        licence_url: where it stands.
        registration: do its terms have to be accepted first?
        redistributable: may others be given the images?
        citation: of its paper.
        known_issues: what is amiss with it, for people.
        sources: ways to get it, in the order in which they are tried.
    """

    key: str
    title: str
    aliases: tuple[str, ...] = ()
    splits: dict[str, Count]
    whole: bool = False
    num_classes: Count
    layout_root: str
    layout: str = ""
    transform_group: Literal["small", "natural"]
    prompt_sets: tuple[Literal["official", "clean", "openclip"], ...] = ("official", "clean")
    download_gb: float = 0.0
    licence: str = ""
    licence_url: str = ""
    registration: bool = False
    redistributable: Literal["yes", "no", "unknown"] = "unknown"
    citation: str
    known_issues: tuple[str, ...] = ()
    sources: tuple[Source, ...]

    def __post_init__(self) -> None:
        _check_inside(self.layout_root)
        if "test" not in self.splits or set(self.splits) - {"train", "test"}:
            raise ValueError(f"splits must be test, or train and test, got {', '.join(self.splits)}")
        for split in self.splits:
            if not any(split in source.splits for source in self.sources):
                raise ValueError(f"sources must have one that serves the split {split}")


@cache
def entries() -> dict[str, Entry]:
    """All sets by key, in the order of the papers' tables. Raises ParamError naming what is wrong in registry.yaml."""
    return parsed(read(PATH))


def parsed(document: dict) -> dict[str, Entry]:
    """The entries in a document as registry.yaml is one."""
    known = {key: build(Entry, _keyed(key, value), f"registry.{key}") for key, value in document.items()}
    names = [name for of in known.values() for name in (of.key, *of.aliases)]
    for name in names:
        if names.count(name) > 1:
            raise ParamError(f"registry: the name '{name}' stands for more than one set")
    return known


def entry(name: str) -> Entry:
    """The set of a key or an alias. Raises ParamError naming the nearest and the known names."""
    known = entries()
    by_name = {other: of for of in known.values() for other in (of.key, *of.aliases)}
    if name not in by_name:
        raise ParamError(f"no public set is called '{name}'{nearest(name, by_name)} (known: {', '.join(known)})")
    return by_name[name]


def _keyed(key: str, value: Any) -> Any:
    return value | {"key": key} if isinstance(value, dict) else value


def _check_hashes(of: File | Inner) -> None:
    for name, length in DIGITS.items():
        value = getattr(of, name)
        if value and (len(value) != length or set(value) - set(hexdigits.lower())):
            raise ValueError(f"{name} must be {length} lower-case hexadecimal digits, got {value!r}")


def _check_inside(folder: str) -> None:
    if folder.startswith("/") or ".." in folder.split("/"):
        raise ValueError(f"a folder must lie below the data root, got {folder!r}")

"""The public sets: the contents of each set, the sources of its files and the hashes that identify the files.

The facts are in registry.yaml. An unknown fact is absent from registry.yaml, and is "", 0 or () in the classes below.
A set that needs no download has an entry, too, which says so: DVC takes the entry of every set as a parameter.

The digests of code do not contain registry.yaml. What data depend on is in the manifest, see `zsr.data.downloads`.
"""

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from re import fullmatch
from string import hexdigits
from typing import Any, Literal
from urllib.parse import urlsplit

from zsr.params import Count, Natural, ParamError, build, nearest, read

PATH = Path(__file__).with_name("registry.yaml")
DIGITS = {"sha256": 64, "md5": 32}  # number of digits of a hash written in hexadecimal


@dataclass(frozen=True, kw_only=True)
class Inner:
    """An archive inside another archive. No other member of the outer archive is needed.

    Attributes:
        name: the path inside the outer archive.
        size: the size in bytes; 0 where unknown.
        sha256: the hash in hexadecimal; "" where unknown.
        md5: the hash in hexadecimal; "" where unknown.
        unpack: the kind of the archive; "tar" may be compressed in any way, "gz" is one compressed file.
        into: the folder below the data root that receives the members of the archive.
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
        name: the name of the downloaded file, without a folder.
        urls: mirrors of the same bytes, the best first; () where a person has to get the file.
        size: the size in bytes; 0 where unknown.
        sha256: the hash in hexadecimal; "" where unknown.
        md5: the hash in hexadecimal; "" where unknown.
        unpack: the kind of the file; "tar" may be compressed in any way, "gz" is one compressed file, "none" is not
            unpacked.
        into: the folder below the data root that receives the members of the archive, or with "none" the file itself;
            "" is the data root.
        inner: at most one archive inside the file; other members are then not taken out.
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
        for url in self.urls:
            _check_address(url)
        if len(self.inner) > 1:
            raise ValueError(f"inner must be at most one archive, got {len(self.inner)}")


@dataclass(frozen=True, kw_only=True)
class Source:
    """One way to get one or more splits of a set. The sources of an entry are tried in order.

    Attributes:
        kind: "archive" has files to download, "hub" is a data-set repository of the Hugging Face Hub, "manual" is a way
            that only a person can go, as `note` says.
        splits: the splits that the source serves.
        files: the files to download; () for a repository.
        repo: a repository of the Hub, as owner/name; for a manual way the place where the way starts.
        revision: a commit, maybe abbreviated; "" where no commit was pinned.
        include: patterns of the needed files of the repository.
        shards: number of tar files of the split; 0 where unknown.
        size: approximate size of all files, in bytes; 0 where unknown.
        backend: the form in which the set arrives.
        order: "torchvision" where the number in the name of an image in a shard is its row in torchvision's class of
            the set; "" where the order is another.
        status: "slow" works, "dead" is listed so that nobody tries it again, "gated" needs an account and accepted
            terms, "manual" needs a person.
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
    order: Literal["", "torchvision"] = ""
    status: Literal["ok", "slow", "dead", "gated", "manual"] = "ok"
    note: str = ""

    def __post_init__(self) -> None:
        if self.kind == "archive" and not (self.files and all(file.urls for file in self.files)):
            raise ValueError("kind archive needs files, each with urls")
        if self.kind == "hub" and not (self.repo.count("/") == 1 and self.include):
            raise ValueError("kind hub needs repo as owner/name, and include")
        if self.kind == "manual" and not self.note:
            raise ValueError("kind manual needs a note that says what to do")
        if self.order and self.kind != "hub":
            raise ValueError(f"order is that of the shards of kind hub, got {self.order} for kind {self.kind}")
        if self.revision and not fullmatch("[0-9a-f]{7,40}", self.revision):
            raise ValueError(f"revision must be 7 to 40 lower-case hexadecimal digits, got {self.revision!r}")

    @property
    def folder(self) -> str:
        """The folder below the data root that a Hub repository's files go to: its name without the owner."""
        return self.repo.rpartition("/")[2]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One set.

    Attributes:
        key: the name of the set in params.yaml.
        title: the name of the set for people.
        aliases: other names of the set.
        splits: number of images of each split; "test" is the evaluated split, whatever its publisher calls it.
        whole: are all images of the set in "test"?
        num_classes: number of classes.
        layout_root: the one folder below the data root that the set fills, laid out as torchvision expects it.
        layout: a description of the layout of that folder, for messages.
        md5_of: for each split, the files of that folder which it is read from, with the hashes that are published.
        side: side of the square images on disk, in pixels; 0 where images differ in size. These images are packed in
            this size.
        transform_group: "small" images are stretched to a square, "natural" images are resized and cropped.
        prompt_sets: the prompt sets that exist for the set, see `zsr.data.prompts`.
        download_gb: download size of the test split, in GB.
        licence: the name of the licence; "" where none is stated.
        licence_url: the address of the licence.
        registration: do terms have to be accepted first?
        redistributable: may the images be passed on to others?
        citation: the citation of the paper.
        known_issues: known errors of the set, for people.
        sources: ways to get the set, in the order in which they are tried.
    """

    key: str
    title: str
    aliases: tuple[str, ...] = ()
    splits: dict[str, Count]
    whole: bool = False
    num_classes: Count
    layout_root: str
    layout: str = ""
    md5_of: dict[Literal["train", "test"], dict[str, str]] = field(default_factory=dict)
    side: Natural = 0
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
        if not Path(self.layout_root).parts:
            raise ValueError(f"layout_root must be a folder below the data root, got {self.layout_root!r}")
        if set(self.md5_of) - set(self.splits):
            raise ValueError(f"md5_of must be of the splits {', '.join(self.splits)}, got {', '.join(self.md5_of)}")
        for name, md5 in (named for files in self.md5_of.values() for named in files.items()):
            _check_inside(name)
            _check_digits(f"md5_of {name}", md5, DIGITS["md5"])
        if "test" not in self.splits or set(self.splits) - {"train", "test"}:
            raise ValueError(f"splits must be test, or train and test, got {', '.join(self.splits)}")
        for split in self.splits:
            if not any(split in source.splits for source in self.sources):
                raise ValueError(f"sources must have one that serves the split {split}")


@dataclass(frozen=True, kw_only=True)
class Local:
    """A set that needs no download.

    Attributes:
        made: "drawn": the set is drawn from a seed; "scikit-learn": the set is part of this library.
    """

    made: Literal["drawn", "scikit-learn"]


@cache
def entries() -> dict[str, Entry]:
    """All sets by key, in the order of the papers' tables. Raises ParamError that names the error in registry.yaml."""
    return parsed(_document())


@cache
def local() -> dict[str, Local]:
    """The sets that need no download, by name. Raises ParamError that names the error in registry.yaml."""
    return {key: build(Local, value, f"registry.{key}") for key, value in _document().items() if _is_local(value)}


_document = cache(lambda: read(PATH))


def _is_local(value: Any) -> bool:
    return isinstance(value, dict) and "made" in value


def parsed(document: dict) -> dict[str, Entry]:
    """The public sets in a document that has the form of registry.yaml."""
    public = {key: value for key, value in document.items() if not _is_local(value)}
    known = {key: build(Entry, _keyed(key, value), f"registry.{key}") for key, value in public.items()}
    names = [name for dataset in known.values() for name in (dataset.key, *dataset.aliases)]
    for name in names:
        if names.count(name) > 1:
            raise ParamError(f"registry: the name '{name}' stands for more than one set")
    return known


def entry(name: str) -> Entry:
    """The set with a key or an alias. Raises ParamError that names the nearest and the known names."""
    known = entries()
    by_name = {alias: dataset for dataset in known.values() for alias in (dataset.key, *dataset.aliases)}
    if name not in by_name:
        raise ParamError(f"no public set is called '{name}'{nearest(name, by_name)} (known: {', '.join(known)})")
    return by_name[name]


def _keyed(key: str, value: Any) -> Any:
    return value | {"key": key} if isinstance(value, dict) else value


def _check_hashes(file: File | Inner) -> None:
    for name, length in DIGITS.items():
        if value := getattr(file, name):
            _check_digits(name, value, length)


def _check_digits(name: str, value: str, length: int) -> None:
    if len(value) != length or set(value) - set(hexdigits.lower()):
        raise ValueError(f"{name} must be {length} lower-case hexadecimal digits, got {value!r}")


def _check_address(url: str) -> None:
    try:
        whole = bool(fullmatch(r"[a-z]+://\S+", url) and urlsplit(url))
    except ValueError:
        whole = False
    if not whole:
        raise ValueError(f"urls must be addresses such as https://host/file, got {url!r}")


def _check_inside(folder: str) -> None:
    if folder.startswith("/") or ".." in folder.split("/"):
        raise ValueError(f"a folder must lie below the data root, got {folder!r}")

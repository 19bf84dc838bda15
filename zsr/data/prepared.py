"""A set as the pipeline stores it: its labelled images, and the text embeddings that were made for these images.

The pixels of files are as in the published tables: bilinear resizing, unlike CLIP's preprocessing.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image

from zsr import files
from zsr.params import StudyError

if TYPE_CHECKING:
    import torch

INDEX = "sets.json"  # beside the folder of text embeddings: the entry of every set
ENTRY = "entry.json"  # in the folder of a set's text embeddings: the entry of the set
ABSENT = "absent.json"  # in the folder of a set's images, in place of images: why the set is left out
NAMES = ("classnames", "nouns", "own_prompts")
FORM = ("backend", "resize")  # facts that the file of a public set may have
MOST_PIXELS = 89_478_485  # Pillow's own limit; the largest image of the public sets has 61 million
SHORTER, CROP = 256, 224  # for natural images: the shorter side is resized to 256, then the central 224 are cut out


def to_pixels(image: Image.Image, group: Literal["small", "natural"], side: int, native: bool) -> np.ndarray:
    """(side, side, 3) uint8, bit for bit the pixels of torchvision's Resize, CenterCrop and ToTensor.

    natural: the shorter side is resized to side * 256 / 224, then the centre is cut out. small: the image is stretched
    to a square, or with native left at (H, W, 3). Greyscale, palette and transparent images become RGB first.
    """
    image = image.convert("RGB")
    if group == "natural":
        return np.array(_centre(_shorter_side(image, round(side * SHORTER / CROP)), side))
    return np.array(image if native else image.resize((side, side), Image.Resampling.BILINEAR))


@dataclass(frozen=True)
class Resized:
    """N small images that are stored in their own size, and resized when they are read: (N, side, side, 3) uint8.

    As an array of NumPy does, a slice shares the stored images, and a list of rows gives a new array.

    Attributes:
        stored: (N, H, W, 3) uint8. An iterable with a shape suffices for iteration.
        group: as of `to_pixels`.
        side: side of the images in pixels.
    """

    stored: Any
    group: Literal["small", "natural"]
    side: int

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, side, side, 3)."""
        return (len(self.stored), self.side, self.side, 3)

    def __len__(self) -> int:
        return len(self.stored)

    def __iter__(self) -> Iterator[np.ndarray]:
        return map(self._pixels, self.stored)

    def __getitem__(self, rows: Any) -> Any:
        if isinstance(rows, slice):
            return replace(self, stored=self.stored[rows])
        chosen = self.stored[rows]
        if chosen.ndim == 3:
            return self._pixels(chosen)
        return np.stack(list(map(self._pixels, chosen))) if len(chosen) else np.empty((0, *self.shape[1:]), np.uint8)

    def _pixels(self, image: np.ndarray) -> np.ndarray:
        return to_pixels(Image.fromarray(image), self.group, self.side, native=False)


def _shorter_side(image: Image.Image, to: int) -> Image.Image:
    width, height = image.size
    if width <= height:
        size = (to, int(to * height / width))
    else:
        size = (int(to * width / height), to)
    if size[0] * size[1] > MOST_PIXELS:
        raise ValueError(f"an image of {width} x {height} pixels would become one of {size[0]} x {size[1]}")
    return image.resize(size, Image.Resampling.BILINEAR)


def _centre(image: Image.Image, side: int) -> Image.Image:
    left, top = (int(round((length - side) / 2)) for length in image.size)
    return image.crop((left, top, left + side, top + side))


@dataclass(frozen=True)
class Split:
    """N labelled images of C classes.

    Attributes:
        images: (N, H, W, 3) uint8.
        labels: (N,) int64 in [0, C).
        ids: (N,) int64, the number of each image in its set, independent of the chosen part of the set.
        classnames: (C,) names of the classes.
        nouns: (C,) the class names as they stand in a prompt, "a star".
        own_prompts: (C,) the whole prompts of a set that comes with prompts; () where the study's template makes them.
        backend: the form of the files that a public set was read from, "torchvision" or "shards"; else "".
    """

    images: np.ndarray | Resized
    labels: np.ndarray
    ids: np.ndarray
    classnames: tuple[str, ...]
    nouns: tuple[str, ...]
    own_prompts: tuple[str, ...] = ()
    backend: str = ""

    def __post_init__(self) -> None:
        assert len(self.images) == len(self.labels) == len(self.ids) == len(set(self.ids.tolist()))
        assert len(self.classnames) == len(self.nouns)
        assert not len(self.labels) or len(self.nouns) > self.labels.max() >= self.labels.min() >= 0
        assert len(self.own_prompts) in (0, len(self.nouns))

    def prompts(self, template: str) -> list[str]:
        """One prompt per class: the template with the noun in place of {}."""
        return [template.format(noun) for noun in self.nouns]

    def tensors(
        self, rows: Sequence[int], device: "torch.device | str" = "cpu"
    ) -> tuple["torch.Tensor", "torch.Tensor", list[int]]:
        """Images (B, 3, H, W) fp32 in [0, 1], labels (B,) and ids of the given rows, as torch tensors and a list."""
        import torch

        rows = list(rows)
        images = torch.from_numpy(self.images[rows]).to(device).permute(0, 3, 1, 2).contiguous().float() / 255
        return images, torch.from_numpy(self.labels[rows]).to(device), self.ids[rows].tolist()

    def first(self, n: int) -> "Split":
        """The first n images, or all images where there are fewer."""
        return self.part(slice(n))

    def part(self, rows: slice) -> "Split":
        """The images of a slice, with all classes."""
        return replace(self, images=self.images[rows], labels=self.labels[rows], ids=self.ids[rows])

    def save(self, path: Path, placed: bool = False, watch: Callable[[Any], Iterable] = iter) -> None:
        """Write the file that `load` reads, image by image. Equal splits give equal bytes.

        placed: the file states its path, and `load` refuses the file elsewhere. watch: gives the images one by one.
        """
        stored: Any = self.images
        names: dict[str, Any] = {name: list(getattr(self, name)) for name in NAMES}
        names |= {"backend": self.backend} if self.backend else {}
        if isinstance(stored, Resized):
            names["resize"], stored = [stored.group, stored.side], stored.stored
        facts, total = names | {"digest": "0" * 64} | ({files.PLACE: path.as_posix()} if placed else {}), _hash(names)
        small = {"labels": np.asarray(self.labels), "ids": np.asarray(self.ids)}
        with files.growing_images(path, stored.shape, small, facts) as images:
            for i, image in enumerate(watch(stored)):
                images[i] = image
                total.update(image.tobytes())
            for array in small.values():
                total.update(array.tobytes())
            facts["digest"] = total.hexdigest()

    @classmethod
    def load(cls, path: Path) -> "Split":
        """A split whose images are read from the file as they are needed.

        Raises Unusable: the file is not there, is damaged, or was written for another place.
        """
        arrays, facts = files.map_arrays(path)
        if set(arrays) != {"images", "labels", "ids"} or not {"digest", *NAMES} <= set(facts):
            raise files.Unusable(path, "holds no images of a set")
        files.check_place(path)
        stated = {name: facts[name] for name in (*NAMES, *FORM) if name in facts}
        files.verify(path, facts["digest"], lambda: _digest(arrays, stated))
        names: dict[str, Any] = {name: tuple(facts[name]) for name in NAMES} | {"backend": facts.get("backend", "")}
        if "resize" in facts:
            arrays["images"] = Resized(arrays["images"], *facts["resize"])
        try:
            return cls(**arrays, **names)
        except AssertionError:
            raise files.Unusable(path, "contradicts itself: images, labels, ids and classes do not fit") from None


def _hash(names: dict[str, Any]) -> Any:
    return hashlib.sha256(json.dumps(names, sort_keys=True).encode())


def _digest(arrays: dict[str, np.ndarray], names: dict[str, Any]) -> str:
    """What `Split.save` states as the digest."""
    total, images = _hash(names), arrays["images"]
    for start in range(0, len(images), 256):
        total.update(images[start : start + 256].tobytes())
    for name in ("labels", "ids"):
        total.update(arrays[name].tobytes())
    return total.hexdigest()


def digest(path: Path) -> str:
    """The digest of images, labels, ids and names of classes that a file of `Split.save` states."""
    facts = files.load_facts(path)
    if "digest" not in facts:
        raise files.Unusable(path, "holds no images of a set")
    return facts["digest"]


def load_embeddings(path: Path, classes: int) -> tuple[Any, dict[str, Any]]:
    """The text embeddings of a set, (C, D), and their facts. A linear head has None in place of embeddings.

    Raises Unusable: the file is damaged, was written for another place, or has not `classes` finite rows.
    """
    files.check_place(path)
    tensors, facts = files.load_tensors(path)
    files.check_finite(path, tensors)
    embeddings = tensors.get("text_embeddings")
    if embeddings is not None and (embeddings.ndim != 2 or len(embeddings) != classes):
        raise files.Unusable(path, f"has embeddings {tuple(embeddings.shape)} for {classes} classes")
    return embeddings, facts


@dataclass(frozen=True)
class Prepared:
    """A set that models are judged on.

    Attributes:
        split: the images, with labels and ids.
        text_embeddings: (C, D) torch tensor, unit rows; None for a linear head.
        wording: a description of the prompts, for the protocol.
        images: the file that the split comes from.
        text: the file that the text embeddings come from.
        last: only the last `last` images of the file are used; 0: all images.
    """

    split: Split
    text_embeddings: Any
    wording: str
    images: Path
    text: Path
    last: int = 0


def names(text: Path) -> list[str]:
    """The sets with text embeddings, in the order of the tables. Raises StudyError: there are none."""
    return list(classes(text))


def load(sets: Path, text: Path, name: str, seed: int = 0) -> Prepared:
    """Load the set `name` from the folder of sets and the folder of text embeddings.

    seed: the seed of the study whose base model has made the embeddings; it matters where each seed has a base model.
    Raises StudyError: a file is missing; the embeddings were made for other images.
    """
    test, embedded = sets / name / "test.safetensors", files.of_seed(text / name, seed)
    for path in (test, embedded):
        if not path.exists():
            raise StudyError(f"{path} is not there; run dvc repro text_embeddings@{name}, or dvc checkout")
    made_for = read_entry(text, name)
    texts = made_for.get("text_embeddings", {})
    if made_for.get("images") != digest(test) or texts.get(embedded.stem) != files.sha256(embedded):
        raise StudyError(f"{embedded} was made for other images than {test}; run dvc repro text_embeddings@{name}")
    split = Split.load(test)
    embeddings, facts = load_embeddings(embedded, len(split.classnames))
    if "wording" not in facts:
        raise files.Unusable(embedded, "does not say its prompts")
    return Prepared(split, embeddings, facts["wording"], test, embedded)


def entry(test: Path, embedded: Path) -> dict[str, Any]:
    """The entry of a set in the index: digests of its images and of its text embeddings, and its number of classes.

    embedded: the folder of the set's text embeddings, a file for each base model.
    """
    texts = {path.stem: files.sha256(path) for path in files.listed(embedded, ".safetensors")}
    return {"images": digest(test), "text_embeddings": texts, "classes": len(files.load_facts(test)["classnames"])}


def write_entry(text: Path, name: str, entry: dict[str, Any]) -> None:
    """Write the file of `read_entry`, with a digest of the entry."""
    files.write_kept(text / name / ENTRY, f"entry of {name}", entry)


def read_entry(text: Path, name: str) -> dict[str, Any]:
    """The entry of a set, or of a set that is left out the reason. Raises Unusable: it is neither, or was edited."""
    path = text / name / ENTRY
    entry = files.read_kept(path, f"entry of {name}")
    if not isinstance(entry, dict) or not {"classes", "absent"} & entry.keys():
        raise files.Unusable(path, "does not hold the entry of a set")
    return entry


def write_index(text: Path, entries: dict[str, dict[str, Any]]) -> None:
    """Write the entries of all sets, with a digest, beside the folder of text embeddings."""
    files.write_kept(text.with_name(INDEX), "index", entries)


def read_index(text: Path) -> dict[str, dict[str, Any]]:
    """The entry of every set. Raises StudyError: the file is not there, is damaged or was edited."""
    path = text.with_name(INDEX)
    if not path.exists():
        raise StudyError(f"{path} is not there; run dvc repro sets, or dvc checkout")
    entries = files.read_kept(path, "index", ())
    for name, entry in entries.items():
        if not isinstance(entry, dict) or not {"classes", "absent"} & entry.keys():
            raise files.Unusable(path, f"does not hold the entry of {name}")
    return entries


def classes(text: Path) -> dict[str, int]:
    """The number of classes of each set with text embeddings."""
    return {name: facts["classes"] for name, facts in read_index(text).items() if "classes" in facts}


def absent(text: Path) -> dict[str, str]:
    """The sets that are left out, and why: name -> the end of a sentence about the set."""
    return {name: facts["absent"] for name, facts in read_index(text).items() if "absent" in facts}


def held_out(sets: Path, text: Path, name: str, n: int, seed: int = 0) -> Prepared:
    """The set with the last n images of its training split in place of its test images, and the same prompts."""
    whole, train = load(sets, text, name, seed), sets / name / "train.safetensors"
    if not train.exists():
        raise StudyError(f"{train} is not there; run dvc repro data@{name}, or dvc checkout")
    return replace(whole, split=Split.load(train).part(slice(-n, None)), images=train, last=n)

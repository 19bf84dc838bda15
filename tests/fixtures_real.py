"""Tiny copies of the public sets in the formats they really have, written from a seed; none is committed.

A picture tells its class: its shade is that of the class. Its upper half is lighter, and in colour red exceeds blue, so
that an axis or a channel out of place is seen. What a loader should make of the files is said beside them.
"""

import hashlib
import io
import json
import pickle
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

LIGHTER, REDDER = 12, 8  # of 255: half the difference of the halves, of red and blue


@dataclass(frozen=True)
class Written:
    """keys: raw keys in the order of labels. key_of: the class key of every id."""

    keys: tuple[str, ...]
    key_of: dict[str, str]


def shade(key: str, keys: Sequence[str]) -> int:
    """The mean of a picture of a class, of at most ten."""
    return 35 + 20 * keys.index(key)


def pixels(mean: int, rng: np.random.Generator, height: int = 40, width: int = 52) -> np.ndarray:
    """(H, W, 3) uint8."""
    image = np.full((height, width, 3), float(mean)) + rng.integers(-4, 5, (height, width, 1))
    image[: height // 2] += LIGHTER
    image[height // 2 :] -= LIGHTER
    return (image + np.array([REDDER, 0, -REDDER])).round().clip(0, 255).astype(np.uint8)


def by_row(key_of: Mapping[str, str]) -> dict[str, str]:
    """The class key of every id of a test split whose ids are row numbers."""
    return {f"test/{row}": key for row, key in enumerate(key_of.values())}


def save(
    root: Path, key_of: Mapping[str, str], keys: Sequence[str], rng, grey: Sequence[str] = (), side=(40, 52)
) -> None:
    """An image file for each path, the last one first, so that a folder is not in order by chance."""
    for path in sorted(key_of, reverse=True):
        image = Image.fromarray(pixels(shade(key_of[path], keys), rng, *side))
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        image.convert("L" if path in grey else "RGB").save(root / path, "JPEG", quality=95)


def write(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def tiny_imagenet(root: Path, rng) -> dict[str, Written]:
    root, keys = root / "tiny-imagenet-200", ("n01443537", "n02124075")
    train = {f"train/{key}/images/{key}_{k}.JPEG": key for key in keys for k in range(2)}
    val = {f"val_{k}.JPEG": keys[1 - k] for k in range(2)}
    save(root, train, keys, rng, grey=[f"train/{keys[0]}/images/{keys[0]}_0.JPEG"], side=(64, 64))
    save(root / "val" / "images", val, keys, rng, side=(64, 64))
    for key in keys:
        write(root / "train" / key / f"{key}_boxes.txt", f"{key}_0.JPEG\t0\t0\t63\t63\n")
    write(root / "val" / "val_annotations.txt", "".join(f"{name}\t{key}\t0\t0\t9\t9\n" for name, key in val.items()))
    write(root / "wnids.txt", "".join(f"{key}\n" for key in reversed(keys)))
    write(root / "words.txt", "n01443537\tgoldfish, Carassius auratus\n")
    return {"train": Written(keys, train), "test": Written(keys, {f"val/{name}": key for name, key in val.items()})}


def _flat(labels: Sequence[int], side: int, rng) -> np.ndarray:
    """(N, 3 * side * side), channel by channel and row by row."""
    return np.stack([pixels(35 + 20 * label, rng, side, side).transpose(2, 0, 1).reshape(-1) for label in labels])


def cifar10(root: Path, rng) -> dict[str, Written]:
    keys = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    labels = [3, 8, 8, 0]
    for name in [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]:
        content = {"data": _flat(labels, 32, rng), "labels": labels}
        write(root / "cifar-10-batches-py" / name, pickle.dumps(content))
    write(root / "cifar-10-batches-py" / "batches.meta", pickle.dumps({"label_names": list(keys)}))
    return {"test": Written(keys, {f"test/{row}": keys[label] for row, label in enumerate(labels)})}


def cifar100(root: Path, rng) -> dict[str, Written]:
    keys, labels = ("apple", "aquarium_fish", "baby"), {"train": [2, 1, 0, 1], "test": [1, 0, 2]}
    for split, of in labels.items():
        content = {"data": _flat(of, 32, rng), "fine_labels": of, "coarse_labels": [0] * len(of)}
        write(root / "cifar-100-python" / split, pickle.dumps(content))
    write(root / "cifar-100-python" / "meta", pickle.dumps({"fine_label_names": list(keys)}))
    return {
        split: Written(keys, {f"{split}/{row}": keys[label] for row, label in enumerate(of)})
        for split, of in labels.items()
    }


def stl10(root: Path, rng) -> dict[str, Written]:
    """Columns come before rows in its files; there is no file of unlabelled images here."""
    keys = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
    labels = [9, 0, 4]
    for split in ("train", "test"):
        images = _flat(labels, 96, rng).reshape(-1, 3, 96, 96).transpose(0, 1, 3, 2)
        write(root / "stl10_binary" / f"{split}_X.bin", images.tobytes())
        write(root / "stl10_binary" / f"{split}_y.bin", bytes(label + 1 for label in labels))
    write(root / "stl10_binary" / "class_names.txt", "".join(f"{key}\n" for key in keys))
    return {"test": Written(keys, {f"test/{row}": keys[label] for row, label in enumerate(labels)})}


def sun397(root: Path, rng) -> dict[str, Written]:
    keys = ("/a/abbey", "/a/apartment_building/outdoor")
    key_of = {f"{key[1:]}/sun_{name}.jpg": key for key in keys for name in ("aaa", "bbb")}
    save(root / "SUN397", key_of, keys, rng)
    one = root / "SUN397" / "a" / "abbey" / "sun_aaa.jpg"
    Image.open(one).convert("RGB").save(one, "PNG")  # some are no JPEG
    write(root / "SUN397" / "ClassName.txt", "".join(f"{key}\n" for key in keys))
    return {"test": Written(keys, key_of)}


def food101(root: Path, rng) -> dict[str, Written]:
    keys, listed = ("apple_pie", "baby_back_ribs"), {"baby_back_ribs": ["7", "3"], "apple_pie": ["5"]}
    key_of = {f"images/{key}/{name}.jpg": key for key, names in listed.items() for name in names}
    save(root / "food-101", key_of, keys, rng)
    of_json = {key: [f"{key}/{name}" for name in names] for key, names in listed.items()}
    write(root / "food-101" / "meta" / "test.json", json.dumps(of_json))
    return {"test": Written(keys, by_row(key_of))}


def oxford_pets(root: Path, rng) -> dict[str, Written]:
    keys = ("Abyssinian", "american_bulldog")
    of = {"test": (201, 203), "train": (101, 100)}
    key_of = {
        split: {f"images/Abyssinian_{cat}.jpg": keys[0], f"images/american_bulldog_{dog}.jpg": keys[1]}
        for split, (cat, dog) in of.items()
    }
    for split, name in {"test": "test", "train": "trainval"}.items():
        save(root / "oxford-iiit-pet", key_of[split], keys, rng)
        cat, dog = of[split]
        lines = f"american_bulldog_{dog} 2 2 1\nAbyssinian_{cat} 1 1 1\n"
        write(root / f"oxford-iiit-pet/annotations/{name}.txt", lines)
    return {split: Written(keys, own) for split, own in key_of.items()}


def flowers102(root: Path, rng) -> dict[str, Written]:
    from scipy.io import savemat
    from torchvision.datasets import Flowers102

    some = ("sweet pea", "cyclamen")
    save(root / "flowers-102", {f"jpg/image_{k:05d}.jpg": some[k % 2] for k in range(1, 5)}, some, rng)
    labels = [Flowers102.classes.index(some[k % 2]) + 1 for k in range(1, 5)]
    savemat(root / "flowers-102" / "imagelabels.mat", {"labels": np.array([labels], np.uint8)})
    ids = {"trnid": [[1, 2]], "valid": [[1, 2]], "tstid": [[4, 3]]}
    savemat(root / "flowers-102" / "setid.mat", {name: np.array(of, np.uint16) for name, of in ids.items()})
    return {"test": Written(tuple(Flowers102.classes), {f"jpg/image_{k:05d}.jpg": some[k % 2] for k in (3, 4)})}


def dtd(root: Path, rng) -> dict[str, Written]:
    keys = ("banded", "polka-dotted")
    key_of = {"images/polka-dotted/polka-dotted_0003.jpg": keys[1], "images/banded/banded_0002.jpg": keys[0]}
    save(root / "dtd" / "dtd", key_of, keys, rng)
    write(root / "dtd/dtd/labels/test1.txt", "".join(f"{path.removeprefix('images/')}\n" for path in key_of))
    return {"test": Written(keys, key_of)}


def eurosat(root: Path, rng) -> dict[str, Written]:
    keys = ("AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial")
    keys += ("Pasture", "PermanentCrop", "Residential", "River", "SeaLake")
    key_of = {f"2750/{key}/{key}_1.jpg": key for key in keys}
    save(root / "eurosat", key_of, keys, rng, side=(64, 64))
    return {"test": Written(keys, key_of)}


def fgvc_aircraft(root: Path, rng) -> dict[str, Written]:
    keys = ("707-320", "Eurofighter Typhoon", "F/A-18")
    key_of = {f"data/images/000000{9 - k}.jpg": key for k, key in enumerate(keys)}
    save(root / "fgvc-aircraft-2013b", key_of, keys, rng)
    folder = root / "fgvc-aircraft-2013b" / "data"
    write(folder / "variants.txt", "".join(f"{key}\n" for key in keys))
    lines = [f"{Path(path).stem} {key}\n" for path, key in key_of.items()]
    write(folder / "images_variant_test.txt", "".join(lines))
    return {"test": Written(keys, by_row(key_of))}


def imagenet(root: Path, rng) -> dict[str, Written]:
    import torch

    keys = ("n01443537", "n02012849")
    val = {f"val/{key}/ILSVRC2012_val_0000000{k}.JPEG": key for k, key in enumerate(keys)}
    train = {f"train/{key}/{key}_{k}.JPEG": key for key in keys for k in range(2)}
    save(root / "imagenet", val | train, keys, rng, grey=[next(iter(val))])
    names = {keys[0]: ("goldfish", "Carassius auratus"), keys[1]: ("crane",)}
    torch.save((names, list(keys)), root / "imagenet" / "meta.bin")
    return {"train": Written(keys, train), "test": Written(keys, val)}


def caltech101(root: Path, rng) -> dict[str, Written]:
    keys = ("Faces", "Faces_easy", "accordion")
    key_of = {f"101_ObjectCategories/{key}/image_000{k}.jpg": key for key in keys for k in (1, 2)}
    save(root / "caltech101", key_of, keys, rng, grey=["101_ObjectCategories/Faces/image_0002.jpg"])
    background = {f"101_ObjectCategories/BACKGROUND_Google/image_000{k}.jpg": "" for k in (1, 2)}
    save(root / "caltech101", background, ("",), rng)
    return {"test": Written(keys, key_of)}


def caltech256(root: Path, rng) -> dict[str, Written]:
    keys = ("001.ak47", "002.american-flag", "003.backpack")
    key_of = {f"256_ObjectCategories/{key}/{key[:3]}_000{k}.jpg": key for key in keys for k in (1, 2)}
    save(root / "caltech256", key_of, keys, rng, grey=["256_ObjectCategories/001.ak47/001_0001.jpg"])
    write(root / "caltech256/256_ObjectCategories/002.american-flag/RENAME2", "a stray file")
    return {"test": Written(keys, key_of)}


CARS = ("AM General Hummer SUV 2000", "Acura RL Sedan 2012", "Ram C/V Cargo Van Minivan 2012")


def stanford_cars(root: Path, rng) -> dict[str, Written]:
    """As torchvision has it."""
    from scipy.io import savemat

    key_of = {"cars_test/00001.jpg": CARS[2], "cars_test/00002.jpg": CARS[0]}
    save(root / "stanford_cars", key_of, CARS, rng)
    notes = [(Path(path).name, CARS.index(key) + 1) for path, key in key_of.items()]
    kind = [("fname", object), ("class", object)]
    (root / "stanford_cars" / "devkit").mkdir()
    _mat(root / "stanford_cars/cars_test_annos_withlabels.mat", annotations=np.array([notes], kind))
    savemat(root / "stanford_cars/devkit/cars_meta.mat", {"class_names": np.array([CARS], object)})
    return {"test": Written(CARS, by_row(key_of))}


def stanford_cars_in_one_folder(root: Path, rng) -> dict[str, Written]:
    """As the code of TGA-ZSR has it: images of both splits together."""
    key_of = {f"car_ims/00000{k}.jpg": CARS[k % 3] for k in range(1, 5)}
    save(root / "stanford_cars", key_of, CARS, rng)
    test = {path: key for k, (path, key) in enumerate(key_of.items()) if k % 2}
    notes = [(path, CARS.index(key) + 1, int(path in test)) for path, key in key_of.items()]
    kind = [("relative_im_path", object), ("class", object), ("test", object)]
    content = {"annotations": np.array([notes], kind), "class_names": np.array([CARS], object)}
    _mat(root / "stanford_cars" / "cars_annos.mat", **content)
    return {"test": Written(CARS, test)}


def _mat(path: Path, **content) -> None:
    from scipy.io import savemat

    savemat(path, content)


def pcam(root: Path, rng) -> dict[str, Written]:
    import h5py

    (root / "pcam").mkdir(parents=True)
    images = np.stack([pixels(35 + 20 * label, rng, 96, 96) for label in (1, 0)])
    for part, content in {"x": images, "y": np.array([1, 0], np.uint8).reshape(2, 1, 1, 1)}.items():
        with h5py.File(root / "pcam" / f"camelyonpatch_level_2_split_test_{part}.h5", "w") as file:
            file[part] = content
    return {"test": Written(("0", "1"), {"test/0": "1", "test/1": "0"})}


LAYOUTS: dict[str, Callable[[Path, np.random.Generator], dict[str, Written]]] = {
    writer.__name__: writer
    for writer in (
        *(tiny_imagenet, cifar10, cifar100, stl10, sun397, food101, oxford_pets, flowers102),
        *(dtd, eurosat, fgvc_aircraft, imagenet, caltech101, caltech256, stanford_cars, pcam),
    )
}


def shards(folder: Path, names: Sequence[str], keys: Sequence[str], rng, labels=((0, 2, 1), (1, 1, 0))) -> Written:
    """Tar shards. names: the classes as classnames.txt has them; keys: their raw keys, in the same order."""
    ours, key_of = tuple(sorted(keys)), {}
    for shard, of in enumerate(labels):
        (folder / "test").mkdir(parents=True, exist_ok=True)
        with tarfile.open(folder / "test" / f"{shard}.tar", "w") as tar:
            for k, label in enumerate(of):
                key, kind = f"s{3 * shard + k:07d}", ("webp", "jpg")[k % 2]
                image = Image.fromarray(pixels(shade(keys[label], ours), rng))
                add(tar, f"{key}.{kind}", encoded(image, "JPEG" if kind == "jpg" else "WEBP"))
                add(tar, f"{key}.cls", str(label).encode())
                key_of[f"test/{shard}.tar/{key}"] = keys[label]
    write(folder / "test" / "nshards.txt", f"{len(labels)}\n")
    write(folder / "classnames.txt", "".join(f"{name}\n" for name in names))
    return Written(ours, key_of)


def built(folder: Path, dataset, names: Sequence[str], split: str = "test", most: int = 2) -> None:
    """Shards of a data set of torchvision as the Hub's have been made: in its order, as lossless WebP.

    names: the classes as classnames.txt has them. most: images of a shard.
    """
    pairs = list(dataset)
    numbers = range(0, len(pairs), most)
    (folder / split).mkdir(parents=True, exist_ok=True)
    for shard, first in enumerate(numbers):
        with tarfile.open(folder / split / f"{shard}.tar", "w") as tar:
            for row, (image, label) in enumerate(pairs[first : first + most], first):
                buffer = io.BytesIO()
                image.save(buffer, "WEBP", lossless=True)
                add(tar, f"s{row:07d}.cls", str(int(label)).encode())
                add(tar, f"s{row:07d}.webp", buffer.getvalue())
    write(folder / split / "nshards.txt", f"{len(numbers)}\n")
    write(folder / "classnames.txt", "".join(f"{name}\n" for name in names))


def encoded(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, quality=95)
    return buffer.getvalue()


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def images_digest(samples) -> str:
    """Of all pixels, one image after the other."""
    total = hashlib.sha256()
    for row in range(len(samples.ids)):
        total.update(samples.load(row).convert("RGB").tobytes())
    return total.hexdigest()


def send_digests(all_samples: Sequence, queue) -> None:
    """What a process that was started anew makes of the samples it was sent."""
    queue.put([images_digest(samples) for samples in all_samples])

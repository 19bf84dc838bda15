"""Files of public sets that can be read and contradict themselves, another file, or the set: one line, no result."""

import json
import os
import pickle
import signal
import tarfile
from collections.abc import Callable
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import loadmat, savemat

from tests import fixtures_real
from zsr.data import folder, matlab, outside, pickles, samples
from zsr.data.sources import Files, make
from zsr.params import StudyError

needs_h5py = pytest.mark.skipif(not find_spec("h5py"), reason="the HDF5 files of pcam need h5py")


def split_of(name: str, root: Path, n: int):
    return make(name, "test", n, 0, 32, Files(root, complete=False))


def refused(name: str, root: Path, match: str, n: int = 1) -> None:
    """What was made of the set is one line, which names a file."""
    with pytest.raises(StudyError, match=rf"\A[^\n]*{match}[^\n]*\Z"):
        split_of(name, root, n)


@pytest.fixture
def written(tmp_path):
    def of(name: str) -> Path:
        fixtures_real.LAYOUTS[name](tmp_path, np.random.default_rng(0))
        split_of(name, tmp_path, 1)
        return tmp_path

    return of


# Pickles


def repickled(path: Path, change: Callable[[dict], dict]) -> None:
    path.write_bytes(pickle.dumps(change(pickle.loads(path.read_bytes()))))


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("data", lambda data: np.ascontiguousarray(data.T)),
        ("data", lambda data: data.astype(np.int32) + 256),
        ("data", lambda data: data.astype(np.float32)),
        ("data", lambda data: data.tolist()),
        ("labels", lambda labels: [label + 0.7 for label in labels]),
        ("labels", lambda labels: [str(label) for label in labels]),
        ("labels", lambda labels: [bool(label) for label in labels]),
    ],
)
def test_pixels_and_labels_of_a_pickle_are_not_converted(written, key, change):
    root = written("cifar10")
    repickled(root / "cifar-10-batches-py/test_batch", lambda held: held | {key: change(held[key])})
    refused("cifar10", root, f"test_batch must have .*{key}")


def test_names_of_classes_are_texts_and_are_not_printed(written):
    """Printing a list that holds another one twice, forty times over, would take for ever."""
    root, nested = written("cifar10"), ["a"]
    for _ in range(40):
        nested = [nested, nested]
    path = root / "cifar-10-batches-py/batches.meta"
    repickled(path, lambda held: {"label_names": [nested] * 10})
    refused("cifar10", root, "batches.meta must have a list of label_names")


def nested_key() -> bytes:
    """A pickle of a dict whose key is a tuple of two equal tuples, sixty times over: Python hashes 2^60 of them."""
    steps = b"".join(b"\x94h" + bytes([n]) + b"\x86" for n in range(60))
    return b"\x80\x04}K\x01\x85" + steps + b"K\x01s."


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (nested_key(), "a tuple that is no shape"),
        (b"\x80\x04}(" + b"K\x01" * 17 + b"tK\x01s.", "a tuple that is no shape"),
        (b"\x80\x04" + b"N0" * 50 + b"}.", "more than 100 steps"),
        (b"\x80\x04\x8f.", "the step 0x8f"),
        (b"\x80\x02\x8b\x01\0\0\0\x01.", "the step 0x8b"),
        (b"\x80\x02N.", "no dict"),
        (b"I" + b"9" * 5000 + b"\n.", r"\(ValueError\)"),  # and not Python's advice to lift the limit
    ],
)
def test_a_pickle_that_asks_for_more_than_its_bytes_is_one_line(tmp_path, monkeypatch, content, match):
    monkeypatch.setattr(pickles, "MOST_STEPS", 500 if b"h" in content else 100)
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(StudyError, match=f"a cannot be read .*{match}"):
        pickles.load(tmp_path / "a")


def test_the_texts_that_a_pickle_encodes_are_counted(tmp_path, monkeypatch):
    encode = b"c_codecs\nencode\nq\0X\x10\x27\0\0" + b"a" * 10_000 + b"q\1X\x06\0\0\0latin1q\2\x86R0"
    (tmp_path / "a").write_bytes(b"\x80\x02" + encode + b"h\0h\1h\2\x86R0" * 3 + b"}.")
    monkeypatch.setattr(pickles, "MOST_BYTES", 50_000)
    assert pickles.load(tmp_path / "a") == {}
    monkeypatch.setattr(pickles, "MOST_BYTES", 30_000)
    with pytest.raises(StudyError, match="makes more than 30000 bytes"):
        pickles.load(tmp_path / "a")


@pytest.mark.parametrize(
    ("name", "path", "lost"),
    [("stl10", "stl10_binary/class_names.txt", "cat"), ("cifar10", "cifar-10-batches-py/batches.meta", "dog")],
)
def test_numbers_of_classes_are_not_shifted_by_a_name_that_is_lost(written, name, path, lost):
    root = written(name)
    if name == "cifar10":
        repickled(root / path, lambda held: {"label_names": [key for key in held["label_names"] if key != lost]})
    else:
        (root / path).write_text((root / path).read_text().replace(f"{lost}\n", ""))
        (root / "stl10_binary/test_y.bin").write_bytes(bytes([1, 2, 5]))  # no label of the last class
    refused(name, root, f"{name}: class .* must be '{lost}'")


# HDF5


def restored(path: Path, name: str, content, **more) -> None:
    import h5py

    path.unlink()
    with h5py.File(path, "w") as file:
        file.create_dataset(name, **({"data": content} if content is not None else {}), **more)


IMAGES, LABELS = (f"pcam/camelyonpatch_level_2_split_test_{part}.h5" for part in "xy")


@needs_h5py
@pytest.mark.parametrize(
    "change",
    [
        lambda x: np.concatenate([x[::-1], x]),
        lambda x: x[..., 0],
        lambda x: np.concatenate([x, x[..., :1]], 3),
        lambda x: x[..., 0].astype(np.float32),
        lambda x: x[..., 0] > 100,
        lambda x: x[:, :32, :32],
        lambda x: x.astype(np.int16),
        lambda x: x * np.array([1, 0], np.uint8)[:, None, None, None],
    ],
)
def test_images_of_another_form_or_number_in_hdf5(written, change):
    import h5py

    root = written("pcam")
    with h5py.File(root / IMAGES) as file:
        stored = file["x"][...]
    restored(root / IMAGES, "x", change(stored))
    refused("pcam", root, "camelyonpatch_level_2_split_test_x.h5")


@needs_h5py
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"chunks": (1, 96, 96, 3)},
        {"external": [("other.bin", 0, 2 * 96 * 96 * 3)]},
        {"chunks": (2**14, 96, 96, 3), "maxshape": (None, 96, 96, 3), "compression": "gzip"},
    ],
)
def test_images_that_were_never_written_or_lie_elsewhere_in_hdf5(written, monkeypatch, more):
    """HDF5 gives zeros in their place."""
    root = written("pcam")
    monkeypatch.setattr("zsr.data.sets.pcam.MOST_BLACK", 1)
    (root / "pcam/other.bin").write_bytes(b"x" * 2 * 96 * 96 * 3)
    restored(root / IMAGES, "x", None, shape=(2, 96, 96, 3), dtype="u1", **more)
    why = "packed together" if "compression" in more else "not written as a whole"
    refused("pcam", root, f"_x.h5 cannot be read .*{why}")


@needs_h5py
def test_an_array_that_is_a_link_or_a_group_in_hdf5(written):
    import h5py

    root = written("pcam")
    for made in (h5py.SoftLink("/y"), h5py.ExternalLink(Path(LABELS).name, "y"), None):
        with h5py.File(root / IMAGES, "w") as file:
            if made is None:
                file.create_group("x")
            else:
                file["x"] = made
        refused("pcam", root, "_x.h5 cannot be read .*x must be bytes, 96 x 96 x 3")


@needs_h5py
@pytest.mark.parametrize(
    "labels", [[0, 0], [1, 1], [0.4, 1.4], [True, False], [1, 0, 1], [0] * 150 + [1] * 50, [[1, 0], [0, 1]]]
)
def test_labels_of_another_form_or_number_and_labels_that_are_zeros_in_hdf5(written, labels, monkeypatch):
    monkeypatch.setattr("zsr.data.sets.pcam.MOST_ALIKE", 100)
    root, kind = written("pcam"), np.uint8 if type(np.ravel(labels)[0].item()) is int else None
    if len(labels) == 200:
        restored(root / IMAGES, "x", np.full((200, 96, 96, 3), 7, np.uint8))
    restored(root / LABELS, "y", np.array(labels, kind).reshape(len(labels), -1, 1, 1))
    refused("pcam", root, "camelyonpatch_level_2_split_test_y.h5")


# Matlab


def resaved(path: Path, **changes) -> None:
    held = {name: value for name, value in loadmat(path).items() if not name.startswith("_")}
    path.unlink()
    savemat(path, held | changes)


@pytest.mark.parametrize(
    ("file", "changes", "match"),
    [
        ("setid", {"tstid": [[1, 2]], "trnid": [[1, 2]]}, "setid.mat must have each of 4 images in one split"),
        ("setid", {"tstid": [[1, 2, 3, 4]]}, "setid.mat must have each"),
        ("setid", {"tstid": [[4, 0]]}, "setid.mat must have each"),
        ("setid", {"tstid": [[4.5, 3]]}, "setid.mat must have each"),
        ("imagelabels", {"labels": [[1, 2, 3, 4] * 2]}, "setid.mat must have each of 8 images"),
        ("imagelabels", {"labels": [[1.5, 2.5, 3.5, 4.5]]}, "flowers102: .*no whole numbers"),
        ("imagelabels", {"labels": [[0, 0, 0, 0]]}, "flowers102 .test. has 102 classes, but labels from -1"),
    ],
)
def test_lists_of_flowers_that_contradict_each_other(written, file, changes, match):
    root = written("flowers102")
    resaved(root / f"flowers-102/{file}.mat", **changes)
    refused("flowers102", root, match)


def test_a_file_of_matlab_that_is_missing_damaged_or_a_bomb_names_itself(written, monkeypatch):
    root = written("flowers102")
    path = root / "flowers-102/imagelabels.mat"
    whole = path.read_bytes()
    for content, match in {
        b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM": "NotImplementedError",  # and not the advice to use a library
        b"": "",
        whole[:140]: "",
        bytes(2**21 + 1): "more than",
    }.items():
        path.write_bytes(content)
        refused("flowers102", root, f"imagelabels.mat cannot be read .*{match}")
    path.unlink()
    refused("flowers102", root, "imagelabels.mat cannot be read .No such file")
    savemat(path, {"other": [1]})
    refused("flowers102", root, "imagelabels.mat cannot be read .*it has no labels")
    path.write_bytes(whole)
    monkeypatch.setattr(matlab, "MOST_NUMBERS", 3)
    refused("flowers102", root, "imagelabels.mat cannot be read .*more than 3 numbers")


def test_a_file_of_matlab_on_which_its_reader_crashes_is_one_line(written, monkeypatch):
    root = written("flowers102")

    def crash(*_, **__):
        os.kill(os.getpid(), signal.SIGSEGV)

    monkeypatch.setattr("scipy.io.loadmat", crash)
    refused("flowers102", root, "imagelabels.mat cannot be read .its reader has crashed")


def test_a_label_of_a_car_is_a_whole_number(written):
    root = written("stanford_cars")
    path = root / "stanford_cars/cars_test_annos_withlabels.mat"
    notes = loadmat(path)["annotations"]
    notes["class"][0, 0] = np.array([[1.6]])
    resaved(path, annotations=notes)
    refused("stanford_cars", root, "no whole numbers")


def test_published_hashes_of_single_files_are_compared(written, capsys):
    root = written("flowers102")
    assert "imagelabels.mat is not the published file of flowers102" in capsys.readouterr().err
    with pytest.raises(StudyError, match="is not the published file of flowers102.*move it away"):
        samples.check_published("flowers102", root, "test")


# Lists


def test_an_image_that_a_list_has_for_another_class(written):
    root = written("food101")
    path = root / "food-101/meta/test.json"
    path.write_text(
        json.dumps({"apple_pie": ["apple_pie/5", "baby_back_ribs/3"], "baby_back_ribs": ["baby_back_ribs/7"]})
    )
    refused("food101", root, "test.json lists 'baby_back_ribs/3' for another class")
    path.write_text('{"apple_pie": ["apple_pie/5"], "baby_back_ribs": ["baby_back_ribs/7"], "apple_pie": []}')
    refused("food101", root, "food-101.*a class is listed twice")
    path.write_text('{"apple_pie": [' + "9" * 5000 + "]}")
    refused("food101", root, r"test.json is not laid out as it should be \(ValueError\)")  # without Python's advice


def test_a_breed_with_two_numbers_and_a_list_of_another_split(written):
    root = written("oxford_pets")
    lists = root / "oxford-iiit-pet/annotations"
    right = (lists / "test.txt").read_text()
    image = root / "oxford-iiit-pet/images/Abyssinian_9.jpg"
    image.write_bytes((image.parent / "Abyssinian_201.jpg").read_bytes())
    (lists / "test.txt").write_text(right + "Abyssinian_9 2 1 1\n")
    refused("oxford_pets", root, "test.txt has two numbers for a breed")
    (lists / "test.txt").write_text("Abyssinian_9 2 1 1\n" + right)
    refused("oxford_pets", root, "test.txt has two numbers for a breed")
    (lists / "test.txt").write_text(right + "Abyssinian_9 3 1 1\n")
    refused("oxford_pets", root, "test.txt has two numbers for a breed")
    (lists / "test.txt").write_text((lists / "trainval.txt").read_text())
    refused("oxford_pets", root, "test.txt and .*trainval.txt list the same images")


@pytest.mark.parametrize(
    ("name", "lists"),
    [("dtd", "dtd/dtd/labels/{}1.txt"), ("fgvc_aircraft", "fgvc-aircraft-2013b/data/images_variant_{}.txt")],
)
@pytest.mark.parametrize("other", ["train", "val"])
def test_a_list_in_the_place_of_that_of_another_split(written, name, lists, other):
    """The splits of these sets have equally many images, so the numbers do not tell."""
    root = written(name)
    right = (root / lists.format("test")).read_text()
    (root / lists.format(other)).write_text(right.replace("000", "999"))  # of other images
    assert len(split_of(name, root, 2).ids) == 2
    (root / lists.format(other)).write_text(right)
    refused(name, root, f"test.*.txt and .*{other}.*.txt list the same images")


def test_more_cars_than_listed_are_those_of_the_other_split(written):
    root = written("stanford_cars")
    (root / "stanford_cars/cars_test/00003.jpg").write_bytes((root / "stanford_cars/cars_test/00001.jpg").read_bytes())
    refused("stanford_cars", root, "cars_test has 3 images, and the list of test images 2")


def test_a_path_in_a_list_does_not_leave_its_folder(tmp_path):
    for path in ("/etc/passwd", tmp_path / "../x.jpg", tmp_path / "a/../b.jpg"):
        with pytest.raises(StudyError, match="does not lie in"):
            samples.of_files(tmp_path, [path], [0], ["a"])


# Folders and shards


def test_a_link_to_a_folder_above_is_refused(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").touch()
    assert len(outside.visible_files(tmp_path, (".png",))) == 2
    for name in "ab":
        (tmp_path / name / "up").symlink_to("..")
    with pytest.raises(StudyError, match="/up is a folder that is met twice"):
        outside.visible_files(tmp_path, (".png",))


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        ("eurosat", "2750/River/River_1.jpg", "2750/Forest"),
        ("caltech256", "256_ObjectCategories/001.ak47/001_0002.jpg", "256_ObjectCategories/003.backpack"),
    ],
)
def test_an_image_in_the_folder_of_another_class(written, name, one, other):
    root = written(name)
    (root / name / one).rename(root / name / other / Path(one).name)
    refused(name, root, f"{Path(one).name} lies among the images of '{Path(other).name}'")


@pytest.mark.parametrize(
    ("name", "folder", "inner"),
    [("tiny_imagenet", "tiny-imagenet-200/train", "images"), ("imagenet", "imagenet/train", "")],
)
def test_a_training_image_in_the_folder_of_another_class(written, name, folder, inner):
    root = written(name)
    first, second = sorted(path for path in (root / folder).iterdir())
    (first / inner / f"{first.name}_1.JPEG").rename(second / inner / f"{first.name}_1.JPEG")
    with pytest.raises(StudyError, match=f"{first.name}_1.JPEG lies among the images of '{second.name}'"):
        make(name, "train", 1, 0, 32, Files(root, complete=False))


def test_a_folder_of_one_class_that_is_a_link_to_another_class(written, tmp_path):
    root = written("caltech101")
    faces = root / "caltech101/101_ObjectCategories/Faces"
    faces.rename(root / "elsewhere")
    faces.symlink_to(root / "elsewhere")
    assert len(split_of("caltech101", root, 6).ids) == 6
    (faces.parent / "Faces_easy").rename(root / "away")
    (faces.parent / "Faces_easy").symlink_to("Faces")
    refused("caltech101", root, "Faces_easy and .*Faces are one folder.*: remove the link")
    with pytest.raises(StudyError, match="Faces_easy and .*Faces are one folder"):
        folder.read(faces.parent, 8)


def test_a_folder_that_cannot_be_listed_is_no_empty_folder(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()

    def scandir(path):
        if Path(path).name == "a":
            raise PermissionError(13, "Permission denied", str(path))
        return listing(path)

    listing = outside.os.scandir
    monkeypatch.setattr(outside.os, "scandir", scandir)
    with pytest.raises(PermissionError):
        outside.visible_files(tmp_path, (".png",))


def test_what_servers_and_file_systems_leave_in_a_folder_is_no_class(written):
    root = written("eurosat")
    for name in ("@eaDir", "lost+found", "__pycache__", "$RECYCLE.BIN"):
        (root / "eurosat/2750" / name).mkdir()
    assert len(split_of("eurosat", root, 10).classnames) == 10


def shards(root: Path) -> Path:
    folder, keys = root / "wds_food101", ("apple_pie", "baby_back_ribs", "baklava")
    fixtures_real.shards(folder, [key.replace("_", " ") for key in keys], keys, np.random.default_rng(0))
    assert len(split_of("food101", root, 6).ids) == 6
    return folder / "test"


def test_a_shard_more_than_said_and_a_row_that_is_lost(tmp_path):
    folder = shards(tmp_path)
    (folder / "nshards.txt").write_text("1")
    refused("food101", tmp_path, "nshards.txt says 1 shards, and 1.tar is there, too")
    (folder / "nshards.txt").write_text("2")
    with tarfile.open(folder / "0.tar") as tar:
        members = [(info.name, tar.extractfile(info).read()) for info in tar]
    with tarfile.open(folder / "0.tar", "w") as tar:
        for name, content in members[:-2]:
            fixtures_real.add(tar, name, content)
    refused("food101", tmp_path, "wds_food101 has no image s0000002, but s0000003")


# Images


@pytest.mark.parametrize(("mode", "kind"), [("I;16", "PNG"), ("I;16", "TIFF"), ("I", "TIFF"), ("F", "TIFF")])
def test_an_image_of_more_than_eight_bits_is_not_cut_off(mode, kind):
    numbers = np.arange(64, dtype={"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]).reshape(8, 8) * 1000
    content = fixtures_real.encoded(Image.fromarray(numbers), kind)
    with pytest.raises(StudyError, match="^a has numbers of more than 8 bits"):
        samples.decoded(BytesIO(content), "a")


def test_a_jpeg_whose_end_was_never_written(tmp_path):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    content = fixtures_real.encoded(noise, "JPEG")
    for part in (0.5, 0.9):
        left = content[: int(part * len(content))]
        with pytest.raises(StudyError, match="^a cannot be read"):
            samples.decoded(BytesIO(left + bytes(len(content) - len(left))), "a")
    assert samples.decoded(BytesIO(content + bytes(20)), "a").size == (64, 64)
    assert samples.decoded(BytesIO(content), "a").size == (64, 64)

"""Files from outside: damage is one line that names the file, hidden files are no data, lists come in any dress."""

import errno
import io
import pickle
import struct
import zlib
from contextlib import nullcontext
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import fixtures_real
from tests.fixtures_real import encoded
from zsr import files
from zsr.data import folder, pickles, samples
from zsr.data.outside import printable, read_lines, visible_files
from zsr.data.prepared import MOST_PIXELS
from zsr.data.registry import entry
from zsr.data.samples import Samples, check_published, decoded
from zsr.data.sources import Decoded
from zsr.params import StudyError, line_of

COLOURS = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8))


def one_line(match: str):
    return pytest.raises(StudyError, match=r"\A[^\n]*" + match + r"[^\n]*\Z")


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, *more: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(more) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def bmp(width: int, height: int) -> bytes:
    content = bytearray(encoded(COLOURS, "BMP"))
    content[18:26] = struct.pack("<ii", width, height)
    return bytes(content)


def gif(width: int, height: int) -> bytes:
    content = bytearray(encoded(COLOURS.convert("P"), "GIF"))
    content[6:10] = struct.pack("<HH", width, height)
    return bytes(content)


DAMAGED = (
    {
        "header of two bytes": b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", b"ab"),
        "text of 2 MB": png(4, 4, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**21)))),
        "empty": b"",
        "page": b"<!DOCTYPE html><html>not found</html>",
        "format that no set has": encoded(COLOURS, "PCX"),  # as is that of programs, which Pillow would run
    }
    | {
        f"cut {kind}": encoded(COLOURS, kind)[: 90 if kind == "BMP" else 60]
        for kind in ("BMP", "GIF", "TIFF", "JPEG2000")
    }
)
ROWS = bytes(32 * (1 + 3 * 16))  # the pixels of 16 x 32


def png_of(
    rows: bytes, width: int = 16, height: int = 32, bits: int = 8, colour: int = 2, interlaced: int = 0
) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlaced))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


DAMAGED |= {  # Pillow takes these, and makes what lacks black
    "png of one row less": png_of(ROWS[49:]),
    "png of one row": png_of(ROWS[:49]),
    "png whose header says twice the height": png_of(ROWS, height=64),
}
LARGE = {
    "png": png(20_000, 20_000),
    "png of less than twice the limit": png(10_000, 9_500),
    "bmp": bmp(20_000, 9_000),
    "gif": gif(60_000, 60_000),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_whatever_a_parser_raises_is_one_line_with_the_file(tmp_path, kind):
    (tmp_path / "a.png").write_bytes(DAMAGED[kind])
    with one_line("a.png cannot be read .it is damaged or no image"):
        decoded(tmp_path / "a.png", tmp_path / "a.png")


def test_too_many_open_files_say_nothing_of_the_picture(tmp_path, monkeypatch):
    def spent(path: Path, formats: object) -> None:
        raise OSError(errno.EMFILE, "?", path)

    monkeypatch.setattr(Image, "open", spent)
    (tmp_path / "a.png").touch()
    with pytest.raises(OSError) as caught:
        decoded(tmp_path / "a.png", tmp_path / "a.png")
    assert "a.png: too many files are open; allow more" in line_of(caught.value)


@pytest.mark.parametrize("kind", LARGE)
@pytest.mark.filterwarnings("error")
def test_an_image_of_too_many_pixels_is_refused_from_its_header(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(Image.Image, "load", pytest.fail)  # takes memory
    (tmp_path / "a.png").write_bytes(LARGE[kind])
    with one_line(f"a.png is too large .*at most {MOST_PIXELS:,}"):
        decoded(tmp_path / "a.png", tmp_path / "a.png")


@pytest.mark.parametrize("length", [12, 14])
def test_a_header_of_png_of_another_length_is_refused(length):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "PNG")
    content = buffer.getvalue()
    header = (content[16:29] + b"\0")[:length]
    chunk = struct.pack(">I", length) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    with pytest.raises(StudyError, match="one.png cannot be read"):
        decoded(io.BytesIO(content[:8] + chunk + content[33:]), "one.png")
    assert decoded(io.BytesIO(content), "one.png").size == (4, 4)


def test_no_png_with_other_bytes_is_taken_for_pixels():
    """Pillow by itself takes many: it stops once it has all rows, before the checksum behind them."""
    pixels, buffer = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8), io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    content = buffer.getvalue()
    assert (np.asarray(decoded(io.BytesIO(content), "a")) == pixels).all()
    start, end = content.index(b"IDAT") + 4, content.index(b"IEND") - 4  # the pixels and their checksum
    for place in [*range(start, end - 40, 7), *range(end - 40, end)]:
        for damaged in (
            content[:place] + bytes([content[place] ^ 16]) + content[place + 1 :],
            content[:place] + b"\0" * (end - place) + content[end:],
        ):
            if damaged != content:
                with pytest.raises(StudyError, match="^a cannot be read"):
                    decoded(io.BytesIO(damaged), "a")


@pytest.mark.parametrize("quiet", ["ignore", "default"])
def test_the_limit_holds_where_warnings_do_not(quiet):
    import warnings

    with warnings.catch_warnings(), one_line("a is too large"):
        warnings.simplefilter(quiet)
        decoded(io.BytesIO(LARGE["png of less than twice the limit"]), "a")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000"])
def test_bytes_changed_at_random_give_an_image_or_one_line(kind):
    whole, rng, refused = encoded(COLOURS.resize((8, 8)), kind), np.random.default_rng(1), 0
    for _ in range(60):
        content = np.frombuffer(whole, np.uint8).copy()
        content[rng.integers(0, len(content), 3)] = rng.integers(0, 256, 3)
        try:
            assert decoded(io.BytesIO(content.tobytes()), "name").mode == "RGB"
        except StudyError as error:
            refused += 1
            assert "name" in str(error) and "\n" not in str(error)
    assert refused < 60 or kind == "PNG", "most of a picture is pixels; a PNG has a sum over them"


def test_images_that_are_right_are_taken_as_they_were():
    exif = Image.Exif()
    exif[0x0112] = 6  # on its side; published numbers do not turn it
    made = {
        "JPEG": COLOURS.convert("CMYK"),
        "PNG": COLOURS.convert("P"),
        "WEBP": COLOURS.convert("RGBA"),
        "TIFF": COLOURS.convert("L"),
    }
    for kind, image in made.items():
        found = decoded(io.BytesIO(encoded(image, kind)), "a")
        assert np.array_equal(found, Image.open(io.BytesIO(encoded(image, kind))).convert("RGB"))
    turned = io.BytesIO()
    COLOURS.save(turned, "JPEG", exif=exif)
    assert decoded(turned, "a").size == COLOURS.size


def test_an_image_that_would_grow_too_much_is_named():
    thin = Samples(("cat/thin.png",), np.zeros(1, np.int64), ("cat",), lambda row: Image.new("RGB", (2000, 1)))
    with one_line("cat/thin.png cannot be resized"):
        list(Decoded(thin, (0,), "natural", 224))


def test_an_image_of_another_size_than_its_set_has_is_named():
    def load(row: int) -> Image.Image:
        return Image.new("RGB", (32, 32) if row else (32, 1))  # NumPy would spread the one row over all

    mixed = Samples(("a", "b"), np.zeros(2, np.int64), ("cat",), load)
    with one_line("a has 1 x 32 pixels where each image has 32 x 32: fetch the set anew"):
        list(Decoded(mixed, (1, 0), "small", 224, on_disk=32))


# Hidden files, and lists


def litter(root: Path) -> None:
    """What file browsers and notebooks leave, in every folder."""
    image = encoded(COLOURS, "JPEG")
    for place in [root, *(path for path in root.rglob("*") if path.is_dir())]:
        for name in (".ipynb_checkpoints", "__MACOSX"):
            (place / name).mkdir()
            for stem in ("sun_a", "a-checkpoint"):
                (place / name / f"{stem}.jpg").write_bytes(image)
                (place / name / f"{stem}.JPEG").write_bytes(image)
        for name in ("._sun_a.jpg", "._a.JPEG", ".DS_Store", "Thumbs.db", "desktop.ini"):
            (place / name).write_bytes(image)


def state(samples: Samples):
    return samples.ids, samples.labels.tolist(), samples.raw_keys


def parsed(name: str, root: Path) -> Samples:
    return import_module(f"zsr.data.sets.{name}").read(root, "test")


@pytest.mark.parametrize("name", ["tiny_imagenet", "sun397", "imagenet", "caltech101", "caltech256", "eurosat", "dtd"])
def test_hidden_files_and_folders_are_no_data(tmp_path, name):
    fixtures_real.LAYOUTS[name](tmp_path, np.random.default_rng(0))
    if name == "tiny_imagenet":  # the layout that lists folders
        for image, wnid in (("val_0.JPEG", "n01443537"), ("val_1.JPEG", "n02124075")):
            (tmp_path / "tiny-imagenet-200/val" / wnid).mkdir()
            (tmp_path / "tiny-imagenet-200/val/images" / image).rename(
                tmp_path / "tiny-imagenet-200/val" / wnid / image
            )
    before = state(parsed(name, tmp_path))
    litter(tmp_path)
    assert state(parsed(name, tmp_path)) == before


def pictures(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        COLOURS.save(root / name)


@pytest.mark.parametrize("splits", [("train", "test"), ("Train", "val", "test")])
def test_splits_are_no_classes(tmp_path, splits):
    pictures(tmp_path, *(f"{split}/{key}/1.png" for split in splits for key in "ab"))
    with one_line(f"holds the splits of a set .{', '.join(sorted(splits))}., not its classes: name the folder of one"):
        folder.read(tmp_path, 8)
    assert folder.read(tmp_path / "test", 8).classnames == ("a", "b")
    pictures(tmp_path, "bus/1.png")  # a train is a vehicle, too
    assert "bus" in folder.read(tmp_path, 8).classnames


def test_files_that_are_passed_over_are_told(tmp_path, capsys):
    pictures(tmp_path, "a/1.png", "b/deep/2.png")
    (tmp_path / "README.md").touch()
    litter(tmp_path)
    folder.read(tmp_path, 8)
    assert capsys.readouterr().err == ""
    pictures(tmp_path, "a/2.gif", "b/deep/3.gif", "4.png")
    assert len(folder.read(tmp_path, 8).ids) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"Warning: {tmp_path}: 3 files are passed over, the first is 4.png: a pict")
    assert said.count("\n") == 1


def test_a_folder_must_name_its_class(tmp_path):
    pictures(tmp_path, "_/1.png", "a/1.png")
    with one_line("the folder '_' names no class: rename it"):
        folder.read(tmp_path, 8)
    assert folder.read(tmp_path, 8, classnames={"_": "blank", "a": "a"}).nouns == ("blank", "a")


def test_hidden_files_are_no_pictures_of_ones_own(tmp_path):
    for name in ("a/1.jpg", "b/2.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        COLOURS.save(tmp_path / name)
    litter(tmp_path)
    split = folder.read(tmp_path, 8)
    assert len(split.ids) == 2 and split.classnames == ("a", "b")


def test_the_published_tiny_imagenet_with_a_stray_folder_is_what_it_was(tmp_path):
    fixtures_real.tiny_imagenet(tmp_path, np.random.default_rng(0))
    before = state(parsed("tiny_imagenet", tmp_path))
    (tmp_path / "tiny-imagenet-200/val/.ipynb_checkpoints").mkdir()
    assert state(parsed("tiny_imagenet", tmp_path)) == before


LISTS = {
    "tiny_imagenet": ["tiny-imagenet-200/wnids.txt", "tiny-imagenet-200/val/val_annotations.txt"],
    "sun397": ["SUN397/ClassName.txt"],
    "food101": ["food-101/meta/test.json"],
    "oxford_pets": ["oxford-iiit-pet/annotations/test.txt"],
    "dtd": ["dtd/dtd/labels/test1.txt"],
    "fgvc_aircraft": ["fgvc-aircraft-2013b/data/variants.txt", "fgvc-aircraft-2013b/data/images_variant_test.txt"],
    "stl10": ["stl10_binary/class_names.txt"],
}


@pytest.mark.parametrize("name", LISTS)
def test_lists_may_have_a_byte_order_mark_and_any_ends_of_lines(tmp_path, name):
    fixtures_real.LAYOUTS[name](tmp_path, np.random.default_rng(0))
    before = state(parsed(name, tmp_path))
    for listed in LISTS[name]:
        content = (tmp_path / listed).read_bytes()
        (tmp_path / listed).write_bytes(b"\xef\xbb\xbf" + content.replace(b"\n", b"\r\n"))
    assert state(parsed(name, tmp_path)) == before
    for listed in LISTS[name]:
        content = (tmp_path / listed).read_bytes()
        (tmp_path / listed).write_bytes("Gebäude\n".encode("latin-1"))
        with one_line(f"{listed} is no text in UTF-8"):
            parsed(name, tmp_path)
        (tmp_path / listed).write_bytes(content)


def test_a_list_of_ones_own_may_have_a_mark_and_names_what_is_wrong(tmp_path):
    path = tmp_path / "names.txt"
    path.write_bytes(b"\xef\xbb\xbfa\tan ant\r\n\r\nb\ta bee\r\n")
    assert folder.read_classnames(path) == {"a": "an ant", "b": "a bee"}
    for content, said in {
        "a\tan ant\n".encode("utf-16"): "names.txt is no text in UTF-8",
        b"a\tan \x1b[31mant\n": "line 1 has a control character: 'a.tan .x1b",
    }.items():
        path.write_bytes(content)
        with one_line(said):
            folder.read_classnames(path)
    with one_line("names.txt has more than 3 bytes"):
        read_lines(path, most=3)


def test_more_templates_than_anybody_needs_are_refused(tmp_path):
    (tmp_path / "t.txt").write_text("a {}\n" * 201)
    with pytest.raises(StudyError, match="t.txt has 201 lines, of which at most 200 are taken"):
        folder.read_templates(tmp_path / "t.txt")


def test_names_in_messages_are_one_line_whatever_they_are():
    assert printable("a\nb\x1b[31m") == "a\\nb\\x1b[31m" and len(printable("x" * 10**6)) < 2000
    assert printable("Gebäude 1.jpg") == "Gebäude 1.jpg"


def test_a_folder_with_the_name_of_a_picture_is_refused_and_not_passed_over(tmp_path):
    (tmp_path / "class" / "1.png").mkdir(parents=True)
    (tmp_path / "class" / "2.png").touch()
    with one_line("1.png is a folder, and must be a picture"):
        visible_files(tmp_path, (".png",))
    (tmp_path / "class" / "1.png").rename(tmp_path / "class" / "deep")
    assert visible_files(tmp_path, (".png",)) == [tmp_path / "class" / "2.png"]


def test_a_file_of_pictures_that_is_zeros_is_refused_and_a_black_picture_is_not(tmp_path):
    fixtures_real.LAYOUTS["stl10"](tmp_path, np.random.default_rng(0))
    path = tmp_path / "stl10_binary/test_X.bin"
    path.write_bytes(bytes(path.stat().st_size))
    with one_line("stl10: .*stl10_binary.* is not laid out as it should be .*of .* images are black"):
        parsed("stl10", tmp_path)
    pixels = np.ones((100, 2, 2, 3), np.uint8)
    pixels[0] = 0
    assert len(samples.of_array(pixels, range(100), ["a"], "test").ids) == 100
    pixels[1] = 0
    with pytest.raises(ValueError, match="2 of 100 images are black"):
        samples.of_array(pixels, range(100), ["a"], "test")


# Published hashes


@pytest.mark.parametrize("name", ["test_batch", "batches.meta"])
def test_a_file_that_is_not_the_published_one_is_refused_in_a_whole_set(tmp_path, monkeypatch, name, capsys):
    folder_of_set = cifar(tmp_path).parent
    known = {file: files.md5(folder_of_set / file) for file in ("test_batch", "batches.meta")}
    monkeypatch.setattr(samples, "entry", lambda name: replace(entry(name), md5_of={"test": known}))
    check_published("cifar10", tmp_path, "test")
    content = bytearray((folder_of_set / name).read_bytes())
    content[len(content) // 2] ^= 1  # a pixel, or a letter
    (folder_of_set / name).write_bytes(content)
    assert capsys.readouterr().err == ""
    with one_line(f"{name} is not the published file of cifar10: its md5 is .*, not {known[name]}; move it away and"):
        check_published("cifar10", tmp_path, "test")
    check_published("cifar10", tmp_path, "test", complete=False)  # the images that are there suffice
    assert capsys.readouterr().err.startswith("Warning: ")
    (folder_of_set / name).unlink()
    check_published("cifar10", tmp_path, "test")  # the set lies there in another form, or not at all


def test_the_hashes_of_single_files_are_those_of_torchvision():
    from torchvision import datasets

    for name, of in {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100, "stl10": datasets.STL10}.items():
        meta = getattr(of, "meta", None)
        published = dict([*of.train_list, *of.test_list, *([(meta["filename"], meta["md5"])] if meta else [])])
        assert set(entry(name).md5_of) == set(entry(name).splits)
        for stated in entry(name).md5_of.values():
            assert len(stated) == 2 and stated.items() <= published.items()


# Pickles


class Evil:
    def __init__(self, *calls):
        self.calls = calls

    def __reduce__(self):
        return self.calls


def cifar(root: Path) -> Path:
    fixtures_real.cifar10(root, np.random.default_rng(0))
    return root / "cifar-10-batches-py" / "test_batch"


@pytest.mark.parametrize("of", [(Path.touch, (Path("ran"),)), (eval, ("1",)), (np.load, ("x",)), (np.zeros, (3,))])
def test_a_pickle_runs_nothing(tmp_path, monkeypatch, of):
    monkeypatch.chdir(tmp_path)
    path = cifar(tmp_path)
    path.write_bytes(pickle.dumps({"data": Evil(*of), "labels": [1]}))
    with one_line("test_batch cannot be read .it names "):
        parsed("cifar10", tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_numbers_and_texts_come_out_of_a_pickle_of_any_age(tmp_path, protocol):
    stored = {"data": np.arange(12, dtype=np.uint8).reshape(3, 4), "turned": np.arange(6).reshape(2, 3).T}
    stored |= {"labels": [1, np.int64(7)], "text": "Käfer", "bytes": b"\x00\xff", "big": np.arange(3, dtype=">i4")}
    (tmp_path / "a").write_bytes(pickle.dumps(stored, protocol))
    found = pickles.load(tmp_path / "a")
    assert found.keys() == stored.keys() and found["labels"] == [1, 7]
    for key in ("data", "turned", "big"):
        assert np.array_equal(found[key], stored[key]) and found[key].dtype.kind == stored[key].dtype.kind
    assert (found["text"], found["bytes"]) == (stored["text"], stored["bytes"])


AS_PYTHON_2 = (
    b"\x80\x02}q\x01(U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85U\x01b\x87Rq\x05"
    b"(K\x01K\x02K\x02\x86cnumpy\ndtype\nq\x06U\x02u1K\x00K\x01\x87Rq\x07(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff"
    b"K\x00tb\x89U\x04\x00\xff\x01\x02tbU\x06labelsq\x08]q\t(K\x01K\x02eu."
)


def test_a_pickle_of_python_2_is_read(tmp_path):
    """As the published files are."""
    assert np.array_equal(pickle.loads(AS_PYTHON_2, encoding="latin1")["data"], [[0, 255], [1, 2]])
    (tmp_path / "a").write_bytes(AS_PYTHON_2)
    found = pickles.load(tmp_path / "a")
    assert np.array_equal(found["data"], [[0, 255], [1, 2]]) and found["labels"] == [1, 2]


def test_a_damaged_pickle_is_one_line(tmp_path):
    path, rng = tmp_path / "test_batch", np.random.default_rng(2)
    whole = pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": [0]})
    for damage in (
        whole[:-5],
        b"\x80\x04r\xff\xff\xff\x7f.",
        b"",
        b"<html>\n",
        pickle.dumps([1]),
        pickle.dumps({1: 2})[1:],
    ):
        path.write_bytes(damage)
        with one_line("test_batch cannot be read"):
            pickles.load(path)
    for _ in range(100):
        content = np.frombuffer(whole, np.uint8).copy()
        content[rng.integers(0, 150, 2)] = rng.integers(0, 256, 2)
        path.write_bytes(content.tobytes())
        try:
            pickles.load(path)
        except StudyError as error:
            assert "\n" not in str(error)


def test_labels_of_a_pickle_are_a_list(tmp_path):
    held = {"data": np.zeros((2, 3072), np.uint8), "labels": {0: 1, 1: 0}}
    (tmp_path / "batch").write_bytes(pickle.dumps(held))
    (tmp_path / "meta").write_bytes(pickle.dumps({"names": ["a", "b"]}))
    with pytest.raises(StudyError, match="batch must have a list of labels"):
        pickles.read(tmp_path / "batch", "labels", tmp_path / "meta", "names", "test")


@pytest.mark.parametrize(
    "bits, colour", [(1, 0), (2, 0), (4, 0), (8, 0), (8, 2), (16, 2), (1, 3), (8, 4), (8, 6), (16, 6)]
)
@pytest.mark.parametrize("interlaced", [0, 1])
@pytest.mark.parametrize("size", [(1, 1), (3, 2), (5, 9), (33, 17)])
def test_the_pixels_of_a_png_are_counted_to_the_byte(size, bits, colour, interlaced):
    """Oracle: the specification's reduced images of the seven passes, counted pixel by pixel."""
    width, height = size
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    order = ["16462646", "77777777", "56565656", "77777777", "36463646", "77777777", "56565656", "77777777"]
    passes: dict[str, dict[int, int]] = {}
    for y in range(height):
        for x in range(width):
            row = passes.setdefault(order[y % 8][x % 8] if interlaced else "", {})
            row[y] = row.get(y, 0) + bits * channels
    n = sum(1 + (of_row + 7) // 8 for rows in passes.values() for of_row in rows.values())
    assert samples._bytes_of_pixels(width, height, bits * channels, bool(interlaced)) == n
    palette = chunk(b"PLTE", bytes(6))
    for lacking in (0, 1):
        content = png_of(bytes(n - lacking), *size, bits, colour, interlaced)
        content = content[:33] + palette * (colour == 3) + content[33:]
        with one_line("cannot be read") if lacking else nullcontext():
            decoded(io.BytesIO(content), "a.png")


DEEP = {
    "png": np.uint16,
    "ppm": np.uint16,
    "tiff": np.uint16,
    "tiff of whole numbers": np.int32,
    "tiff of fractions": np.float32,
}


@pytest.mark.parametrize("kind", DEEP)
def test_numbers_of_more_than_8_bits_are_not_made_white(tmp_path, kind):
    ramp = (np.arange(1024).reshape(32, 32) * 64).astype(DEEP[kind])
    Image.fromarray(ramp).save(tmp_path / "a.img", kind.partition(" ")[0])
    with one_line("a.img has numbers of more than 8 bits .mode [IF;16B]*.: save it with 8 bits, or remove it"):
        decoded(tmp_path / "a.img", tmp_path / "a.img")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB"])
def test_every_mode_of_8_bits_is_taken(mode):
    kind = "TIFF" if mode in ("LAB", "CMYK", "PA", "YCbCr", "RGBX") else "PNG"
    assert decoded(io.BytesIO(encoded(COLOURS.convert(mode), kind)), "a").mode == "RGB"


@pytest.mark.parametrize("to", [".", "..", "../..", "../one"])
def test_a_link_to_a_folder_that_it_is_in_is_refused_and_not_followed_for_ever(tmp_path, to):
    for name in ("one", "two"):
        (tmp_path / "set" / name).mkdir(parents=True)
        (tmp_path / "set" / name / "a.png").write_bytes(b"")
    assert len(visible_files(tmp_path / "set", (".png",))) == 2
    (tmp_path / "set" / "one" / "up").symlink_to(to)
    with one_line("up.* is a folder that is met twice: remove the link"):
        visible_files(tmp_path / "set" / "one", (".png",))


def test_a_link_to_another_folder_is_followed(tmp_path):
    for name in ("set/one", "one"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "a.png").write_bytes(b"")
    (tmp_path / "set" / "one" / "more").symlink_to(tmp_path / "one")
    assert len(visible_files(tmp_path / "set", (".png",))) == 2

"""Tar shards are read at random, whatever their order of classes; what they say of themselves is checked."""

import pickle
import shutil
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import fixtures_real
from tests.fixtures_real import add, encoded, shade, shards
from zsr.data import prompts
from zsr.data.registry import entries
from zsr.data.samples import checked
from zsr.data.shards import read, recognised
from zsr.params import StudyError

HUB = {of.key: source.folder for of in entries().values() for source in of.sources if source.kind == "hub"}
BY_ROW = [of.key for of in entries().values() if any(source.order for source in of.sources)]
PCAM = ("lymph node", "lymph node containing metastatic tumor tissue")


def spelt(row):
    """A class as the builder of the shards spells it."""
    if row.raw_key.startswith("/"):
        return row.raw_key[3:]
    return row.name_openclip or row.raw_key


def small(name, folder, rows=(36, 0, 17)):
    """Shards of three classes that are not in our order."""
    known = prompts.rows(name)
    if name == "pcam":
        return shards(folder, PCAM[::-1], ("1", "0"), np.random.default_rng(0), labels=((0, 1), (1,)))
    some = [known[row % len(known)] for row in rows]
    written = shards(folder, [spelt(row) for row in some], [row.raw_key for row in some], np.random.default_rng(0))
    return replace(written, key_of=fixtures_real.by_row(written.key_of)) if name in BY_ROW else written


@pytest.mark.parametrize("name", HUB)
def test_shards_stand_in_for_the_layout_that_is_not_here(tmp_path, name):
    written = small(name, tmp_path / HUB[name])
    samples = import_module(f"zsr.data.sets.{name}").read(tmp_path, "test")
    checked(samples, name, "test", complete=False)
    assert samples.backend == "shards"
    assert {id: samples.raw_keys[label] for id, label in zip(samples.ids, samples.labels)} == written.key_of
    prompts.join(name, samples.raw_keys, complete=False)  # in the order of our labels
    for row, id in enumerate(samples.ids):
        image = samples.load(row)
        assert image.mode == "RGB"
        assert abs(np.mean(image) - shade(written.key_of[id], written.keys)) < 6


def test_an_image_without_its_row_is_no_image_of_a_set_in_torchvisions_order(tmp_path):
    small("food101", tmp_path / "wds_food101")
    with tarfile.open(tmp_path / "wds_food101" / "test" / "1.tar", "w") as tar:
        add(tar, "pie.jpg", b"1")
        add(tar, "pie.cls", b"1")
    with pytest.raises(StudyError, match="1.tar: pie: it must be called s and the seven digits of its row"):
        import_module("zsr.data.sets.food101").read(tmp_path, "test")


def test_a_row_that_the_split_does_not_have_is_refused(tmp_path):
    written = small("food101", tmp_path / "wds_food101")
    with tarfile.open(tmp_path / "wds_food101" / "test" / "1.tar", "w") as tar:
        for key in ("s0025249", "s0025250"):  # the test split has 25,250 images
            add(tar, f"{key}.cls", b"1")
            add(tar, f"{key}.jpg", encoded(Image.new("RGB", (8, 8)), "JPEG"))
    with pytest.raises(StudyError, match="1.tar: s0025250: its row must be below 25250, the number of images"):
        import_module("zsr.data.sets.food101").read(tmp_path, "test")
    assert written.key_of


def test_the_layout_comes_before_the_shards(tmp_path):
    small("food101", tmp_path / HUB["food101"])
    from zsr.data.sets.food101 import read as read_food

    assert read_food(tmp_path, "test").backend == "shards"
    fixtures_real.food101(tmp_path, np.random.default_rng(0))
    assert read_food(tmp_path, "test").backend == "torchvision"


@pytest.fixture
def folder(tmp_path):
    small("sun397", tmp_path / "wds_sun397")
    return tmp_path / "wds_sun397"


def test_any_order_threads_and_a_pickle_give_the_same_images(folder):
    samples = read("sun397", folder)
    images = [samples.load(row).tobytes() for row in range(6)]
    assert len(set(images)) == 6
    sent = pickle.loads(pickle.dumps(samples))
    assert [sent.load(row).tobytes() for row in reversed(range(6))] == images[::-1]
    with ThreadPoolExecutor(8) as pool:
        assert [image.tobytes() for image in pool.map(samples.load, list(range(6)) * 10)] == images * 10


def test_a_process_started_anew_reads_them_without_torch(folder, tmp_path):
    samples = read("sun397", folder)
    (tmp_path / "samples").write_bytes(pickle.dumps(samples))
    code = "import pickle, sys; from tests.fixtures_real import images_digest as d; "
    code += "print(d(pickle.load(open(sys.argv[1], 'rb'))), 'torch' in sys.modules)"
    command = [sys.executable, "-c", code, str(tmp_path / "samples")]
    said = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True).stdout
    assert said.split() == [fixtures_real.images_digest(samples), "False"]


def test_reading_the_index_decodes_no_image(folder, monkeypatch):
    from PIL import Image

    monkeypatch.setattr(Image, "open", None)
    assert len(read("sun397", folder).ids) == 6


def rewrite(folder, members):
    with tarfile.open(folder / "test" / "1.tar", "w") as tar:
        for name, content in members.items() if isinstance(members, dict) else members:
            add(tar, name, content)


def test_other_members_are_passed_over_and_orphans_are_not(folder):
    from PIL import Image

    image = encoded(Image.new("RGB", (4, 4)), "PNG")
    rewrite(folder, {"s0.png": image, "s0.cls": b"2\n", "s0.json": b"{}", "__index__": b"x"})
    samples = read("sun397", folder)
    assert samples.ids[3:] == ("test/1.tar/s0",) and samples.load(3).size == (4, 4)
    for members, said in {
        ("s0.png",): "s0 has no image or no label",
        ("s0.cls",): "s0 has no image or no label",
        (): "no images",
    }.items():
        rewrite(folder, {name: image if name.endswith("png") else b"1" for name in members})
        with pytest.raises(StudyError, match=said):
            read("sun397", folder)
    for label in (b"3", b"-1", b"", b"one", b"1_0", "２".encode(), b"1" * 21, b"9" * 5000):
        rewrite(folder, {"s0.png": image, "s0.cls": label})
        with pytest.raises(StudyError, match=r"\A[^\n]*1.tar: s0.cls: it must [^\n]*\Z"):
            read("sun397", folder)


DOUBLES = {
    "image": ["s0.png", "s0.png", "s0.cls"],
    "image of another kind": ["s0.png", "s0.jpg", "s0.cls"],
    "label": ["s0.png", "s0.cls", "s0.cls"],
}


@pytest.mark.parametrize("double", DOUBLES)
def test_an_image_or_a_label_given_twice_is_refused(folder, double):
    rewrite(folder, [(name, b"1") for name in DOUBLES[double]])
    with pytest.raises(StudyError, match=f"1.tar: s0.*: s0 has two {double.split()[0]}s"):
        read("sun397", folder)


def test_an_image_in_two_shards_is_refused(folder):
    shutil.copy(folder / "test" / "0.tar", folder / "test" / "1.tar")
    with pytest.raises(StudyError, match="1.tar: s0000000 is in test/0.tar, too"):
        read("sun397", folder)


def test_a_link_in_place_of_an_image_is_refused(folder):
    with tarfile.open(folder / "test" / "1.tar", "w") as tar:
        link = tarfile.TarInfo("s0.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tar.addfile(link)
    with pytest.raises(StudyError, match="1.tar: s0.png: it must be a file"):
        read("sun397", folder)


def test_damage_in_the_middle_of_a_shard_does_not_end_it(folder):
    """Python's reader takes a damaged header for the end: the images behind it would be missing in silence."""
    content = bytearray((folder / "test" / "1.tar").read_bytes())
    at = content.index(b"s0000004.jpg")
    content[at : at + 3] = b"???"
    (folder / "test" / "1.tar").write_bytes(content)
    with pytest.raises(StudyError, match="1.tar is damaged after 's0000003.cls', at byte"):
        read("sun397", folder)
    (folder / "test" / "1.tar").write_bytes(content[: at + 700])
    with pytest.raises(StudyError, match="1.tar is damaged"):
        read("sun397", folder)


@pytest.mark.parametrize("said", ["10001", "9" * 5000, "0", "-1", "two", "", "2\n3", "\ufeff"])
def test_a_silly_number_of_shards_is_refused_before_memory_is_taken(folder, said):
    (folder / "test" / "nshards.txt").write_text(said, encoding="utf-8")
    with pytest.raises(StudyError, match=r"\A[^\n]*nshards.txt (must hold a number of shards|has more than)[^\n]*\Z"):
        read("sun397", folder)


def test_lists_of_shards_may_have_a_byte_order_mark(folder):
    before = read("sun397", folder)
    for name in ("classnames.txt", "test/nshards.txt"):
        (folder / name).write_bytes(b"\xef\xbb\xbf" + (folder / name).read_bytes().replace(b"\n", b"\r\n"))
    after = read("sun397", folder)
    assert (after.ids, after.raw_keys) == (before.ids, before.raw_keys)


def test_a_missing_or_damaged_shard_makes_one_line(folder):
    from zsr.data.sets.sun397 import read as read_sun

    samples = read_sun(folder.parent, "test")
    (folder / "test" / "0.tar").rename(folder / "0.tar")
    with pytest.raises(StudyError, match=r"0.tar cannot be read \(No such file"):
        samples.load(0)
    with pytest.raises(StudyError, match="lacks 1 of 2 shards, test/0.tar: run `python -m zsr fetch` again"):
        read_sun(folder.parent, "test")
    (folder / "test" / "0.tar").write_bytes((folder / "0.tar").read_bytes()[:700])
    with pytest.raises(StudyError, match="s0000000 in .*0.tar cannot be read"):
        samples.load(0)
    (folder / "test" / "0.tar").write_bytes(b"no archive at all")
    with pytest.raises(StudyError, match="0.tar is damaged at its start"):
        read_sun(folder.parent, "test")
    (folder / "test" / "nshards.txt").unlink()
    with pytest.raises(StudyError, match="nshards.txt"):
        read_sun(folder.parent, "test")


def labels_of(name, lines, **aliases):
    return recognised(name, lines, prompts.rows(name), aliases)


@pytest.mark.parametrize("name", HUB)
def test_all_classes_are_recognised_in_our_order_and_in_none(name):
    known = prompts.rows(name)
    aliases = dict(zip(PCAM, "01")) if name == "pcam" else {}
    lines = list(aliases) or [spelt(row) for row in known]
    assert labels_of(name, lines, **aliases) == list(range(len(known)))
    if len(set(lines)) == len(lines):  # two classes of ImageNet are called missile: only their place tells
        assert labels_of(name, lines[::-1], **aliases) == list(range(len(known)))[::-1]


def test_a_few_other_words_are_forgiven_where_all_else_is_in_place():
    lines = [row.raw_key for row in prompts.rows("flowers102")]
    lines[59], lines[92] = "pink and yellow dahlia", "air plant"  # as the shards have them
    assert labels_of("flowers102", lines) == list(range(102))
    with pytest.raises(StudyError, match="'air plant' in classnames.txt fits 0 of the classes"):
        labels_of("flowers102", lines[::-1])
    with pytest.raises(StudyError, match="fits 0"):
        labels_of("flowers102", ["another"] * 6 + lines[6:])


def test_two_classes_with_a_swapped_name_are_not_taken_as_they_stand():
    lines = [row.raw_key for row in prompts.rows("food101")]
    swapped = [lines[1], lines[0], *lines[2:]]
    assert labels_of("food101", swapped) == [1, 0, *range(2, 101)]
    with pytest.raises(StudyError, match="'Baby-Back Ribs!' in classnames.txt fits 0"):
        labels_of("food101", [lines[1], "Baby-Back Ribs!", *lines[2:]])


def test_shards_of_another_number_of_images_are_not_the_set(folder):
    samples = read("sun397", folder)
    with pytest.raises(StudyError, match="has 3 classes, must have 397"):
        checked(samples, "sun397", "test")
    with pytest.raises(StudyError, match="test/0.tar/s0000000"):
        checked(replace(samples, ids=(samples.ids[0],) * 6), "sun397", "test", complete=False)

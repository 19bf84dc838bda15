"""Every public set in its true format: labels, ids, pixels and class keys are right, and traps are not fallen into."""

import json
import multiprocessing
import os
import shutil
import signal
import socket
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image

from tests import fixtures_real
from zsr.data import prompts
from zsr.data.prepared import Split, to_pixels
from zsr.data.registry import entries, entry
from zsr.data.samples import checked, chosen, missing, number
from zsr.data.sources import Files, absent, make
from zsr.files import load_facts, map_arrays
from zsr.params import ParamError, StudyError

SETS = tuple(entries())
SPLITS = [(name, split) for name in SETS for split in entry(name).splits]


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("reading a set must not touch the network")

    monkeypatch.setattr(socket, "socket", refuse)


def read(name, root, split="test"):
    return import_module(f"zsr.data.sets.{name}").read(root, split)


def needs_library(name: str) -> None:
    if name == "pcam" and not find_spec("h5py"):
        pytest.skip("the HDF5 files of pcam need h5py")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def written(root):
    """What there is of each set and split; a set is written when it is first asked for."""
    known = {}

    def of(name, split="test"):
        if name not in known:
            needs_library(name)
            rng = np.random.default_rng(SETS.index(name))
            known[name] = fixtures_real.LAYOUTS[name](root, rng)
        return known[name][split]

    return of


GREY = {("tiny_imagenet", "train"), ("imagenet", "test"), ("caltech101", "test"), ("caltech256", "test")}


def check_pictures(samples, expected, keys_with_shades, grey=0):
    """The pixels of every image are those of the class that its label says. grey: number of grey images."""
    for row, label in enumerate(samples.labels):
        image = samples.load(row)
        assert image.mode == "RGB"
        pixels = np.asarray(image, float)
        half = len(pixels) // 2
        key = expected.keys[label]
        assert abs(pixels.mean() - fixtures_real.shade(key, keys_with_shades)) < 6
        assert pixels[:half].mean() - pixels[half:].mean() == pytest.approx(2 * fixtures_real.LIGHTER, abs=5)
        grey -= (is_grey := not np.ptp(pixels, axis=2).any())
        red, _, blue = pixels.mean((0, 1))
        assert red - blue == pytest.approx(0 if is_grey else 2 * fixtures_real.REDDER, abs=5)
    assert grey == 0


def keys_with_shades(name, expected):
    return ("sweet pea", "cyclamen") if name == "flowers102" else expected.keys


@pytest.mark.parametrize("name, split", SPLITS)
def test_a_set_is_read_as_it_is(root, written, name, split):
    expected = written(name, split)
    samples = checked(read(name, root, split), name, split, complete=False)
    assert samples.backend == "torchvision"
    assert samples.raw_keys == expected.keys and samples.labels.dtype == np.int64
    assert {id: samples.raw_keys[label] for id, label in zip(samples.ids, samples.labels)} == expected.key_of
    assert len(samples.ids) == len(expected.key_of) and str(root) not in "".join(samples.ids)
    check_pictures(samples, expected, keys_with_shades(name, expected), grey=(name, split) in GREY)
    classes = prompts.join(name, samples.raw_keys, complete=False)
    assert [row.raw_key for row in classes] == list(expected.keys)
    assert len(prompts.prompts(name, samples.raw_keys, "official")) == len(expected.keys)


@pytest.mark.parametrize("name, split", SPLITS)
def test_pixels_of_a_set_have_the_shape_of_its_group(root, written, name, split):
    written(name, split)
    samples, group = read(name, root, split), entry(name).transform_group
    assert {to_pixels(samples.load(row), group, 28, False).shape for row in range(2)} == {(28, 28, 3)}
    native = to_pixels(samples.load(0), group, 28, True).shape
    assert native == {"cifar10": (32, 32, 3), "cifar100": (32, 32, 3), "stl10": (96, 96, 3)}.get(name, (28, 28, 3))


@pytest.mark.parametrize("name", SETS)
def test_a_set_that_is_not_here_is_missed_by_the_command_that_gets_it(tmp_path, name):
    with pytest.raises(StudyError, match=f"there is no {tmp_path}.*`python -m zsr fetch {name}` at the repository"):
        read(name, tmp_path)
    with pytest.raises(ParamError, match=f"{name} has no split 'validation'"):
        read(name, tmp_path, "validation")


def test_the_command_for_a_training_split_says_so(tmp_path):
    with pytest.raises(StudyError, match="zsr fetch cifar100 --split train`"):
        read("cifar100", tmp_path, "train")
    assert "\n" not in str(missing("dtd", [tmp_path]))


def test_images_are_the_same_in_a_process_that_is_started_anew(root, written):
    splits = [(name, split) for name, split in SPLITS if name != "pcam" or find_spec("h5py")]
    for name, split in splits:
        written(name, split)
    samples = [read(name, root, split) for name, split in splits]
    here = [fixtures_real.images_digest(of) for of in samples]  # files that are open now are not sent along
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    process = context.Process(target=fixtures_real.send_digests, args=(samples, queue))
    process.start()
    there = queue.get()
    process.join()
    assert there == here and len(set(here)) == len(here)


@pytest.mark.parametrize("name", ["pcam", "cifar10", "dtd"])
def test_threads_read_what_one_reads(root, written, name):
    written(name)
    rows = list(range(len(read(name, root).ids))) * 10
    samples, alone = read(name, root), read(name, root)
    with ThreadPoolExecutor(8) as pool:
        for found, row in zip(pool.map(samples.load, rows), rows):
            assert np.array_equal(found, alone.load(row))


TORCHVISION = {
    "caltech101": lambda sets, root: sets.Caltech101(root),
    "caltech256": lambda sets, root: sets.Caltech256(root),
    "dtd": lambda sets, root: sets.DTD(root, "test"),
    "eurosat": lambda sets, root: sets.EuroSAT(root),
    "fgvc_aircraft": lambda sets, root: sets.FGVCAircraft(root, "test"),
    "food101": lambda sets, root: sets.Food101(root, "test"),
    "imagenet": lambda sets, root: sets.ImageNet(root / "imagenet", "val"),
    "oxford_pets": lambda sets, root: sets.OxfordIIITPet(root, "test"),
}


@pytest.mark.parametrize("name", TORCHVISION)
def test_sets_parsed_here_are_those_of_torchvision(root, written, name):
    from torchvision import datasets

    written(name)
    ours, theirs = read(name, root), TORCHVISION[name](datasets, root)
    assert len(theirs) == len(ours.ids)
    for row, (image, label) in enumerate(theirs):
        assert label == ours.labels[row]
        assert np.array_equal(image.convert("RGB"), ours.load(row).convert("RGB"))


IN_ORDER = TORCHVISION | {
    "stanford_cars": lambda sets, root: sets.StanfordCars(root, "test"),
    "stl10": lambda sets, root: loaded(read("stl10", root)),  # torchvision's class wants 2.9 GB of files
}
BY_ROW = [of.key for of in entries().values() if any(source.order for source in of.sources)]


def loaded(samples):
    return [(samples.load(row), label) for row, label in enumerate(samples.labels)]


def test_five_sets_have_one_order_in_all_their_forms():
    assert BY_ROW == ["stl10", "food101", "fgvc_aircraft", "imagenet", "stanford_cars"]


@pytest.mark.parametrize("name", BY_ROW)
def test_a_folder_and_shards_give_the_same_choice(root, written, tmp_path, name, monkeypatch):
    """The images, labels and numbers of a study do not depend on where a set came from; the form is stated."""
    from torchvision import datasets

    written(name)
    monkeypatch.setattr("zsr.data.sets.imagenet.entry", lambda key: replace(entry(key), splits={"test": 2}))
    (shards,) = [source.folder for source in entry(name).sources if source.order]
    files = read(name, root)
    fixtures_real.built(tmp_path / shards, IN_ORDER[name](datasets, root), files.raw_keys)
    packed = read(name, tmp_path)
    assert (files.backend, packed.backend) == ("torchvision", "shards")
    assert packed.ids == files.ids and packed.raw_keys == files.raw_keys
    for (image, label), (other, theirs) in zip(loaded(files), loaded(packed), strict=True):
        assert label == theirs and np.array_equal(image, other)
    splits = [make(name, "test", 2, 0, 32, Files(place, complete=False)) for place in (root, tmp_path)]
    assert splits[0].ids.tolist() == splits[1].ids.tolist()
    for split in splits:
        split.save(tmp_path / split.backend)
    facts = [load_facts(tmp_path / form) for form in ("torchvision", "shards")]
    assert [of.pop("backend") for of in facts] == ["torchvision", "shards"]
    assert facts[0].pop("digest") != facts[1].pop("digest") and facts[0] == facts[1]


def test_the_first_thousand_of_food101_are_the_same_images_from_a_folder_and_from_shards(tmp_path):
    keys = ("baby_back_ribs", "apple_pie")  # as in its list, whose order is neither that of names nor of numbers
    named = {key: [f"{key}/{7919 * row % 1501}" for row in range(700)] for key in keys}
    fixtures_real.write(tmp_path / "folder/food-101/meta/test.json", json.dumps(named))
    images = [key for key in keys for _ in named[key]]
    (tmp_path / "hub/wds_food101/test").mkdir(parents=True)
    for shard in range(2):
        with tarfile.open(tmp_path / f"hub/wds_food101/test/{shard}.tar", "w") as tar:
            for row in range(700 * shard, 700 * (shard + 1)):
                fixtures_real.add(tar, f"s{row:07d}.cls", str(sorted(keys).index(images[row])).encode())
                fixtures_real.add(tar, f"s{row:07d}.webp", b"not opened")
    fixtures_real.write(tmp_path / "hub/wds_food101/test/nshards.txt", "2\n")
    fixtures_real.write(tmp_path / "hub/wds_food101/classnames.txt", "".join(f"{key}\n" for key in sorted(keys)))
    folder, hub = (
        make("food101", "test", 1000, 0, 32, Files(tmp_path / place, complete=False)) for place in ("folder", "hub")
    )
    assert (folder.backend, hub.backend) == ("torchvision", "shards") and len(set(folder.ids.tolist())) == 1000
    assert folder.ids.tolist() == hub.ids.tolist() and folder.labels.tolist() == hub.labels.tolist()
    other = make("food101", "test", 1000, 1, 32, Files(tmp_path / "hub", complete=False))
    assert set(other.ids.tolist()) != set(hub.ids.tolist())


def test_a_part_of_imagenet_keeps_its_paths(root, written):
    """The row numbers of a part are not those of the whole."""
    assert set(read("imagenet", root).ids) == set(written("imagenet").key_of)


def test_an_image_that_a_list_names_twice_is_found_although_its_rows_differ(root, written):
    written("food101")
    samples = read("food101", root)
    names = samples.load.names
    doubled = replace(samples, load=replace(samples.load, names=(names[1], *names[1:])))
    with pytest.raises(StudyError, match="1 images twice, as images/baby_back_ribs/3.jpg"):
        checked(doubled, "food101", "test", complete=False)


def test_the_later_archive_of_eurosat_gives_the_ids_of_the_first(root, written, tmp_path):
    written("eurosat")
    shutil.copytree(root / "eurosat" / "2750", tmp_path / "eurosat" / "EuroSAT_RGB")
    first, later = read("eurosat", root), read("eurosat", tmp_path)
    assert later.ids == first.ids and later.labels.tolist() == first.labels.tolist()
    assert np.array_equal(later.load(3), first.load(3))


@pytest.mark.parametrize("backwards", [False, True])
def test_order_is_not_that_of_the_disk(root, written, monkeypatch, backwards):
    walk = os.walk

    def walked(*of, **more):
        for place, folders, names in walk(*of, **more):
            folders.sort(reverse=backwards)
            yield place, folders, sorted(names, reverse=backwards)

    monkeypatch.setattr(os, "walk", walked)
    for name in ("sun397", "caltech101"):
        written(name)
        samples = read(name, root)
        assert list(samples.ids) == sorted(samples.ids) and sorted(samples.labels) == samples.labels.tolist()


def test_a_stray_file_moves_no_label(root, written, tmp_path):
    written("caltech256")
    shutil.copytree(root / "caltech256", tmp_path / "caltech256")
    (tmp_path / "caltech256/256_ObjectCategories/001.ak47/001_0001.jpg").unlink()
    (tmp_path / "caltech256/256_ObjectCategories/.DS_Store").write_text("of a file browser")
    whole, gap = read("caltech256", root), read("caltech256", tmp_path)
    assert gap.ids == whole.ids[1:] and gap.labels.tolist() == whole.labels.tolist()[1:]
    assert np.array_equal(gap.load(0), whole.load(1))


def test_names_cleaned_for_prompts_leave_paths_alone(root, written):
    written("caltech101")
    before = read("caltech101", root)
    assert "This is a photo of a faces" in prompts.prompts("caltech101", before.raw_keys, "official")
    assert before.raw_keys == ("Faces", "Faces_easy", "accordion")
    assert [before.load(row).size for row in range(6)] == [(52, 40)] * 6


@pytest.fixture
def tiny(root, written, tmp_path):
    """A copy of Tiny-ImageNet to be changed."""
    written("tiny_imagenet")
    shutil.copytree(root / "tiny-imagenet-200", tmp_path / "tiny-imagenet-200")
    return tmp_path / "tiny-imagenet-200"


@pytest.mark.parametrize("inner", ["", "images"])
def test_tiny_imagenet_sorted_into_folders_is_the_same(root, tiny, inner):
    as_published = read("tiny_imagenet", root)
    for line in (tiny / "val" / "val_annotations.txt").read_text().splitlines():
        name, wnid = line.split("\t")[:2]
        (tiny / "val" / wnid / inner).mkdir(parents=True)
        (tiny / "val" / "images" / name).rename(tiny / "val" / wnid / inner / name)
    in_folders = read("tiny_imagenet", tiny.parent)

    def by_id(samples):
        return {id: (samples.labels[i], samples.load(i).tobytes()) for i, id in enumerate(samples.ids)}

    assert by_id(in_folders) == by_id(as_published)


def test_tiny_imagenet_as_one_class_is_refused(root, tiny):
    from torchvision.datasets import ImageFolder

    assert ImageFolder(tiny / "val").classes == ["images"]  # the trap
    (tiny / "val" / "val_annotations.txt").unlink()
    with pytest.raises(StudyError, match="one class, 'images'.*val_annotations.txt"):
        read("tiny_imagenet", tiny.parent)
    (tiny / "val" / "images").rename(tiny / "val" / "n01443537")
    with pytest.raises(StudyError, match="one class, 'n01443537'"):
        read("tiny_imagenet", tiny.parent)
    as_folder = replace(read("tiny_imagenet", root), raw_keys=("images",), labels=np.zeros(2, np.int64))
    with pytest.raises(StudyError, match="one class, 'images', not 200"):
        checked(as_folder, "tiny_imagenet", "test", complete=False)


def test_labels_of_tiny_imagenet_follow_sorted_ids(tiny):
    assert (tiny / "wnids.txt").read_text().split() == ["n02124075", "n01443537"]
    assert read("tiny_imagenet", tiny.parent, "train").raw_keys == ("n01443537", "n02124075")
    (tiny / "wnids.txt").write_text("n02124075\nn01644900\n")
    with pytest.raises(StudyError, match="'n01443537', which is not in .*wnids.txt"):
        read("tiny_imagenet", tiny.parent)


def test_cars_are_read_as_the_code_of_tga_zsr_has_them(tmp_path):
    written = fixtures_real.stanford_cars_in_one_folder(tmp_path, np.random.default_rng(0))["test"]
    samples = checked(read("stanford_cars", tmp_path), "stanford_cars", "test", complete=False)
    assert {id: samples.raw_keys[label] for id, label in zip(samples.ids, samples.labels)} == written.key_of
    check_pictures(samples, written, written.keys)
    assert len(prompts.join("stanford_cars", samples.raw_keys, complete=False)) == 3


def test_without_h5py_the_way_out_is_said(root, written, monkeypatch):
    written("pcam")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(StudyError, match="needs h5py: `pip install h5py`, or use its shards"):
        read("pcam", root)


def test_files_that_are_not_what_they_should_be_make_one_line(tmp_path, root, written):
    (tmp_path / "eurosat" / "2750").mkdir(parents=True)
    with pytest.raises(StudyError, match="eurosat: .*2750 is not laid out as it should be .*expected is 2750/<Class>"):
        read("eurosat", tmp_path)
    written("dtd")
    shutil.copytree(root / "dtd", tmp_path / "dtd")
    (tmp_path / "dtd/dtd/images/banded/banded_0002.jpg").write_bytes(b"no image")
    (tmp_path / "dtd/dtd/images/polka-dotted/polka-dotted_0003.jpg").unlink()
    samples = read("dtd", tmp_path)
    for row, reason in enumerate(["No such file", "damaged or no image"]):
        with pytest.raises(StudyError, match=f"{samples.ids[row].rpartition('/')[2]} cannot be read .*{reason}"):
            samples.load(row)


def test_what_is_not_the_whole_set_is_refused(root, written):
    written("eurosat"), written("dtd")
    samples = read("eurosat", root)
    cases = {
        "has 10 images, must have 27000": samples,
        "twice, as 2750/Forest/Forest_1.jpg": replace(samples, ids=(samples.ids[1],) * 2 + samples.ids[2:]),
        "10 classes, but labels from 0 to 10": replace(samples, labels=samples.labels + (samples.labels == 9)),
        "has 10 images and 9 labels": replace(samples, labels=samples.labels[1:]),
    }
    for said, of in cases.items():
        with pytest.raises(StudyError, match=said):
            checked(of, "eurosat", "test", complete=True)
    with pytest.raises(StudyError, match="has 2 classes, must have 47"):
        checked(read("dtd", root), "dtd", "test", complete=True)


def test_a_class_without_an_image_is_missed(root, written):
    written("eurosat")
    samples = read("eurosat", root)
    whole = replace(samples, ids=tuple(map(str, range(27000))), labels=np.arange(27000) % 10)
    assert checked(whole, "eurosat", "test") is whole
    with pytest.raises(StudyError, match="no image of 1 classes, the first is 'SeaLake'"):
        checked(replace(whole, labels=np.arange(27000) % 9), "eurosat", "test")


IDS = tuple(f"class_{i % 7}/{i}.jpg" for i in range(2000))


def test_fewer_images_are_among_more_in_any_listing():
    few, more = chosen(IDS, "dtd", 50, 0), chosen(IDS, "dtd", 300, 0)
    assert more[:50] == few and len(set(more)) == 300
    other = tuple(sorted(IDS, key=lambda id: id[::-1]))
    assert [other[row] for row in chosen(other, "dtd", 300, 0)] == [IDS[row] for row in more]
    assert sorted(chosen(IDS, "dtd", 5000, 0)) == list(range(2000))


def test_seeds_and_sets_choose_others():
    first = set(chosen(IDS, "dtd", 100, 0))
    for other in (chosen(IDS, "dtd", 100, 1), chosen(IDS, "food101", 100, 0)):
        assert len(first & set(other)) < 20  # five by chance
    labels = np.array([int(id[6]) for id in IDS])[chosen(IDS, "dtd", 700, 0)]
    assert np.bincount(labels).min() > 70  # no class is preferred


def test_the_choice_and_the_numbers_are_those_they_always_were():
    assert chosen(IDS, "dtd", 5, 0) == [1856, 254, 191, 184, 367]
    assert number("val/val_0.JPEG", "tiny_imagenet") == 1888929699927591214


def test_numbers_of_images_fit_and_differ():
    numbers = [number(id, name) for id in IDS for name in ("dtd", "food101")]
    assert len(set(numbers)) == len(numbers) and 0 <= min(numbers) and 2**62 < max(numbers) < 2**63


@pytest.mark.parametrize("size", [(64, 64), (300, 200), (200, 301), (257, 256), (500, 31), (96, 97)])
@pytest.mark.parametrize("side", [24, 224])
def test_pixels_are_those_of_torchvision(size, side):
    from torchvision import transforms

    rng = np.random.default_rng(sum(size))
    grey = Image.fromarray(rng.integers(0, 256, size[::-1], dtype=np.uint8))
    colour = Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8))
    whole = transforms.Compose([transforms.Resize(round(side * 256 / 224)), transforms.CenterCrop(side)])
    square = transforms.Resize((side, side))
    for image in (grey, colour, colour.convert("P"), Image.merge("RGBA", (*colour.split(), grey))):
        rgb = image.convert("RGB")
        assert np.array_equal(to_pixels(image, "natural", side, False), np.asarray(whole(rgb)))
        assert np.array_equal(to_pixels(image, "small", side, False), np.asarray(square(rgb)))
        assert np.array_equal(to_pixels(image, "small", side, True), np.asarray(rgb))
        assert np.array_equal(to_pixels(image, "natural", side, True), np.asarray(whole(rgb)))


def test_alpha_is_dropped_as_torchvision_drops_it():
    clear = Image.merge("RGBA", (*Image.new("RGB", (8, 8), (10, 200, 30)).split(), Image.new("L", (8, 8), 0)))
    assert to_pixels(clear, "small", 4, True)[0, 0].tolist() == [10, 200, 30]


@pytest.mark.parametrize("name, split", SPLITS)
@pytest.mark.parametrize("native", [False, True])
def test_a_set_becomes_a_split_of_the_chosen_images(root, written, tmp_path, name, split, native):
    """Images, labels and numbers stay together in the order that the seed gives; prompts are the set's own."""
    written(name, split)
    samples, files = read(name, root, split), Files(root, native, complete=False)
    n = len(samples.ids) - 1 if len(samples.ids) > 2 else len(samples.ids)
    whole = make(name, split, n, 3, 32, files)
    whole.save(tmp_path / "split")
    loaded, group = Split.load(tmp_path / "split"), entry(name).transform_group
    assert loaded.backend == samples.backend
    rows = chosen(samples.ids, name, n, seed=3)
    assert loaded.ids.tolist() == [number(samples.ids[row], name) for row in rows]
    assert loaded.labels.tolist() == samples.labels[rows].tolist()
    expected = np.stack([to_pixels(samples.load(row), group, 32, native) for row in rows])
    assert np.array_equal(np.stack(list(loaded.images)), expected)
    every = list(range(n))
    assert np.array_equal(loaded.images[every], expected) and loaded.images.shape == expected.shape
    assert np.array_equal(loaded.part(slice(1, None)).images[[0]], expected[1:2])
    assert np.array_equal(loaded.tensors(every)[0].permute(0, 2, 3, 1) * 255, expected)
    side = entry(name).side or 32
    assert map_arrays(tmp_path / "split")[0]["images"].shape == (n, side, side, 3), "packed at the size on disk"
    assert loaded.own_prompts == prompts.prompts(name, samples.raw_keys, "official")
    assert loaded.classnames == samples.raw_keys
    few = make(name, split, 2, 3, 32, files)
    assert few.ids.tolist() == loaded.ids.tolist()[:2]


def test_more_images_than_there_are_and_a_set_in_part_are_refused(root, written):
    written("dtd")
    with pytest.raises(StudyError, match="data.sets.dtd.test is 5, but 2 images are there"):
        make("dtd", "test", 5, 0, 32, Files(root, complete=False))
    with pytest.raises(StudyError, match="dtd .* must have 47"):
        make("dtd", "test", 2, 0, 32, Files(root))
    with pytest.raises(ParamError, match="data.sets.dtd.train must be at most 0, got 1"):
        make("dtd", "train", 1, 0, 32, Files(root))


def test_sets_without_any_file_are_told_together(root, written, tmp_path):
    written("dtd")
    assert absent(["shapes", "dtd"], root) == []
    assert absent(["shapes", *SETS], tmp_path) == list(SETS)
    (tmp_path / "wds_sun397").mkdir()
    assert absent(["sun397", "dtd"], tmp_path) == ["dtd"]


@pytest.mark.parametrize("place", ["devkit/cars_meta.mat", "cars_test_annos_withlabels.mat"])
def test_a_pipe_in_the_place_of_a_file_is_one_line_and_no_wait(tmp_path, place):
    """The parser of a library would wait for a writer for ever."""
    needs_library("stanford_cars")
    fixtures_real.LAYOUTS["stanford_cars"](tmp_path, np.random.default_rng(0))
    path = tmp_path / "stanford_cars" / place
    path.unlink()
    os.mkfifo(path)

    def waited(*_):
        raise TimeoutError("the parser waits")

    before = signal.signal(signal.SIGALRM, waited)
    signal.setitimer(signal.ITIMER_REAL, 20, 1)  # again, since a parser may try again
    try:
        with pytest.raises(StudyError, match=f"{path} is a device or a pipe"):
            import_module("zsr.data.sets.stanford_cars").read(tmp_path, "test")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

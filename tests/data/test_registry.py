"""The registry of public sets: the facts agree with each other, with torchvision and with the published tables."""

import copy
import csv
import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.conftest import ROOT
from zsr.data.registry import PATH, entries, entry, parsed
from zsr.params import ParamError, read

SETS = entries()
FILES = [(of.key, file) for of in SETS.values() for source in of.sources for file in source.files]
TORCHVISION = Path(find_spec("torchvision").origin).parent / "datasets"
UNKNOWN_TO_TORCHVISION = {"tiny_imagenet", "fgvc_aircraft", "stanford_cars"}  # no class, no hash, no download
FALLBACKS = {"EuroSAT_RGB.zip", "caltech_101.tgz"}  # files that torchvision does not know


def test_the_sets_are_those_of_the_published_tables_in_their_order():
    with (Path(__file__).parents[2] / "published/tga_zsr_tables.csv").open() as file:
        published = dict.fromkeys(row["dataset"] for row in csv.DictReader(file))
    assert list(SETS) == [name for name in published if name != "average"]


def test_all_evaluated_images_are_as_many_as_the_specification_counts():
    assert sum(of.splits["test"] for of in SETS.values()) == 344_128
    assert 61 < sum(of.download_gb for of in SETS.values()) < 63


def test_whole_sets_and_sets_to_train_on():
    assert {of.key for of in SETS.values() if of.whole} == {"sun397", "eurosat", "caltech101", "caltech256"}
    to_train_on = {"tiny_imagenet", "cifar100", "imagenet", "oxford_pets"}
    assert {of.key for of in SETS.values() if "train" in of.splits} == to_train_on
    assert {of.key for of in SETS.values() if of.transform_group == "small"} == {"cifar10", "cifar100", "stl10"}
    assert {of.key for of in SETS.values() if "openclip" in of.prompt_sets} == {"tiny_imagenet", "imagenet"}


def test_aliases_lead_to_the_set_and_a_wrong_name_to_the_nearest():
    for of in SETS.values():
        assert all(entry(name) is of for name in (of.key, *of.aliases))
    with pytest.raises(ParamError, match="called 'stl11'; did you mean 'stl10'.*known: tiny_imagenet, cifar10,"):
        entry("stl11")


@pytest.mark.parametrize("key", [key for key in SETS if key not in UNKNOWN_TO_TORCHVISION])
def test_hashes_are_those_of_torchvision(key):
    known = "".join(path.read_text() for path in TORCHVISION.glob("*.py"))
    assert all(file.md5 in known for name, file in FILES if name == key and file.name not in FALLBACKS)


def test_every_file_is_recognised_by_a_hash_and_lands_in_its_sets_folder():
    for key, file in FILES:
        assert file.sha256 or file.md5, (key, file.name)
        assert file.unpack in ("tar", "zip") or file.into == SETS[key].layout_root, (key, file.name)
        assert file.into in ("", SETS[key].layout_root), (key, file.name)
        assert all(url.startswith(("http://", "https://")) for url in file.urls)
        assert all(url.rpartition("/")[2] == file.name for url in file.urls), (key, file.name)


def test_what_is_fetched_by_default_is_not_dead_and_not_gated():
    working = {key: [of for of in SETS[key].sources if of.status in ("ok", "slow")] for key in SETS}
    assert [key for key, found in working.items() if not found] == ["imagenet"]
    assert SETS["imagenet"].registration and SETS["imagenet"].sources[0].kind == "manual"
    assert [SETS[key].sources[0].kind for key in ("sun397", "stanford_cars")] == ["hub", "hub"]


def test_partial_copies_are_no_sources():
    repos = {source.repo for of in SETS.values() for source in of.sources}
    assert not repos & {"clip-benchmark/wds_vtab-eurosat", "clip-benchmark/wds_vtab-caltech101", "tanganke/sun397"}


def test_no_set_hangs_on_one_plain_host_and_the_full_commits_that_are_known_are_pinned():
    """A dead host must not stop a training set, and a branch of the Hub may move."""
    urls = {key: {url for name, file in FILES if name == key for url in file.urls} for key in SETS}
    for key in ("tiny_imagenet", "cifar10", "cifar100", "eurosat", "caltech101"):
        assert len({url.split("/")[2] for url in urls[key]}) >= 2, key
    assert not [url for of in urls.values() for url in of if "zenodo.org/record/" in url]
    pinned = {source.repo for of in SETS.values() for source in of.sources if len(source.revision) == 40}
    assert {f"clip-benchmark/wds_{name}" for name in ("food101", "vtab-pcam", "imagenet1k")} <= pinned


def test_the_fallback_of_caltech_101_is_the_archive_inside_the_first():
    first, second = (source.files[0] for source in SETS["caltech101"].sources)
    inner = first.inner[0]
    assert (second.size, second.sha256, second.md5) == (inner.size, inner.sha256, inner.md5)


def test_sets_of_one_size_are_the_small_ones():
    """Their own pixels are a tenth of what they would need at 224 x 224."""
    sides = {key: of.side for key, of in SETS.items() if of.side}
    assert sides == {"tiny_imagenet": 64, "cifar10": 32, "cifar100": 32, "stl10": 96, "eurosat": 64, "pcam": 96}
    images = {key: SETS[key].splits["test"] for key in sides} | {"tiny_imagenet": 110_000}  # which is trained on
    assert round(sum(3 * sides[key] ** 2 * n for key, n in images.items()) / 1e9, 1) == 2.9
    assert round(sum(3 * 224**2 * n for n in images.values()) / 1e9, 1) == 29.8


def test_shards_go_to_a_folder_of_the_repositorys_name():
    assert SETS["sun397"].sources[0].folder == "wds_sun397"


def mistaken(change):
    document = copy.deepcopy(read(PATH))
    change(document)
    with pytest.raises(ParamError) as caught:
        parsed(document)
    return str(caught.value)


MISTAKES = {
    "registry.dtd.sources[0].files[0]: md5 must be 32": lambda d: d["dtd"]["sources"][0]["files"][0].update(md5="ab"),
    "unknown key 'registry.dtd.licens'; did you mean 'licence'?": lambda d: d["dtd"].update(licens="MIT"),
    "missing key 'registry.dtd.num_classes'": lambda d: d["dtd"].pop("num_classes"),
    "registry.dtd.splits.test must be at least 1": lambda d: d["dtd"]["splits"].update(test=0),
    "registry.dtd: a folder must lie below": lambda d: d["dtd"].update(layout_root="../dtd"),
    "registry.dtd: layout_root must be a folder": lambda d: d["dtd"].update(layout_root="."),
    "registry.dtd.sources[0].files[0]: urls must be": lambda d: d["dtd"]["sources"][0]["files"][0].update(urls=["//a"]),
    "registry.dtd.sources[0].files[0]: urls must": lambda d: d["dtd"]["sources"][0]["files"][0].update(
        urls=["ftp://[1"]
    ),
    "registry.dtd.sources[0]: kind archive needs files": lambda d: d["dtd"]["sources"][0].pop("files"),
    "registry.dtd: sources must have one that serves the split train": lambda d: d["dtd"]["splits"].update(train=9),
    "registry: the name 'cifar10' stands for more than one": lambda d: d["dtd"].update(aliases=["cifar10"]),
    "registry.dtd.sources[1]: revision must be 7 to 40": lambda d: d["dtd"]["sources"][1].update(revision="main"),
    "registry.pcam.sources[0]: order is that of": lambda d: d["pcam"]["sources"][0].update(order="torchvision"),
    "registry.dtd must hold keys and values": lambda d: d.update(dtd=None),
}


@pytest.mark.parametrize("message", MISTAKES)
def test_a_mistake_in_the_file_is_named_by_its_key(message):
    assert mistaken(MISTAKES[message]).startswith(message)


def test_the_page_of_sets_says_what_the_registry_says():
    text = (ROOT / "docs/data.md").read_text()
    rows = re.findall(r"^\| (\w+) \| (\d+) \| ([\d,]+) \| ([\d,]*) \| ([\d.]+) \| ([^|]+) \| ([^|]+) \|$", text, re.M)
    assert [row[0] for row in rows] == list(entries())
    for key, classes, test, train, download, licence, way in rows:
        of = entries()[key]
        assert (int(classes), test) == (of.num_classes, f"{of.splits['test']:,}")
        assert train == (f"{of.splits['train']:,}" if "train" in of.splits else "")
        assert float(download) == of.download_gb and licence == (of.licence or "none stated")
        assert ("register" in way) == of.registration
        assert all(repo in {source.repo for source in of.sources} for repo in re.findall(r"Hub, `([^`]+)`", way))

"""The publisher's archives of ImageNet end as one folder for each class."""

import io
import json

import numpy as np
import pytest
from scipy.io import savemat

from tests.archives import contents, tar
from zsr.data.fetching.fetch import Wish, fetch
from zsr.data.fetching.imagenet_tars import DEVKIT, TRAIN, VAL
from zsr.data.registry import parsed
from zsr.params import StudyError

WNIDS = {1: "n02119789", 2: "n02100735", 3: "n01440764"}  # of ILSVRC ids, whose order is not that of the wnids
TRUTH = [3, 1, 1]
IMAGES = {f"ILSVRC2012_val_{number:08d}.JPEG": bytes([number]) for number in range(1, len(TRUTH) + 1)}


@pytest.fixture
def given(tmp_path):
    """A user's folder with the three archives, in small."""
    folder = tmp_path / "given"
    folder.mkdir()
    meta = io.BytesIO()
    synsets = np.array(list(WNIDS.items()), dtype=[("ILSVRC2012_ID", object), ("WNID", object)])
    savemat(meta, {"synsets": synsets})
    data = "ILSVRC2012_devkit_t12/data/"
    truth = "".join(f"{number}\n" for number in TRUTH).encode()
    kit = {data + "meta.mat": meta.getvalue(), data + "ILSVRC2012_validation_ground_truth.txt": truth}
    tar(folder / DEVKIT, kit, "w:gz")
    tar(folder / VAL, IMAGES)
    inner = {
        wnid: tar(tmp_path / f"{wnid}.tar", {f"{wnid}_1.JPEG": wnid.encode()}).read_bytes() for wnid in WNIDS.values()
    }
    tar(folder / TRAIN, {f"{wnid}.tar": content for wnid, content in inner.items()})
    return folder


@pytest.fixture
def imagenet():
    files = [{"name": name, "into": "imagenet"} for name in (VAL, TRAIN, DEVKIT)]
    source = {"kind": "manual", "splits": ["train", "test"], "files": files, "note": "register"}
    common = {"title": "T", "num_classes": 3, "transform_group": "natural", "citation": "C", "registration": True}
    entry = common | {"splits": {"train": 3, "test": 3}, "layout_root": "imagenet", "sources": [source]}
    return parsed({"imagenet": entry})["imagenet"]


def test_validation_images_go_to_the_class_that_the_devkit_says(given, imagenet, tmp_path):
    (given / TRAIN).unlink()  # not needed
    fetch(imagenet, Wish(root=tmp_path / "root", given=given))
    assert contents(tmp_path / "root" / "imagenet") == {
        f"val/{WNIDS[TRUTH[n]]}/{name}": content for n, (name, content) in enumerate(IMAGES.items())
    }


def test_training_images_join_them_from_an_archive_for_each_class(given, imagenet, tmp_path):
    for split in ("test", "train"):
        assert fetch(imagenet, Wish(root=tmp_path / "root", given=given, split=split)).state == "fetched"
    found = contents(tmp_path / "root" / "imagenet")
    assert {f"train/{wnid}/{wnid}_1.JPEG": wnid.encode() for wnid in WNIDS.values()}.items() <= found.items()
    assert len(found) == 6 and len(contents(given)) == 3
    receipt = json.loads((tmp_path / "root" / "receipts" / "imagenet.json").read_text())
    assert [file["name"] for file in receipt["train"]["source"]["files"]] == [TRAIN]
    assert [file["name"] for file in receipt["test"]["source"]["files"]] == [VAL, DEVKIT]


def test_an_archive_of_fewer_images_is_refused(given, imagenet, tmp_path):
    tar(given / VAL, dict(list(IMAGES.items())[1:]))
    with pytest.raises(StudyError, match="holds 2 images, but its devkit knows 3"):
        fetch(imagenet, Wish(root=tmp_path / "root", given=given))
    assert not (tmp_path / "root" / "imagenet").exists()

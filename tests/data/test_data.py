from dataclasses import replace

import numpy as np
import pytest
import torch

from zsr import files
from zsr.data import captioned, prepared
from zsr.data.captioned import draw_pool
from zsr.data.prepared import Split, digest
from zsr.data.sources import make
from zsr.data.vocabulary import Scene, captions
from zsr.params import ParamError, StudyError

CLASSES = {
    "glyphs": 53,
    "letters": 13,
    "greek": 8,
    "things": 16,
    "signs": 16,
    "games": 9,
    "shapes": 12,
    "digits_font": 10,
    "digits_real": 10,
    "textures": 5,
}


@pytest.mark.parametrize("name", CLASSES)
def test_a_set_gives_pictures_labels_and_names(name):
    split = make(name, "test", 48, seed=0, image_size=24)
    assert split.images.shape == (48, 24, 24, 3) and split.images.dtype == np.uint8
    assert len(split.classnames) == CLASSES[name] and set(split.labels.tolist()) <= set(range(CLASSES[name]))
    assert len(np.unique(split.images.reshape(48, -1), axis=0)) == 48


@pytest.mark.parametrize("name", CLASSES)
def test_more_images_leave_the_first_ones_as_they_were(name):
    few, many = make(name, "test", 20, 0, 24), make(name, "test", 40, 0, 24)
    assert np.array_equal(few.images, many.images[:20]) and np.array_equal(few.ids, many.ids[:20])


def test_splits_and_seeds_differ():
    base = make("shapes", "train", 24, 0, 24).images
    for other in (make("shapes", "test", 24, 0, 24).images, make("shapes", "train", 24, 1, 24).images):
        assert not any(np.array_equal(one, another) for one, another in zip(base, other))


def test_classes_come_in_turn():
    assert make("shapes", "train", 120, 0, 24).labels.tolist() == list(range(12)) * 10


def test_a_split_survives_its_file(tmp_path):
    split = make("digits_real", "test", 30, 0, 24)
    split.save(tmp_path / "a.safetensors")
    loaded = Split.load(tmp_path / "a.safetensors")
    assert np.array_equal(split.images, loaded.images) and np.array_equal(split.ids, loaded.ids)
    assert (split.classnames, split.nouns) == (loaded.classnames, loaded.nouns)
    loaded.save(tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_real_digits_are_the_scans_of_scikit_learn():
    from sklearn.datasets import load_digits

    split, scans = make("digits_real", "test", 200, 0, 24), load_digits()
    assert np.array_equal(split.labels, scans.target[split.ids])
    ink = split.images[..., 0].reshape(200, -1).mean(1)
    assert np.corrcoef(ink, scans.images[split.ids].reshape(200, -1).mean(1))[0, 1] > 0.99
    assert (split.images[:, :2] == 0).all() and (split.images[..., 0] == split.images[..., 2]).all()


def test_real_digits_are_never_trained_on_nor_invented():
    with pytest.raises(ParamError, match="data.sets.digits_real.train must be at most 0, got 10"):
        make("digits_real", "train", 10, 0, 24)
    with pytest.raises(ParamError, match="data.sets.digits_real.test must be at most 1797, got 1798"):
        make("digits_real", "test", 1798, 0, 24)


def test_objects_are_brighter_than_what_is_behind_them():
    images = make("shapes", "test", 60, 0, 24).images.max(-1).astype(float)
    border = np.concatenate([images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]], axis=1)
    assert (np.percentile(images, 95, axis=(1, 2)) > border.mean(1) + 60).all()


def test_every_caption_of_a_scene_is_said_right():
    assert captions(Scene("star", "orange")) == (
        "this is a photo of a star",
        "a photo of a star",
        "a star",
        "this is a photo of an orange star",
        "a photo of an orange star",
        "an orange star",
    )
    letter = captions(Scene("letter e", "red"))
    assert letter[0] == "this is a photo of the letter e" and letter[3] == "this is a photo of the red letter e"
    assert captions(Scene("flower", ""))[3] == "this is a photo of a flower"


def test_prompts_are_among_the_captions_of_pre_training(monkeypatch):
    with monkeypatch.context() as patch:  # what a picture shows is drawn by lot before its pixels
        for name in ("picture", "place", "finish", "photo_crop"):
            patch.setattr(captioned, name, lambda *_: 0)
        patch.setattr(captioned, "texture", lambda rng, pattern, side: (0, ""))
        patch.setattr(type(captioned.LETTERS[0]), "mask", lambda *_: 0)
        _, texts = draw_pool(2500, 0, 24)
    known = {text for row in texts for text in row}
    for name in CLASSES:
        assert set(make(name, "test", 2, 0, 24).prompts("this is a photo of {}")) <= known


def test_the_pool_is_the_same_every_time():
    first, second = draw_pool(50, 0, 24), draw_pool(60, 0, 24)
    assert len(first[0]) == 50 and np.array_equal(first[0], draw_pool(50, 0, 24)[0])
    assert not np.array_equal(first[0], draw_pool(50, 1, 24)[0]) and len(second[1]) == 60


def index(text, entry):
    """Write the entry of the set shapes as the stages `text_embeddings` and `sets` do."""
    prepared.write_entry(text, "shapes", entry)
    prepared.write_index(text, {"shapes": entry})


@pytest.fixture
def folders(tmp_path):
    """Folders of sets and of text embeddings, as the pipeline leaves them, of one set."""
    sets, text = tmp_path / "sets", tmp_path / "text"
    for split in ("test", "train"):
        make("shapes", split, 24, 0, 24).save(sets / f"shapes/{split}.safetensors")
    embedded = text / "shapes/0.safetensors"
    files.save_tensors(embedded, {"text_embeddings": torch.eye(12)}, {"wording": "prompt 'a photo of {}'"})
    index(text, prepared.entry(sets / "shapes/test.safetensors", embedded.parent))
    return sets, text


def test_a_prepared_set_has_its_images_its_embeddings_and_its_files(folders):
    sets, text = folders
    loaded = prepared.load(sets, text, "shapes")
    assert len(loaded.split.ids) == 24 and torch.equal(loaded.text_embeddings, torch.eye(12))
    assert loaded.wording == "prompt 'a photo of {}'" and loaded.last == 0
    assert (loaded.images, loaded.text) == (sets / "shapes/test.safetensors", text / "shapes/0.safetensors")
    assert prepared.names(text) == ["shapes"] and prepared.classes(text) == {"shapes": 12}


def test_a_prepared_set_belongs_to_its_embeddings(folders):
    sets, text = folders
    amiss = "0.safetensors was made for other images than .*test.safetensors; run dvc repro text_embeddings"
    files.save_tensors(text / "shapes/0.safetensors", {"text_embeddings": 2 * torch.eye(12)}, {"wording": "w"})
    with pytest.raises(StudyError, match=amiss):
        prepared.load(sets, text, "shapes")
    make("shapes", "test", 24, 1, 24).save(sets / "shapes/test.safetensors")
    embedded_anew = prepared.entry(sets / "shapes/test.safetensors", text / "shapes")
    index(text, embedded_anew)
    assert len(prepared.load(sets, text, "shapes").split.ids) == 24
    make("shapes", "test", 24, 2, 24).save(sets / "shapes/test.safetensors")
    with pytest.raises(StudyError, match=amiss):
        prepared.load(sets, text, "shapes")


@pytest.mark.parametrize(
    "missing", ["text/shapes/entry.json", "text/shapes/0.safetensors", "sets/shapes/test.safetensors"]
)
def test_a_file_that_is_not_there_is_named(folders, tmp_path, missing):
    (tmp_path / missing).unlink()
    with pytest.raises(StudyError, match=f"{missing} is not there"):
        prepared.load(*folders, "shapes")


@pytest.mark.parametrize("file", ["shapes/entry.json", "../sets.json"])
def test_a_set_cannot_be_left_out_or_renamed_by_an_edit(folders, file):
    """An edit of the file that names the sets would leave a set out of the tables without a word."""
    _, text = folders
    document = files.read_json(text / file)
    for edited in (
        document | {"content": {"absent": "needs a registration"}},
        document | {"content": {}},
        document["content"],
        {},
        [],
    ):
        files.write_json(text / file, edited)
        with pytest.raises(files.Unusable, match="is damaged"):
            prepared.read_entry(text, "shapes") if "entry" in file else prepared.names(text)
    files.write_kept(text / file, "another", document["content"])
    with pytest.raises(files.Unusable, match="is of the task another"):
        prepared.read_entry(text, "shapes") if "entry" in file else prepared.names(text)


def test_held_out_images_are_the_last_of_the_training_split(folders):
    sets, text = folders
    held_out = prepared.held_out(sets, text, "shapes", 5)
    assert np.array_equal(held_out.split.images, make("shapes", "train", 24, 0, 24).images[-5:])
    assert (held_out.images, held_out.last) == (sets / "shapes/train.safetensors", 5)
    held_out.images.unlink()
    with pytest.raises(StudyError, match="train.safetensors is not there; run dvc repro data@shapes, or dvc checkout"):
        prepared.held_out(sets, text, "shapes", 5)


def test_the_digest_of_a_split_is_of_its_images_labels_and_ids(tmp_path):
    one = make("shapes", "test", 5, 0, 24)
    others = [
        replace(one, images=255 - one.images),
        replace(one, labels=one.labels[::-1].copy()),
        replace(one, ids=one.ids + 1),
    ]
    digests = []
    for i, split in enumerate([one, one, *others]):
        split.save(tmp_path / str(i))
        digests.append(digest(tmp_path / str(i)))
        loaded = Split.load(tmp_path / str(i))
        assert np.array_equal(loaded.images, split.images) and loaded.own_prompts == ()
    assert digests[0] == digests[1] and len(set(digests)) == 4

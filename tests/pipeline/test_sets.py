"""The index of the sets has entries of the images and embeddings that are there, and of no others."""

import pytest
import torch

from stages import sets
from tests.prepared_sets import prepared_sets
from zsr import files
from zsr.data import prepared


@pytest.fixture
def index(tmp_path, monkeypatch):
    """Makes the index of the set letters, in a folder that has its images and its embeddings."""
    made = prepared_sets(tmp_path, {"letters": 24}, torch.eye(48))["letters"]
    facts = {"wording": "prompt 'a {}'", "prompts": list(made.split.nouns)}
    files.save_tensors(made.text, {"text_embeddings": made.text_embeddings}, facts, placed=True)
    prepared.write_entry(tmp_path / sets.TEXT_EMBEDDINGS, "letters", prepared.entry(made.images, made.text.parent))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sets, "catalogue", lambda: {"judged": ["letters"]})
    monkeypatch.setattr("zsr.scratch.loaded_files", set)

    def make() -> dict:
        (tmp_path / "params.yaml").write_text("{}")
        sets.main.main([], standalone_mode=False)
        return prepared.read_index(tmp_path / sets.TEXT_EMBEDDINGS)

    return make


def test_the_index_has_the_entry_of_each_set(index):
    assert index() == {"letters": prepared.read_entry(sets.TEXT_EMBEDDINGS, "letters")}


def test_images_may_lie_on_another_machine(index):
    whole = index()
    (sets.SETS / "letters/test.safetensors").unlink()
    assert index() == whole


@pytest.mark.parametrize("other", ["images", "weights"])
def test_another_file_in_the_place_of_embeddings_is_refused(index, other):
    path = next((sets.TEXT_EMBEDDINGS / "letters").glob("*.safetensors"))
    if other == "weights":
        files.save_tensors(path, {"w": torch.ones(2)}, {"arch": "a"}, placed=True)
    else:
        path.write_bytes((sets.SETS / "letters/test.safetensors").read_bytes())
    with pytest.raises(Exception, match="data/text_embeddings/letters/entry.json has other text_embeddings"):
        index()


@pytest.mark.parametrize(
    "change",
    [{"classes": "text"}, {"classes": 3}, {"images": "0" * 64}, {"text_embeddings": {}}, {"more": 1}],
    ids=lambda change: next(iter(change)),
)
def test_an_entry_of_something_else_is_refused(index, change):
    prepared.write_entry(sets.TEXT_EMBEDDINGS, "letters", prepared.read_entry(sets.TEXT_EMBEDDINGS, "letters") | change)
    with pytest.raises(Exception, match="data/text_embeddings/letters/entry.json (has other|does not hold)"):
        index()

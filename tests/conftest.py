"""A small CLIP, a classifier of it and a batch: real towers with random weights."""

import copy
import os
from pathlib import Path

from zsr import rounding

os.environ.setdefault("OMP_NUM_THREADS", "1")  # files of tests run side by side; torch reads it as it is loaded
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.update(rounding.variables())

import pytest
import torch
from ruamel.yaml import YAML
from torch import nn
from torch.nn import functional as F

from stages.warm import serving
from zsr.data.prepared import Split
from zsr.data.sources import make
from zsr.methods._base import Batch

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)
    torch.set_num_threads(1)  # a stage that an earlier test has run may have set more


@pytest.fixture(scope="session")
def warm():
    """Variables for commands of stages whose process shall be a fork of one that has imported the libraries."""
    with serving() as variables:
        yield variables


def parsed(path: Path) -> dict:
    """What `zsr.params.read` gives of a good file, in less time; tests/pipeline/test_graph.py compares the two."""
    return YAML(typ="safe").load(path)


@pytest.fixture(scope="session")
def document() -> dict:
    return parsed(ROOT / "params.yaml")


@pytest.fixture(scope="session")
def _clip_model():
    from zsr.models import clip

    torch.manual_seed(1)
    model = clip.create("zsr-tiny")
    with torch.no_grad():  # as far from symmetric as a trained tower
        model.visual.positional_embedding.normal_(std=0.5)
        model.visual.ln_post.bias.normal_(std=0.3)
    embedding = model.token_embedding.weight.detach().clone()
    yield model
    assert torch.equal(model.token_embedding.weight, embedding)  # the copies of all tests share it


def copied(model: nn.Module) -> nn.Module:
    """A copy of a CLIP that a test may change, but for the embedding of tokens: 49,408 rows, which stay shared."""
    embedding = model.token_embedding.weight
    return copy.deepcopy(model, {id(embedding): nn.Parameter(embedding.detach())})


@pytest.fixture
def clip_model(_clip_model):
    """A CLIP of our tiny architecture that a test may change."""
    return copied(_clip_model)


@pytest.fixture
def text_embeddings() -> torch.Tensor:
    """Prompts of five classes, (5, 48), unit norm."""
    return torch.nn.functional.normalize(torch.randn(5, 48, generator=torch.Generator().manual_seed(2)), dim=1)


@pytest.fixture
def model(clip_model, text_embeddings):
    from zsr.models.clip import Classifier

    clip_model.requires_grad_(False).visual.requires_grad_(True)
    return Classifier(clip_model, text_embeddings)


@pytest.fixture
def frozen(_clip_model, text_embeddings):
    from zsr.models.clip import Classifier

    return Classifier(copied(_clip_model), text_embeddings).requires_grad_(False).train()


@pytest.fixture
def batch() -> Batch:
    generator = torch.Generator().manual_seed(3)
    return Batch(torch.rand(6, 3, 24, 24, generator=generator), torch.tensor([0, 1, 2, 3, 4, 0]))


@pytest.fixture(scope="session")
def split():
    """64 drawn pictures of twelve classes."""
    return make("shapes", "test", 64, 0, 24)


def prompts_fitted_to(model: nn.Module, split: Split) -> torch.Tensor:
    """Prompts that a CLIP of random weights is often right with, (12, 48): least squares on its features."""
    from zsr.models.clip import Classifier

    images, labels, _ = split.tensors(range(64))
    with torch.no_grad():
        features = F.normalize(Classifier(copy.deepcopy(model), None).image_features(images), dim=1)
    fitted = torch.linalg.lstsq(features, F.one_hot(labels, 12) - 1 / 12).solution
    return F.normalize(fitted.T, dim=1)


@pytest.fixture(scope="session")
def fitted_prompts(_clip_model, split) -> torch.Tensor:
    """Prompts that `clip_model` is often right with, at a logit scale of some thousands."""
    return prompts_fitted_to(_clip_model, split)


@pytest.fixture(scope="session")
def _trained(split):
    """A tower of ten tokens and two layers, since attacks take hundreds of passes."""
    from tests.small_clip import small_clip
    from zsr.models.clip import Classifier

    model = small_clip()
    trained = Classifier(model, prompts_fitted_to(model, split))
    trained.logit_scale *= 90  # features of a random tower are much alike; so the true class leads by about ten
    return trained


@pytest.fixture
def trained(_trained):
    """A classifier that is often right: its prompts are fitted to the features of a random tower by least squares."""
    return copy.deepcopy(_trained)


LONGEST = [
    "pipeline/test_study.py",
    "pipeline/test_graph.py",
    "studies/test_twins.py",
    "pipeline/test_base_models.py",
    "training/test_distributed.py",
    "studies/test_transfer.py",
    "pipeline/test_kept_work.py",
]


def pytest_collection_modifyitems(items):
    """The longest files first, so that the others are done beside them."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get("/".join(item.path.parts[-2:]), len(LONGEST)))

import copy
import re

import pytest
import torch
from torch.nn import functional as F

from tests.conftest import ROOT
from zsr.params import component, read
from zsr.training.finetune import Texts
from zsr.training.terms import loss_terms, parameter_gradients

TRAINED = [name for name in read(ROOT / "params.yaml")["methods"] if name != "clip"]


@pytest.fixture
def texts(text_embeddings):
    return Texts(text_embeddings, F.normalize(torch.randn(5, 48), dim=1))


@pytest.mark.parametrize("name", TRAINED)
def test_terms_and_gradients_are_those_that_training_takes(document, name, clip_model, texts, batch):
    method = component(document, "methods", name)
    frozen = copy.deepcopy(clip_model)
    adv = (batch.images + 0.03).clamp(max=1)
    terms = loss_terms(method, clip_model, frozen, texts, batch.images, batch.labels, adv)
    gradients = parameter_gradients(terms, clip_model)
    sum(terms.values()).backward()
    assert gradients.keys() == terms.keys()
    for parameter, p in clip_model.visual.named_parameters():
        total = sum(of_term[parameter] for of_term in gradients.values())
        expected = torch.zeros_like(p) if p.grad is None else p.grad
        torch.testing.assert_close(total, expected, rtol=1e-4, atol=1e-5)
    assert all(p.grad is None for p in frozen.parameters())


def test_the_frozen_model_may_be_the_model_itself(document, clip_model, texts, batch):
    method = component(document, "methods", "pmg_aft")
    arguments = texts, batch.images, batch.labels, (batch.images + 0.03).clamp(max=1)
    same = parameter_gradients(loss_terms(method, clip_model, clip_model, *arguments), clip_model)
    copied = parameter_gradients(loss_terms(method, clip_model, copy.deepcopy(clip_model), *arguments), clip_model)
    assert all(of_term["proj"].abs().max() > 0 for term, of_term in same.items() if term != "kl_general")
    for term, of_term in same.items():
        assert all(torch.equal(g, copied[term][name]) for name, g in of_term.items())


def test_the_models_statistics_stay_as_they_are(document, clip_model, texts, batch):
    visual, before = clip_model.visual, clip_model.visual.image_mean
    method = component(document, "methods", "pmg_aft")
    assert method.norm_stats == "imagenet"
    shifted = loss_terms(method, clip_model, clip_model, texts, batch.images, batch.labels, batch.images)
    assert visual.image_mean == before
    visual.image_mean, visual.image_std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    by_hand = clip_model.encode_image(
        (batch.images - torch.tensor(visual.image_mean).view(3, 1, 1)) / torch.tensor(visual.image_std).view(3, 1, 1),
        normalize=True,
    )
    expected = F.cross_entropy(by_hand @ texts.text_embeddings.T, batch.labels)
    torch.testing.assert_close(shifted["ce_adv"], expected)


@pytest.mark.slow
def test_the_example_of_the_documentation_runs_on_a_vit_b_32(capsys):
    """Random weights of ViT-B-32-quickgelu: nothing in the methods knows our small tower."""
    page = (ROOT / "docs/methods.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert "ViT-B-32-quickgelu" in code
    exec(compile(code, "docs/methods.md", "exec"), {})  # noqa: S102
    printed = capsys.readouterr().out
    for name in TRAINED:
        assert re.search(rf"^{name} .*\d", printed, re.MULTILINE), name
    assert "nan" not in printed


def test_on_batch_norm_the_student_takes_the_batch_and_the_frozen_model_its_own_statistics(text_embeddings):
    from zsr.methods.fare import FARE
    from zsr.models import clip
    from zsr.models.clip import Classifier

    model = clip.create("zsr-tiny-rn")
    images, labels = torch.rand(4, 3, 32, 32), torch.tensor([0, 1, 2, 3])
    with torch.no_grad():
        held = Classifier(model, text_embeddings).eval().image_features(images)
        moved = Classifier(copy.deepcopy(model), text_embeddings).train().image_features(images)
    terms = loss_terms(FARE(features="raw"), model, model, Texts(text_embeddings), images, labels, images)
    torch.testing.assert_close(terms["feature_shift"].detach(), (moved - held).square().sum(dim=1).mean())
    assert terms["feature_shift"] > 0

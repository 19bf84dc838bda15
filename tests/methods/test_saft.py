"""SAFT: the numbered tests of its specification, its files of descriptions, and the sentences of the project."""

import copy
import json
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from stages.command import weights_of
from tests.conftest import ROOT
from zsr.attacks.batch import Noise
from zsr.data import descriptions
from zsr.data.sets.glyphs import CLASSES
from zsr.data.sources import make
from zsr.data.vocabulary import noun_phrase
from zsr.methods._base import Batch
from zsr.methods.saft import SAFT
from zsr.methods.tga_zsr import TGAZSR
from zsr.models.attention import min_max, similarity
from zsr.params import ParamError, StudyError, block, build, component, over, read, training_of
from zsr.training.finetune import FineTuning, Texts, TrainingAttack, finetune

NUMBERS = {"lambda_ar": 0.08, "lambda_amc": 0.05}
TGA = TGAZSR(norm_axis="tokens", order="minmax_resize", distance="l2", **NUMBERS)
ONE = SAFT(n_descriptions=1, descriptions="template", match="exact", **NUMBERS)


def unit(*shape, seed=7):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def described(method, frozen, batch, embedded):
    """The batch with descriptions (n, C, D) and the anchors made from them."""
    batch = replace(batch, descriptions=embedded)
    with torch.no_grad():
        return replace(batch, anchors=method.anchors(frozen, batch))


def never(*_, **__):
    raise AssertionError("no text is embedded")


@pytest.fixture(scope="module")
def source():
    return make("shapes", "train", 16, 0, 24)


# Test 1: with one description, the class prompt, SAFT is TGA-ZSR bit for bit


def disturb(model):
    with torch.no_grad():
        for p in model.visual.parameters():
            p.add_(0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))


def test_with_the_class_prompt_alone_every_term_and_every_attacked_image_is_tgas(document, model, frozen, batch):
    disturb(model)
    attack, runs = block(document, "train.attack", TrainingAttack), []
    embedded = ONE.descriptions_of(None, model.text_embeddings, never)
    for method in (ONE, TGA):
        given = described(method, frozen, batch, embedded if method is ONE else None)
        adv = attack.maximise(method.inner_objective(model, given), batch.images, Noise(0, "t", range(6)))
        terms = method.losses(model, frozen, given, adv)
        slope = torch.autograd.grad(sum(terms.values()), model.visual.conv1.weight)[0]
        runs.append((adv, given.anchors, slope, terms))
    (adv, anchors, slope, terms), (tga_adv, tga_anchors, tga_slope, tga_terms) = runs
    assert torch.equal(adv, tga_adv) and torch.equal(anchors, tga_anchors) and torch.equal(slope, tga_slope)
    assert terms.keys() == tga_terms.keys() and all(torch.equal(terms[name], tga_terms[name]) for name in terms)
    assert not torch.equal(adv, batch.images) and all(term > 0 for term in terms.values())


def test_with_the_class_prompt_alone_the_trained_tower_is_tgas(document, clip_model, source, tmp_path):
    recipe = replace(block(document, "train", FineTuning), epochs=1, batch_size=8, warmup_steps=1)
    towers = []
    for method in (ONE, TGA):
        whole = copy.deepcopy(clip_model)
        texts = Texts.of(method, unit(12, 48), source, never)
        rows = finetune(method, whole, texts, source, recipe, 0, tmp_path / type(method).__name__)
        towers.append((whole.visual.state_dict(), rows))
    (ours, rows), (theirs, tga_rows) = towers
    assert rows == tga_rows and len(rows) == 2
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())
    assert not torch.equal(ours["proj"], clip_model.visual.state_dict()["proj"])


# Tests 2 to 4


def test_copies_of_a_description_change_nothing(model, frozen, batch):
    disturb(model)
    single, adv = unit(1, 5, 48), (batch.images + 0.05).clamp(0, 1)
    one, three = (described(ONE, frozen, batch, single.expand(n, -1, -1)) for n in (1, 3))
    once, thrice = (ONE.losses(model, frozen, given, adv) for given in (one, three))
    for name, term in once.items():
        torch.testing.assert_close(thrice[name], term)


def test_the_attack_raises_the_mean_of_the_losses_of_single_descriptions(model, frozen, batch):
    pair = unit(2, 5, 48)

    def raised(embedded):
        adv = batch.images.clone().requires_grad_()
        losses = ONE.inner_objective(model, replace(batch, descriptions=embedded))(adv)
        return losses.detach(), torch.autograd.grad(losses.sum(), adv)[0]

    (both, slope), (first, a), (second, b) = raised(pair), raised(pair[:1]), raised(pair[1:])
    assert both.shape == (6,) and not torch.allclose(first, second)
    torch.testing.assert_close(both, (first + second) / 2)
    torch.testing.assert_close(slope, (a + b) / 2, atol=1e-6, rtol=1e-4)
    written_out = [
        F.cross_entropy(model.logit_scale * F.normalize(model.image_features(batch.images), dim=1) @ e.T, batch.labels)
        for e in pair
    ]
    torch.testing.assert_close(both.mean(), sum(written_out) / 2)
    given = described(ONE, frozen, batch, pair)
    torch.testing.assert_close(ONE.losses(model, frozen, given, batch.images)["ce_adv"], both.mean())


def test_a_map_is_the_scaled_mean_over_descriptions_whose_length_and_offset_do_not_matter(model, frozen, batch):
    embedded = unit(3, 5, 48)
    given, longer = (described(ONE, frozen, batch, scale * embedded) for scale in (1, 100))
    maps = torch.stack([similarity(frozen.tokens(batch.images), e[batch.labels]) for e in embedded]).mean(dim=0)
    torch.testing.assert_close(given.anchors, maps)
    for other in (longer.anchors, given.anchors + 3):
        torch.testing.assert_close(min_max(other), min_max(maps), atol=1e-4, rtol=1e-4)
    disturb(model)
    adv = (batch.images + 0.05).clamp(0, 1)
    terms, same = (ONE.losses(model, frozen, one, adv) for one in (given, longer))
    for name in ("attention_refinement", "attention_constraint"):
        assert terms[name] > 0
        torch.testing.assert_close(same[name], terms[name], rtol=1e-4, atol=1e-5)


def test_the_rows_of_a_batch_keep_all_descriptions(batch):
    whole = replace(batch, descriptions=unit(2, 5, 48))
    assert torch.equal(whole.rows(slice(2)).descriptions, whole.descriptions)


# Test 5: selection


class Tower:
    """A text tower that knows the angle of every text to the class name."""

    def __init__(self, cosines):
        self.cosines = cosines

    def __call__(self, texts, distinct=True):
        assert not distinct  # two descriptions may be the same tokens
        cosines = torch.tensor([self.cosines.get(text, 1.0) for text in texts])
        return torch.stack([cosines, (1 - cosines**2).sqrt()], dim=1)


@pytest.fixture
def brought(tmp_path, monkeypatch):
    """Bring a file of descriptions."""
    monkeypatch.setattr(descriptions, "EXTENSIONS", tmp_path)

    def bring(content):
        text = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / "cupl.json").write_text(text, encoding="utf-8")
        return replace(ONE, n_descriptions=2, descriptions="cupl.json")

    return bring


def test_the_nearest_descriptions_are_kept_in_order_and_a_short_list_is_the_class_prompt(source, brought, capsys):
    nouns = ("cat", "dog", "fox")
    split = replace(source, labels=source.labels % 3, classnames=nouns, nouns=nouns)
    method = brought({"cat": ["low", "high", "mid"], "dog": ["mid", "also mid", "high", "mid again"], "fox": ["high"]})
    tower = Tower({"low": 0.1, "mid": 0.5, "also mid": 0.5, "mid again": 0.5, "high": 0.9})
    prompts = F.normalize(torch.tensor([[0.0, 1.0], [0.0, -1.0], [-1.0, 0.0]]), dim=1)
    chosen = method.descriptions_of(split, prompts, tower)
    high, mid = tower(["high", "mid"], distinct=False)
    assert chosen.shape == (2, 3, 2)
    assert torch.equal(chosen[:, 0], torch.stack([high, mid]))
    assert torch.equal(chosen[:, 1], torch.stack([high, mid]))
    assert torch.equal(chosen[:, 2], prompts[2].expand(2, 2))
    said = capsys.readouterr().err
    assert "fewer than 2 descriptions of 1 of 3 classes" in said and said.rstrip().endswith("class prompt: fox")


def test_ties_go_by_the_order_of_the_file(brought):
    method = brought({})
    embedded = {"x": 0.0, "a": 0.5, "b": 0.5, "c": 0.5}

    class Named(Tower):
        def __call__(self, texts, distinct=True):
            place = torch.tensor([[10.0 + texts.index(text)] for text in texts])
            return torch.cat([super().__call__(texts, distinct), 0 * place + place * (len(texts) > 1)], dim=1)

    rows = method._selected("name", ["a", "x", "b", "c"], Named(embedded))
    assert rows[:, 2].tolist() == [10.0, 12.0]


@pytest.mark.parametrize(
    "match, keys",
    [("exact", [None, "dog", None, None, None]), ("published", ["catamaran", "dog", "big red fox", "dog", None])],
)
def test_a_class_finds_its_descriptions_by_its_name_or_as_published_by_a_part_of_it(match, keys):
    """Quirk SF4: the first key in file order, though a later one would fit better."""
    texts = {
        "catamaran": ["a boat"],
        "big red fox": ["a fox"],
        "hotdog": ["a meal"],
        "dog": ["a pet"],
        "tabby cat": ["a pet, too"],
    }
    found = descriptions.found(texts, ["cat", "dog", "fox", "dog house", "emu"], match)
    assert found == [texts.get(key, ()) for key in keys]


# Files


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "is no JSON; descriptions are an object"),
        ("[1]", "must hold an object from class name"),
        ({"cat": "a pet"}, "'cat' must have a list of sentences"),
        ({"cat": ["a pet", 3]}, "'cat' must have a list of sentences"),
        ({"cat": [" "]}, "'cat' must have a list of sentences"),
    ],
)
def test_a_file_of_another_format_is_refused_with_one_line(brought, content, message):
    method = brought(content)
    with pytest.raises(StudyError, match=message) as error:
        descriptions.load(descriptions.path_of(method.descriptions))
    assert "\n" not in str(error.value) and "cupl.json" in str(error.value)


def test_without_its_file_the_row_is_refused_by_name_before_anything_is_loaded(tmp_path, monkeypatch):
    from click.testing import CliRunner

    from stages import check, train

    monkeypatch.setattr(descriptions, "EXTENSIONS", tmp_path)
    paper = read(ROOT / "studies/paper/params.yaml")
    (tmp_path / "params.yaml").write_text(json.dumps(over(paper, {"launcher": "python"})))
    monkeypatch.chdir(tmp_path)
    run = CliRunner().invoke(train.main, ["saft"])
    assert run.exit_code == 1
    expected = f"Error: methods.saft: {tmp_path / 'cupl.json'} is not there; bring a file of descriptions in CuPL's"
    assert run.output.startswith(expected) and run.output.count("\n") == 1
    told = CliRunner().invoke(check.main, [])
    assert told.exit_code == 0 and f"methods.saft cannot be trained yet: {tmp_path / 'cupl.json'}" in told.output
    (tmp_path / "cupl.json").write_text("{}")
    assert component(paper, "methods", "saft").refusal() == ""


def test_a_file_that_is_brought_is_part_of_the_digest_of_its_row_alone(tmp_path, monkeypatch):
    paper = read(ROOT / "studies/paper/params.yaml")
    monkeypatch.setattr("stages.command.EXTENSIONS", tmp_path)
    assert weights_of(paper, "train", ["saft"]) == []
    (tmp_path / "cupl.json").write_text("{}")
    assert weights_of(paper, "train", ["saft"]) == [tmp_path / "cupl.json"]
    assert weights_of(paper, "train", ["tga_zsr"]) == weights_of(paper, "evaluate", ["saft", "pgd"]) == []
    assert weights_of(read(ROOT / "studies/frontier/params.yaml"), "train", ["saft_one"]) == []


def test_descriptions_are_drawn_template_or_a_file():
    numbers = NUMBERS | {"n_descriptions": 5, "descriptions": "cupl", "match": "exact"}
    with pytest.raises(ParamError, match="methods.saft: descriptions must be drawn, template, or the name of a .json"):
        build(SAFT, numbers, "methods.saft")


def test_the_paper_scale_has_the_published_recipe():
    paper = read(ROOT / "studies/paper/params.yaml")
    method, recipe = component(paper, "methods", "saft"), training_of(paper, "saft", FineTuning)
    assert (method.lambda_ar, method.lambda_amc, method.n_descriptions) == (0.08, 0.05, 5)
    assert (recipe.lr, recipe.batch_size, recipe.epochs, recipe.optimizer, recipe.warmup_steps) == (
        1e-4, 128, 10, "sgd", 1000,
    )  # fmt: skip
    assert recipe.warmup_prefix and recipe.attack.precision == "fp32" and recipe.attack.n_iter == 2


# The project's sentences on the drawn glyphs


def test_every_source_class_has_five_sentences_that_the_tiny_clip_reads_whole():
    from zsr.models.clip import library

    content, tokenizer = descriptions.load(descriptions.path_of("drawn")), library().get_tokenizer("zsr-tiny-32")
    assert list(content) == [noun_phrase(glyph.name) for glyph in CLASSES]
    sentences = [text for texts in content.values() for text in texts]
    assert all(len(texts) == len(set(texts)) == 5 for texts in content.values())
    assert len(set(sentences)) == len(sentences) == 265
    assert max(len(tokenizer.encode(text)) + 2 for text in sentences) <= 16
    for name, texts in content.items():  # one sentence says how the glyph looks; the others have its name
        assert sum(name in text for text in texts) == 4


def test_the_drawn_sentences_are_embedded_with_the_models_own_text_tower(clip_model, capsys):
    from functools import partial

    from zsr.models.clip import embed_texts

    glyphs = make("glyphs", "train", 53, 0, 24)
    embed = partial(embed_texts, clip_model, "zsr-tiny")
    method = replace(ONE, n_descriptions=5, descriptions="drawn")
    chosen = method.descriptions_of(glyphs, torch.zeros(53, 48), embed)
    assert chosen.shape == (5, 53, 48) and capsys.readouterr().err == ""
    torch.testing.assert_close(chosen.norm(dim=2), torch.ones(5, 53))
    cosines = (chosen * embed(list(glyphs.nouns))).sum(dim=2)
    assert (cosines.diff(dim=0) <= 1e-6).all() and cosines.std() > 0
    given = replace(method, n_descriptions=1).descriptions_of(glyphs, torch.zeros(53, 48), embed)
    torch.testing.assert_close(given[0], chosen[0])


def test_a_batch_has_the_descriptions_of_its_texts():
    embedded = unit(2, 5, 48)
    made = Texts(unit(5, 48), None, embedded).to(torch.device("cpu")).batch(torch.zeros(1, 3, 2, 2), torch.tensor([0]))
    assert torch.equal(made.descriptions, embedded) and isinstance(made, Batch)

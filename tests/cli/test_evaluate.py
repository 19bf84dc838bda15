"""`zsr evaluate` and `zsr.evaluate`: from weights and pictures to verdicts, the same by both ways."""

import dataclasses
import json
import logging
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import zsr
from zsr.cli.main import main
from zsr.data import folder
from zsr.data.sources import make
from zsr.evaluation.records import Record
from zsr.models import clip
from zsr.params import ParamError

QUICK = ["--attack", "pgd,autoattack", "--eps", "8/255", "--n-iter", "3", "--resize", "small", "--threads", "1"]


@pytest.fixture
def weights(clip_model, tmp_path) -> Path:
    """A whole tiny CLIP of random weights."""
    path = tmp_path / "mine.safetensors"
    clip.save(path, clip_model, "zsr-tiny")
    return path


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Twenty pictures of three classes in folders, which no test changes."""
    split = make("shapes", "test", 120, 0, 24)
    root = tmp_path_factory.mktemp("drawn") / "pictures"
    for row in np.flatnonzero(split.labels < 3)[:20]:
        place = root / split.classnames[split.labels[row]].replace(" ", "_")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(split.images[row]).save(place / f"{row}.png")
    return root


def ran(*arguments: object) -> str:
    """The output of a command that must succeed, and leaves logging and warnings as they were."""
    before = logging.root.manager.disable, list(warnings.filters)
    result = CliRunner().invoke(main, list(map(str, arguments)))
    assert (logging.root.manager.disable, list(warnings.filters)) == before
    assert result.exit_code == 0, result.output
    return result.output


def refused(*arguments: object) -> str:
    """The one line of a command that must fail."""
    result = CliRunner().invoke(main, list(map(str, arguments)))
    assert result.exit_code in (1, 2) and "Traceback" not in result.output, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    return result.output


def records(out: Path) -> dict[tuple[str, str], Record]:
    loaded = [Record.load(path) for path in sorted(out.rglob("*.json"))]
    return {(record.attack, record.set_name): record for record in loaded}


def test_the_command_and_the_call_give_the_same_verdicts(weights, pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # any folder will do
    said = ran("evaluate", weights, "--data", pictures, *QUICK, "--out", "out")
    found = records(Path("out"))
    assert set(found) == {("pgd", "pictures"), ("autoattack", "pictures")} and "Quick look" in said
    split = folder.read(pictures, 24, resize="small")
    model = zsr.zero_shot(zsr.load(weights), [name.replace("_", " ") for name in split.classnames])
    images, labels, ids = split.tensors(range(20))
    attacks = ["pgd", "autoattack"]
    result = zsr.evaluate(model, images, labels, attack=attacks, eps=8 / 255, n_iter=3, ids=ids, set_name="pictures")
    assert result.n == 20 and 0 < result.robust < result.clean
    survives = np.logical_and(*(record.hits for record in result.records))
    assert (result.verdicts == survives).all() and result.attacks[-1] == "worst_case"
    for record in result.records:
        same = found[record.attack, "pictures"]
        assert (record.clean_bits == same.clean_bits).all() and (record.adv_bits == same.adv_bits).all()


def test_an_interrupted_run_goes_on_and_other_weights_do_not_use_its_records(
    weights, pictures, tmp_path, clip_model, monkeypatch
):
    arguments = ["evaluate", weights, "--data", pictures, *QUICK, "--out", tmp_path / "out", "--batch-size", "6"]
    ran(*arguments)
    whole = records(tmp_path / "out")
    path = next((tmp_path / "out").rglob("pgd/pictures.json"))
    cut = Record.load(path)
    part = {name: getattr(cut, name)[:12] for name in ("ids", "clean_bits", "adv_bits", "zero_bits", "broken_bits")}
    dataclasses.replace(cut, **part).save(path)
    ran(*arguments)
    again = records(tmp_path / "out")
    assert all((again[key].adv_bits == whole[key].adv_bits).all() for key in whole)
    with torch.no_grad():
        clip_model.visual.proj.neg_()
    clip.save(weights, clip_model, "zsr-tiny")
    ran(*arguments, "--attack", "pgd")
    assert records(tmp_path / "out")["pgd", "pictures"].fingerprint != whole["pgd", "pictures"].fingerprint


def test_several_eps_classnames_and_templates(weights, pictures, tmp_path):
    names = sorted(path.name for path in pictures.iterdir())
    (tmp_path / "names.tsv").write_text("".join(f"{name}\tthing {i}\n" for i, name in enumerate(names)))
    (tmp_path / "templates.txt").write_text("a picture of {}\nmy {}\n")
    said = ran(
        "evaluate", weights, "--data", pictures, "--attack", "pgd", "--eps", "1/255,8/255", "--n-iter", "2",
        "--classnames", tmp_path / "names.tsv", "--templates", tmp_path / "templates.txt", "--out", tmp_path / "out",
    )  # fmt: skip
    assert "eps 1/255" in said and "eps 8/255" in said
    assert {path.parts[-3] for path in (tmp_path / "out").rglob("*.json")} == {"eps_1_255", "eps_8_255"}
    (record, *_) = records(tmp_path / "out").values()
    assert "mean of 2 prompts" in record.protocol


def test_classes_have_the_order_of_their_names_and_templates_are_averaged(clip_model, tmp_path):
    for name in ("b", "a_c", "a"):
        (tmp_path / "p" / name).mkdir(parents=True)
        Image.new("RGB", (24, 24)).save(tmp_path / "p" / name / "0.png")
    split = folder.read(tmp_path / "p", 24)
    assert (split.classnames, split.nouns) == (("a", "a_c", "b"), ("a", "a c", "b"))
    clip_model.arch = "zsr-tiny"
    ones = [zsr.zero_shot(clip_model, ["a", "b"], template).text_embeddings for template in ("a {}", "my {}")]
    both = zsr.zero_shot(clip_model, ["a", "b"], ["a {}", "my {}"]).text_embeddings
    expected = torch.nn.functional.normalize(ones[0] + ones[1], dim=1)
    torch.testing.assert_close(both, expected)
    assert (both - ones[0]).norm() > 1e-3


def test_a_drawn_set_needs_no_files_and_two_results_compare(weights, tmp_path):
    for out in ("a", "b"):
        quick = ["-n", "12", "--attack", "pgd", "--n-iter", "2", "--out", tmp_path / out]
        ran("evaluate", weights, "--sets", "shapes,textures", *quick)
    said = ran("compare", tmp_path / "a", tmp_path / "b")
    assert "+0.0" in said and "mean" in said and "shapes" in said
    with pytest.raises(AssertionError):
        ran("compare", tmp_path / "a", weights)


def test_help_and_lists_name_what_there_is():
    assert {"evaluate", "compare", "attacks", "methods", "sets", "fetch", "convert"} <= set(ran("--help").split())
    assert "autoattack-paper" in ran("attacks") and "tga_zsr" in ran("methods")
    assert "cifar10" in ran("sets") and "digits_real" in ran("sets")


def test_a_result_in_a_notebook_is_a_table(model, batch):
    labels = model(batch.images).argmax(dim=1)
    result = zsr.evaluate(model, batch.images, labels, attack="pgd", eps=8 / 255, n_iter=2)
    assert "clean" in repr(result) and "<table>" in result._repr_html_() and result.verdicts.shape == (6,)
    low, high = result.interval
    assert result.clean == 100 and low <= result.robust <= high
    assert result.robust == 100 * result.verdicts.mean()


def test_the_callers_model_is_given_back_as_it_was(clip_model, text_embeddings, batch):
    classifier = clip.Classifier(clip_model, text_embeddings).train()
    needed = [parameter.requires_grad for parameter in classifier.parameters()]
    zsr.evaluate(classifier, batch.images, batch.labels, attack="pgd", eps=1 / 255, n_iter=1)
    assert classifier.training and needed == [parameter.requires_grad for parameter in classifier.parameters()]
    assert all(parameter.grad is None for parameter in classifier.parameters())


CALLS = {  # what a call gets -> what the line says
    "grey levels": (lambda x, y: {"images": 255 * x}, "images must lie in [0, 1], got"),
    "one channel": (lambda x, y: {"images": x[:, :1]}, "images must be (N, 3, H, W), got (6, 1, 24, 24)"),
    "too few labels": (lambda x, y: {"labels": y[:5]}, "one whole number for each of 6 images, got (5,)"),
    "labels that are no numbers": (lambda x, y: {"labels": y.float()}, "of float32"),
    "a class that is none": (lambda x, y: {"labels": y + 4}, "labels must be from 0 to 4"),
    "names of other classes": (lambda x, y: {"classnames": ["a", "b"]}, "2 names, and the model gives 5 logits"),
    "an id twice": (lambda x, y: {"ids": [0, 1, 2, 3, 4, 4]}, "none twice"),
    "eps in grey levels": (lambda x, y: {"eps": 8}, "8 grey levels are 8/255"),
    "no attack": (lambda x, y: {"attack": []}, "attack must name at least one"),
    "an attack twice": (lambda x, y: {"attack": ["pgd", "pgd"]}, "attack pgd is there twice"),
}


@pytest.mark.parametrize("mistake", CALLS)
def test_a_call_with_a_mistake_is_refused_in_one_line(mistake, model, batch):
    change, message = CALLS[mistake]
    given = {"images": batch.images, "labels": batch.labels, "attack": "pgd", "n_iter": 1}
    with pytest.raises(ParamError, match=f"^[^\n]*{re.escape(message)}[^\n]*$"):
        zsr.evaluate(model, **given | change(batch.images, batch.labels))


def test_pictures_in_bytes_are_pictures(model, batch):
    pixels = (255 * batch.images).round().to(torch.uint8)
    given = {"labels": batch.labels, "attack": "pgd", "eps": 8 / 255, "n_iter": 1}
    results = [zsr.evaluate(model, images, **given) for images in (pixels, pixels.numpy(), pixels.float() / 255)]
    assert len({result.verdicts.tobytes() for result in results}) == 1


MISTAKES = {  # arguments after `evaluate` -> what the line says
    "no such file": (["nothing.pt", "--data", "PICTURES"], "weights must be a file, a tag of open_clip"),
    "a tag misspelt": (["openia", "--arch", "ViT-B-32", "--data", "PICTURES"], "did you mean 'openai'?"),
    "nothing to measure on": (["WEIGHTS"], "give --sets (see `zsr sets`) or --data FOLDER"),
    "a set misspelt": (["WEIGHTS", "--sets", "cifar01"], "there is no set 'cifar01'; did you mean 'cifar10'?"),
    "a set with a dot": (["WEIGHTS", "--sets", "cifar10.x"], "there is no set 'cifar10.x'; did you mean 'cifar10'?"),
    "a set that is a path": (["WEIGHTS", "--sets", "../x"], "there is no set '../x'"),
    "a set that is no set": (["WEIGHTS", "--sets", "__init__"], "there is no set '__init__'"),
    "a set that is not here": (["WEIGHTS", "--sets", "cifar10", "--root", "nowhere"], "`zsr fetch cifar10`"),
    "grey levels": (["WEIGHTS", "--data", "PICTURES", "--eps", "8"], "8 grey levels are 8/255"),
    "eps is no number": (["WEIGHTS", "--data", "PICTURES", "--eps", "a lot"], "must be a number such as"),
    "an attack misspelt": (["WEIGHTS", "--data", "PICTURES", "--attack", "autoatack"], "did you mean 'autoattack'?"),
    "an attack that is none": (
        ["WEIGHTS", "--data", "PICTURES", "--attack", "batch"],
        "zsr.attacks.batch is no attack",
    ),
    "an attack twice": (["WEIGHTS", "--data", "PICTURES", "--attack", "pgd,pgd"], "pgd is there twice"),
    "no such folder": (["WEIGHTS", "--data", "nowhere"], "'nowhere' does not exist"),
    "a folder of one class": (["WEIGHTS", "--data", "ONE"], "at least two classes, got 1"),
    "a class without pictures": (["WEIGHTS", "--data", "EMPTY"], "no picture"),
    "a picture that is none": (["WEIGHTS", "--data", "DAMAGED"], "it is damaged or no image"),
    "another arch": (["WEIGHTS", "--arch", "RN50", "--data", "PICTURES"], "RN50"),
    "an arch misspelt": (["WEIGHTS", "--arch", "zsr-tny", "--data", "PICTURES"], "did you mean 'zsr-tiny'?"),
    "names without folders": (["WEIGHTS", "--sets", "shapes", "--classnames", "TEXT"], "which is not given"),
    "names of other folders": (["WEIGHTS", "--data", "PICTURES", "--classnames", "NAMES"], "do not fit its folders"),
    "a template without a place": (["WEIGHTS", "--data", "PICTURES", "--templates", "TEXT"], "must hold {} once"),
    "a template that is too long": (["WEIGHTS", "--data", "PICTURES", "--templates", "LONG"], "shorten the template"),
    "a negative number": (["WEIGHTS", "--data", "PICTURES", "-n", "-1"], "-n"),
    "no such preset": (["WEIGHTS", "--data", "PICTURES", "--preset", "tecoa"], "tecoa16"),
    "a repository's form": (["hf-hub:fare", "--data", "PICTURES"], "hf-hub:organisation/name"),
    "an entry of several eps": (["WEIGHTS", "--data", "PICTURES", "--eps", "1/255,2/255", "--entry", "e"], "one eps"),
    "weights that are text": (["TEXT", "--arch", "zsr-tiny", "--data", "PICTURES"], "not a checkpoint"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(mistake, weights, pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    one, empty, damaged = (tmp_path / name for name in ("one", "empty", "damaged"))
    for place in (one / "a", empty / "a", empty / "b", damaged / "a", damaged / "b"):
        place.mkdir(parents=True)
    Image.new("RGB", (24, 24)).save(one / "a" / "0.png")
    for place in damaged.iterdir():
        (place / "0.png").write_bytes(b"no picture")
    (tmp_path / "text.txt").write_text("a photo")
    (tmp_path / "names.tsv").write_text("a\tb\nc\td\n")
    (tmp_path / "long.txt").write_text(f"{'a very long picture ' * 8}of {{}}")
    paths = {"WEIGHTS": weights, "PICTURES": pictures, "ONE": one, "EMPTY": empty, "DAMAGED": damaged}
    paths |= {"TEXT": tmp_path / "text.txt", "NAMES": tmp_path / "names.tsv", "LONG": tmp_path / "long.txt"}
    arguments, message = MISTAKES[mistake]
    said = refused("evaluate", *(paths.get(argument, argument) for argument in arguments), "--n-iter", "1")
    assert message in said, said
    assert len(said.strip().splitlines()) == 1 or said.startswith("Usage"), said
    assert not (tmp_path / "zsr-results").exists()


def test_every_set_of_a_preset_is_in_the_registry():
    from zsr.cli.evaluate import SETS_OF
    from zsr.data.registry import entries

    assert all(set(names) <= set(entries()) for names in SETS_OF.values())
    assert len(SETS_OF["16"]) == len(set(SETS_OF["16"])) == 16


@pytest.mark.parametrize(
    "options, judged_by_study",
    [
        ([], True),
        (["--sets", "shapes", "--attack", "pgd", "--out", "o"], True),
        (["--protocol", "published"], False),
        (["--seed", "1"], False),
        (["--batch-size", "64"], False),
        (["--eps", "1/255"], False),
    ],
)
def test_an_option_that_the_study_has_no_place_for_is_never_ignored(options, judged_by_study, monkeypatch, tmp_path):
    from zsr.cli import evaluate, study_row

    called = []
    monkeypatch.setattr(study_row, "is_row", lambda name: name == "tecoa")
    monkeypatch.setattr(study_row, "checkpoint", lambda name: tmp_path / "0.safetensors")
    monkeypatch.setattr(study_row, "evaluate", lambda *given: called.append("study"))
    monkeypatch.setattr(evaluate, "_measure", lambda *given: called.append("options"))
    ran("evaluate", "tecoa", *options)
    assert called == ["study" if judged_by_study else "options"]


def test_an_entry_of_the_leaderboard_is_written(weights, pictures, tmp_path):
    ran("evaluate", weights, "--data", pictures, "--attack", "pgd", "--out", tmp_path / "out",
        "--entry", tmp_path / "entry.json", "-n", "4")  # fmt: skip
    entry = json.loads((tmp_path / "entry.json").read_text())
    assert entry["verified"]["n"] == 4 and entry["arch"] == "zsr-tiny"

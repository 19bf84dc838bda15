"""`zsr evaluate --defence`, in this process: the columns of a defence for a model of random weights."""

import dataclasses

import pytest
import torch

from tests.cli.test_evaluate import ran, refused
from zsr.data.sources import make
from zsr.evaluation import defended, measure
from zsr.evaluation.defence_records import COUNTS, DefenceRecord
from zsr.evaluation.defended import Bench, Defending, defending_for
from zsr.models import clip, loading

QUICK = ["--sets", "shapes", "-n", "4", "--attack", "pgd", "--n-iter", "1", "--threads", "1"]


@pytest.fixture
def weights(clip_model, tmp_path):
    path = tmp_path / "mine.safetensors"
    clip.save(path, clip_model, "zsr-tiny")
    return path


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    """Two draws and one image for the checks, in place of the usual numbers."""
    made = defending_for
    monkeypatch.setattr(defended, "defending_for", lambda *args: dataclasses.replace(made(*args), draws=2, checked=1))


def table(said: str) -> str:
    return said.partition("mine under ")[2]


def test_the_usual_numbers_are_ten_draws_five_verdicts_and_an_eps_that_no_image_withstands():
    attacks = {"pgd": measure.attack_of("pgd", "1/255"), "cw": measure.attack_of("cw", "8/255")}
    assert defending_for(attacks, 7) == Defending(attacks=("pgd", "cw"), images=7, draws=10, large_eps=32 / 255)
    assert defending_for({"pgd": attacks["pgd"]}, 7).large_eps == 24 / 255 and Defending(attacks=("pgd",)).verdicts == 5


def test_the_command_and_the_call_give_the_same_counts_and_a_second_run_is_free(weights, tmp_path, monkeypatch):
    command = ["evaluate", weights, *QUICK, "--eps", "8/255", "--defence", "random_noise", "--out", tmp_path / "out"]
    said = ran(*command)
    path = tmp_path / "out/random_noise-eps_8_255/shapes.json"
    record = DefenceRecord.load(path, defence="random_noise", method="mine", set_name="shapes")
    assert "random noise, eps 8/255" in table(said) and "oblivious" in said and "95 % of worst" in said
    assert (record.n, record.verdicts, len(record.doubled)) == (4, 5, 1) and "2 draws in each step" in record.protocol
    split, model = make("shapes", "test", 4, 0, 24), loading.load(str(weights), "", "", "", "")
    texts = loading.text_embeddings(model, model.arch, list(split.nouns), ["this is a photo of {}"])
    images, labels, ids = split.tensors(range(4))
    result = measure.evaluate(
        loading.classifier(model, texts, "cpu"), images, labels, attack="pgd", eps=8 / 255, n_iter=1, ids=ids,
        set_name="shapes", defence="random_noise", batch_size=4,
    )  # fmt: skip
    for column in (*COUNTS, "undefended", "undefended_clean"):
        assert (getattr(result.records[0], column) == getattr(record, column)).all(), column
    written = path.read_bytes()
    monkeypatch.setattr(Bench, "judged", None)
    assert table(ran(*command)) == table(said) and path.read_bytes() == written


def test_beside_a_tower_that_was_fine_tuned_stands_the_original_clip(weights, tmp_path, clip_model):
    """r of TTC is that of the original CLIP, the file of --base."""
    with torch.no_grad():
        clip_model.visual.proj.mul_(torch.linspace(0.2, 3, 48))
    clip.save(tmp_path / "tuned.safetensors", clip_model, "zsr-tiny")
    found = {}
    for name in ("mine", "tuned"):
        model, out = tmp_path / f"{name}.safetensors", tmp_path / name
        ran("evaluate", model, "--base", weights, *QUICK, "--eps", "8/255", "--defence", "ttc", "--out", out)
        found[name] = DefenceRecord.load(out / "ttc-eps_8_255/shapes.json")
    own, tuned = (found[name].statistics["r"]["clean"] for name in ("mine", "tuned"))
    assert own == pytest.approx(tuned, rel=1e-4) and len(own) == 4
    assert sum(found["tuned"].passes["clean"]) > sum(found["mine"].passes["clean"])  # two passes of the original CLIP


def test_every_eps_has_a_folder_and_a_record_of_other_weights_is_not_used(weights, tmp_path, clip_model):
    command = [
        "evaluate",
        weights,
        *QUICK,
        "--eps",
        "1/255,8/255",
        "--defence",
        "random_noise",
        "--out",
        tmp_path / "o",
    ]

    def records():
        said = ran(*command)
        assert "eps 1/255" in said and "eps 8/255" in said
        return {path.parent.name: DefenceRecord.load(path) for path in (tmp_path / "o").rglob("*.json")}

    first = records()
    assert set(first) == {"random_noise-eps_1_255", "random_noise-eps_8_255"}
    assert "PGD l-inf, eps 1/255" in first["random_noise-eps_1_255"].protocol
    with torch.no_grad():
        clip_model.visual.proj.neg_()
    clip.save(weights, clip_model, "zsr-tiny")
    assert all(record.fingerprint != first[name].fingerprint for name, record in records().items())


@pytest.mark.parametrize(
    "more, line",
    [
        (["--defence", "tcc"], "defence names no module of zsr.defences: 'tcc'; did you mean 'ttc'"),
        (["--defence", "ttc", "--attack", "fab"], "--attack: fab cannot attack ttc, which is random"),
        (["--defence", "ttc", "--protocol", "published"], "--protocol must be trusted for a defence, got published"),
        (["--defence", "ttc", "--entry", "entry.yaml"], "--entry writes an entry of a model; a defence has no entry"),
    ],
)
def test_what_a_defence_cannot_have_is_refused_before_the_model_is_loaded(tmp_path, more, line):
    (tmp_path / "no.safetensors").write_text("no model")
    given = [argument if argument != "entry.yaml" else tmp_path / "entry.yaml" for argument in more]
    said = refused("evaluate", tmp_path / "no.safetensors", "--sets", "shapes", "--eps", "8/255", *given)
    assert line in " ".join(said.split()) and said.count("\n") == 1

"""The study of TWINS: its numbers, its choice of rates, its tables, and the whole of it in small."""

import re

import pytest
import torch

from tests.conftest import ROOT, parsed
from tests.in_process import run_study
from tests.prepared_sets import write_index
from zsr import files, study
from zsr.data import prepared
from zsr.data.prepared import Split
from zsr.data.sources import make
from zsr.evaluation.grid import best_rate
from zsr.evaluation.records import Record, accuracies
from zsr.files import read_rows
from zsr.params import ParamError, StudyError, component, over, training_of
from zsr.reports import tables
from zsr.reports.tables import chosen, twins_and_controls
from zsr.study import catalogue, check
from zsr.training.finetune import FineTuning

TWINS, PAPER = (parsed(ROOT / "studies" / name / "params.yaml") for name in ("twins", "twins-paper"))
CANDIDATES = [name for name in TWINS["methods"] if component(TWINS, "methods", name).trains]


# Numbers


@pytest.mark.parametrize("document", [TWINS, PAPER], ids=["embedded", "paper"])
def test_the_frozen_wing_starts_from_a_tower_trained_on_attacked_images(document):
    """The premise of TWINS; and all candidates start from it and are trained alike."""
    assert component(document, "starts", "start").attacked
    assert {document["methods"][name]["start"] for name in CANDIDATES} == {"start"}
    assert len({repr(training_of(document, name, FineTuning)) for name in CANDIDATES}) == 1


def test_the_start_itself_and_the_base_model_are_judged_beside_what_was_trained():
    rest = {name: row for name, row in TWINS["methods"].items() if name not in CANDIDATES}
    assert rest == {
        "clip": {"section": "methods.clip"},
        "start": {"section": "methods.start", "module": "clip", "start": "start"},
    }


def test_rates_are_chosen_as_models_are_judged_on_images_that_no_other_use_has():
    """By the attack of the tables, so that its records of every rate are those of the grid."""
    for document in (TWINS, PAPER):
        grid = document["grid"]
        assert grid["attack"] == document["attacks"]["pgd"] | {"module": "pgd"}
        assert grid["evaluation"] == document["evaluate"]


@pytest.mark.parametrize(
    "text, mistake, message",
    [
        (
            "arch: zsr-tiny-rn",
            "arch: zsr-tiny",
            "methods.at_scaled needs a tower with BatchNorm, such as RN50; zsr-tiny",
        ),
        ("image_size: 24 ", "image_size: 33 ", "data.image_size must be at most what zsr-tiny-rn sees, 32, got 33"),
        (
            "start_source: shapes",
            "start_source: squares",
            "data: start_source must name one of sets (letters, shapes, digits_font, digits_real",
        ),
        (
            "start_source: shapes",
            "start_source: textures",
            "data: the start_source 'textures' needs a training split: sets.textures.train is 0",
        ),
        ("shown_lr: 0.01", "shown_lr: 0.02", "grid: shown_lr must be one of 0.001, 0.003, 0.01, 0.03, 0.1, got 0.02"),
        ("held_out: 300", "held_out: 900", "grid.held_out must be below data.sets.letters.train, 900, got 900"),
        ("- 0\n- 1\n- 2\n", "- 0\n- 1\n- 1\n", "seeds must be at least one, none twice, got [0, 1, 1]"),
        ("- 0.003\n", "- 0.01\n", "grid: lrs must be at least one, none twice, got [0.001, 0.01, 0.01, 0.03, 0.1]"),
        ("    module: pgd\n", "    module: pdg\n", "grid.attack.module names no module of zsr.attacks: 'pdg'; did you"),
        ("    <<: *pgd\n    module: pgd\n", "    <<: *pgd\n", "missing key 'grid.attack.module'"),
        ("  evaluation: *evaluate\n", "", "missing key 'grid.evaluation'"),
        ("wings: frozen", "wings: left", "methods.frozen_only.wings must be one of both, adaptive, frozen"),
        ("lambda_frozen: 1.0 # the", "lambda: 1.0 # the", "unknown key 'methods.twins_at.lambda'"),
        (
            "    section: methods.at\n",
            "    section: methods.at\n    train: {lr: 0.5}\n",
            "methods.at.train.lr: rates are in grid.lrs, the same for all methods",
        ),
        ("    start: start\n", "    start: strat\n", "methods.start.start is none of starts (start): 'strat'; did you"),
        (
            "    module: fare\n    features: raw\n",
            "    module: far\n",
            "starts.start.module names no module of zsr.methods: 'far'; did you mean 'fare'?",
        ),
        (
            "  save_every: 25\n  log",
            "  save_every: 25\n  accumulate: 2\n  log",
            "train.accumulate must be 1 for zsr-tiny-rn, whose BatchNorm needs whole batches, got 2",
        ),
        (
            "      warmup_steps: 10\n",
            "      warmup_steps: 10\n      accumulate: 4\n",
            "train.accumulate must be 1 for zsr-tiny-rn, whose BatchNorm needs whole batches, got 4",
        ),
    ],
)
def test_a_mistake_is_one_line_before_anything_runs(tmp_path, monkeypatch, text, mistake, message):
    document = (ROOT / "studies/twins/params.yaml").read_text()
    assert text in document
    (tmp_path / "params.yaml").write_text(document.replace(text, mistake, 1))
    monkeypatch.setattr(study, "read", parsed)
    with pytest.raises(ParamError) as error:
        check(tmp_path / "params.yaml")
    assert message in str(error.value) and "\n" not in str(error.value)


def test_the_paper_scale_has_the_same_rows():
    paper = check(ROOT / "studies/twins-paper/params.yaml")
    assert list(paper.methods) == list(TWINS["methods"]) and paper.model.arch == "RN50-quickgelu"
    assert twins_and_controls(PAPER["methods"]) == twins_and_controls(TWINS["methods"])


def test_rn50_has_a_frozen_twin_of_all_55_norms_each_behind_a_convolution():
    import open_clip

    from zsr.measures.effective_rate import normed_convolutions
    from zsr.methods.twins import DualBatchNorm2d, twinify

    with torch.device("meta"):  # without weights
        visual = open_clip.create_model("RN50-quickgelu", device="meta").visual
    assert len(normed_convolutions(visual)) == 55
    twinify(visual)
    assert sum(isinstance(m, DualBatchNorm2d) for m in visual.modules()) == len(normed_convolutions(visual)) == 55


def test_no_method_imports_a_study():
    for path in (ROOT / "zsr/methods").glob("*.py"):
        assert not re.search(r"zsr\.(transfer_|rates|grid|likeness|study)", path.read_text()), path


# The grid


def row(lr, seed, held_out, test=0.0, method="at", chosen=0):
    found = {"held_out_robust": held_out, "test_clean": test, "test_robust": test}
    return {"method": method, "lr": lr, "seed": seed, "chosen": chosen} | {k: str(v) for k, v in found.items()}


def test_the_best_rate_is_that_of_the_held_out_mean_whatever_the_test_images_say():
    rows = [row("0.1", 0, 50, 0), row("0.1", 1, 30, 0), row("0.01", 0, 45, 90), row("0.01", 1, 34, 90)]
    assert best_rate(rows) == "0.1"
    assert best_rate(rows[::-1]) == "0.1"
    assert best_rate([*rows, row("0.003", 0, 40)]) == "0.003"  # of equal ones the smallest
    assert best_rate([row("1e-05", 0, 1), row("0.003", 0, 1)]) == "1e-05"  # as numbers, not as text


def test_a_rate_at_which_a_seed_diverged_is_out():
    ends = row("0.1", 0, 90)
    rows = [ends, ends | {"seed": 1, "held_out_robust": ""}, row("0.01", 0, 20), row("0.01", 1, 30)]
    assert best_rate(rows) == "0.01"
    with pytest.raises(StudyError, match="at diverges at every rate of grid.lrs \\(0.1\\); add smaller ones"):
        best_rate(rows[:2])
    assert accuracies("held_out", None) == {"held_out_clean": "", "held_out_robust": ""}


def test_accuracies_count_robust_where_right_both_times():
    bits = {"ids": range(4), "clean_bits": (True, True, False, True), "adv_bits": (True, False, True, False)}
    named = {"method": "at", "seed": 0, "attack": "pgd", "set_name": "s", "fingerprint": "", "protocol": ""}
    record = Record(**named, **bits, zero_bits=(False,) * 4, broken_bits=(False,) * 4)
    assert accuracies("test", record) == {"test_clean": 75.0, "test_robust": 25.0}


def test_the_chosen_rate_is_the_one_marked():
    rows = [row("0.1", 0, 1, chosen=1), row("0.01", 0, 1), row("0.01", 0, 1, method="trades", chosen=1)]
    assert chosen(rows) == {"at": "0.1", "trades": "0.01"}


def test_twins_are_compared_with_what_minimises_the_same_loss():
    methods = catalogue(check(ROOT / "studies/twins/params.yaml"), TWINS)["methods"]
    assert twins_and_controls(methods) == [
        ("twins_at", "at"),
        ("twins_at", "at_scaled"),
        ("twins_at", "frozen_only"),
        ("twins_trades", "trades"),
    ]


def test_held_out_images_are_those_that_training_leaves(tmp_path):
    sets, text = tmp_path / "sets", tmp_path / "text"
    for split, n in (("train", 30), ("test", 12)):
        make("letters", split, n, 0, 24).save(sets / "letters" / f"{split}.safetensors")
    test, embedded = sets / "letters/test.safetensors", text / "letters/0.safetensors"
    files.save_tensors(embedded, {"text_embeddings": torch.eye(13)}, {"wording": "w"})
    write_index(sets, text, ["letters"])
    train = Split.load(sets / "letters/train.safetensors")
    held_out, tested = prepared.held_out(sets, text, "letters", 8), prepared.load(sets, text, "letters")
    used = train.part(slice(-8))
    assert sorted([*used.ids, *held_out.split.ids]) == sorted(train.ids) and len(held_out.split.ids) == 8
    assert (held_out.images.name, held_out.last, tested.images, tested.last) == ("train.safetensors", 8, test, 0)
    assert held_out.text_embeddings.equal(tested.text_embeddings)


# Tables


def table(path, caption):
    text = path.read_text().split(f"**{caption}**")[1].split("\n**")[0].replace("**", "")
    lines = [[c.strip() for c in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    return lines[0], {line[0] if len(lines[0]) != len(set(lines[0])) else tuple(line[:2]): line for line in lines[2:]}


def test_the_tables_show_the_chosen_rate_and_the_sign_of_a_difference(tmp_path):
    grid = [row(lr, s, h, t, m, int(lr == best)) for m, best in (("at", "0.1"), ("twins_at", "0.01"))
            for lr in ("0.01", "0.1") for s, h, t in ((0, 1, 10), (1, 2, 20))]  # fmt: skip
    cells = [(g, a) for g in ("source", "unseen") for a in ("clean", "pgd")]
    averages = [{"group": g, "method": m, "attack": a, "mean": "50", "low": "40", "high": "61", "seeds": "2", "sd": sd}
                for m, sd in (("at", ""), ("twins_at", "1.5")) for g, a in cells]  # fmt: skip
    pairs = [{"group": g, "attack": a, "first": "at", "second": "twins_at", "mean": "-3", "low": "-5", "high": "0.5",
              "seeds": "2", "sd": "1"} for g, a in cells]  # fmt: skip
    tables.rates(tmp_path, averages, pairs, [("twins_at", "at")], grid, [], 8, "T")
    for group in ("target", "unseen"):
        _, own = table(tmp_path / "rates.md", f"{group}: accuracy in %, each method at its own rate")
        assert own["twins_at", "0.01"][2:] == ["50.0\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}1.5"] * 2
        assert [" ".join(cell.split()) for cell in own["at", "0.1"][2:]] == ["50.0 [40.0, 61.0]"] * 2
        _, differences = table(tmp_path / "rates.md", f"{group}: TWINS minus its controls, points")
        (difference,) = differences.values()
        assert [" ".join(cell.split()) for cell in difference] == ["twins_at - at", *["+3.0 [-0.5, +5.0]"] * 2]
    _, rates = table(tmp_path / "rates.md", "target: accuracy in % at every rate")
    assert [cell[1] for cell in rates.values()] == ["0.01", "0.1*", "0.01*", "0.1"]
    assert rates["at", "0.1*"][2].split() == ["15.0", "±", "7.1"]
    gone = [r | dict.fromkeys(tables.GRID_COLUMNS, "") if (r["lr"], r["method"]) == ("0.01", "at") else r for r in grid]
    tables.rates(tmp_path, averages, pairs, [("twins_at", "at")], gone, [], 8, "T")
    _, rates = table(tmp_path / "rates.md", "target: accuracy in % at every rate")
    assert rates["at", "0.01"][2:] == ["diverged in 2 of 2 seeds"] * 3
    notes = " ".join((tmp_path / "rates.md").read_text().split())
    assert "8 images held out of training, mean over 2 seeds" in notes and "Test images chose nothing" in notes
    assert "TWINS" in notes and "seeds, each with a start of its own;" in notes
    tables.rates(tmp_path, averages, pairs, [], grid, [], 8, "T")  # a study with a grid and without TWINS
    notes = (tmp_path / "rates.md").read_text()
    assert "TWINS" not in notes and "start of its own" not in notes and "at every rate" in notes


def test_effective_rates_are_means_over_steps_at_one_rate_and_at_each_ones_own(tmp_path):
    def curve(rho, lr):
        measures = dict.fromkeys(tables.CURVE_COLUMNS, "1") | {"rho": str(rho)}
        return [{"lr": str(lr)} | measures, {"lr": str(lr / 2)} | measures | {"rho": str(3 * rho)}]

    curves = {("at", "0.1"): curve(1, 0.1), ("at", "0.01"): curve(4, 0.01), ("twins_at", "0.01"): curve(8, 0.01)}
    tables.effective_rate(tmp_path, curves, {"at": "0.1", "twins_at": "0.01"}, "0.01", "T")
    _, shown = table(tmp_path / "effective_rate.md", "all at lr 0.01")
    _, own = table(tmp_path / "effective_rate.md", "each at its own rate")
    assert [line[2] for line in shown.values()] == ["8", "16"] and [line[2] for line in own.values()] == ["2", "16"]
    assert own["at", "0.1"][-1] == "1.25e-01"  # mean of 0.1 x 1 and 0.05 x 3


def test_numbers_of_others_carry_their_origin(tmp_path):
    rows = read_rows(ROOT / "published/autolora_table2.csv")
    tables.elsewhere(tmp_path, rows, "T")
    _, lines = table(tmp_path / "elsewhere.md", "accuracy in %")
    assert len(lines) == 18 and all(float(line[-1]) >= 0 for line in lines.values())
    assert lines["cub200", "none"][2:] == ["57.27", "63.58", "+6.31"]
    assert "AutoLoRa" in (tmp_path / "elsewhere.md").read_text()


# The whole of it, in small


SMALL = {
    "seeds": [3],
    "data": {"sets": {"letters": {"train": 36, "test": 12}, "shapes": {"train": 12, "test": 12}}},
    "base_model": {"pool": 32, "epochs": 1, "warmup_steps": 0},
    "starts": {"start": {"train": {"epochs": 1}}},
    "train": {"epochs": 1, "batch_size": 12},
    "grid": {"lrs": [0.003, 1e38], "shown_lr": 0.003, "held_out": 12},  # at the second every training diverges
    "attacks": {"pgd": {"n_iter": 1}},
}  # fmt: skip


@pytest.fixture(scope="module")
def small():
    changed = over(TWINS, SMALL)
    for name in ("digits_font", "digits_real", "textures"):
        del changed["data"]["sets"][name]
    del changed["attacks"]["autoattack"]  # by far the longest
    few = {name: row for name, row in changed["methods"].items() if name in ("start", "at", "twins_at")}
    once = {"batch_size": 12, "workers": 1}
    grid = over(changed["grid"], {"attack": {"n_iter": 1}, "evaluation": once})
    return changed | {"methods": few, "grid": grid, "evaluate": changed["evaluate"] | once}


def test_the_study_runs_from_drawing_to_tables(small, tmp_path, monkeypatch):
    run_study(small, monkeypatch, tmp_path)
    rates = read_rows(tmp_path / "metrics/results/rates.csv")
    assert [(r["method"], r["lr"], r["seed"], r["chosen"], bool(r["test_robust"])) for r in rates] == [
        (method, lr, "3", one, one == "1")
        for method in ("at", "twins_at")
        for lr, one in (("0.003", "1"), ("1e+38", "0"))
    ]
    kept = tmp_path / "data/checkpoints"
    for method in small["methods"]:
        assert [path.name for path in kept.glob(f"{method}/*.safetensors")] == ["3.safetensors"]
    assert {path.parts[-2] for path in kept.glob("at/rates/*/*.safetensors")} == {"0.003"}
    judged = Record.load(kept / "at/rates/0.003/3/held_out.json")
    train = Split.load(tmp_path / "data/sets/letters/train.safetensors")
    assert judged.ids.tolist() == train.ids[-12:].tolist()
    curve = read_rows(tmp_path / "metrics/curves/twins_at/0.003.csv")
    assert len(curve) == 2 and {"rho", "radial", "frozen_ce_adv", "adaptive_ce_adv"} <= set(curve[0])
    assert read_rows(tmp_path / "metrics/curves/twins_at/1e+38.csv") == []
    _, own = table(tmp_path / "tables/rates.md", "target: accuracy in %, each method at its own rate")
    assert {method for method, _ in own} >= {"start", "at", "twins_at"}
    _, grid = table(tmp_path / "tables/rates.md", "target: accuracy in % at every rate")
    assert grid["at", "1e+38"][2:] == ["diverged in 1 of 1 seeds"] * 3 and ("at", "0.003*") in grid
    first = read_rows(tmp_path / "metrics/results/accuracy.csv")
    assert {row["set"] for row in first} == {"letters", "shapes"} and {row["seed"] for row in first} == {"3"}
    assert {path.stem for path in (tmp_path / "figures").iterdir()} == {"rates", "effective_rate", "trade_off"}

"""The study of TWINS: its numbers, its choice of rates, its tables, and what a change of its params reruns."""

import re
from types import SimpleNamespace

import pytest

from tests import test_graph as graph
from tests.pipeline import ROOT, Checkout
from zsr import twins_grid, twins_tables
from zsr.data import prepared
from zsr.errors import ParamError, StudyError
from zsr.params import block, component, over, read, training_of
from zsr.storage import read_rows
from zsr.twins_study import TwinsStudy, check

TWINS = read(ROOT / "twins/params.yaml")
CANDIDATES, LRS = TWINS["candidates"], [str(lr) for lr in TWINS["lrs"]]


def evaluations(*methods):
    return {f"evaluate@{method}-{attack}" for method in methods for attack in TWINS["attacks"]}


GRID = {f"grid@{method}-{lr}" for method in CANDIDATES for lr in LRS}
CHOICE = {f"choice@{method}" for method in CANDIDATES}
OWN_OF_TWINS = {f"grid@twins_at-{lr}" for lr in LRS} | {"choice@twins_at"}


# Numbers


def test_the_committed_numbers_are_a_study():
    study = check(ROOT / "twins/params.yaml")
    assert isinstance(study, TwinsStudy) and study.shown_lr in study.lrs


def test_the_frozen_wing_starts_from_a_tower_trained_on_attacked_images():
    """The premise of TWINS; and attacks in training are the same for all candidates."""
    assert component(TWINS, "methods", "start").attacked
    from zsr.finetune import FineTuning

    assert len({repr(training_of(TWINS, name, FineTuning)) for name in CANDIDATES}) == 1


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
            "start_set: shapes",
            "start_set: squares",
            "start_set must be one of letters, shapes, digits_font, digits_real",
        ),
        ("start_set: shapes", "start_set: textures", "start_set needs a training split: data.sets.textures.train is 0"),
        ("shown_lr: 0.01", "shown_lr: 0.02", "shown_lr must be one of 0.001, 0.003, 0.01, 0.03, 0.1, got 0.02"),
        ("held_out: 300", "held_out: 900", "held_out must be below data.sets.letters.train, 900, got 900"),
        ("- 0\n- 1\n- 2\n", "- 0\n- 1\n- 1\n", "seeds must be at least one, none twice, got [0, 1, 1]"),
        ("- 0.003\n", "- 0.01\n", "lrs must be at least one, none twice, got [0.001, 0.01, 0.01, 0.03, 0.1]"),
        ("chosen_by: pgd", "chosen_by: cw", "chosen_by must be one of pgd, autoattack, got cw"),
        ("- at_scaled\n", "", "methods must be clip, start and candidates (at, frozen_only, twins_at, trades"),
        ("wings: frozen", "wings: left", "methods.frozen_only.wings must be one of both, adaptive, frozen"),
        ("lambda_frozen: 1.0 # the", "lambda: 1.0 # the", "unknown key 'methods.twins_at.lambda'"),
        (
            "    section: methods.at\n",
            "    section: methods.at\n    train: {lr: 0.5}\n",
            "methods.at.train.lr: rates of",
        ),
        (
            "    module: fare\n    features: raw\n",
            "    module: far\n",
            "methods.start.module names no module of zsr.met",
        ),
    ],
)
def test_a_mistake_is_one_line_before_anything_runs(tmp_path, text, mistake, message):
    study = (ROOT / "twins/params.yaml").read_text()
    assert text in study
    (tmp_path / "params.yaml").write_text(study.replace(text, mistake, 1))
    with pytest.raises(ParamError) as error:
        check(tmp_path / "params.yaml")
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_method_that_does_not_train_is_no_candidate(tmp_path):
    study = (ROOT / "twins/params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(study.replace("    module: tecoa\n", "    module: clip\n", 1))
    with pytest.raises(ParamError, match="candidates: 'at' does not train"):
        check(tmp_path / "params.yaml")


# The grid


def test_a_rate_is_put_in_place_of_that_of_all_candidates():
    changed = twins_grid.at_rate(TWINS, 0.03)
    assert changed == over(TWINS, {"train": {"lr": 0.03}}) and TWINS["train"]["lr"] != 0.03
    with pytest.raises(ParamError, match="lrs has 0.001, 0.003, 0.01, 0.03, 0.1, not 0.02"):
        twins_grid.at_rate(TWINS, 0.02)


def row(lr, seed, held_out, test=0.0, method="at", chosen=0):
    found = {"held_out_robust": held_out, "test_clean": test, "test_robust": test}
    return {"method": method, "lr": lr, "seed": seed, "chosen": chosen} | {k: str(v) for k, v in found.items()}


def test_the_best_rate_is_that_of_the_held_out_mean_whatever_the_test_images_say():
    rows = [row("0.1", 0, 50, 0), row("0.1", 1, 30, 0), row("0.01", 0, 45, 90), row("0.01", 1, 34, 90)]
    assert twins_grid.best_rate(rows) == "0.1"
    assert twins_grid.best_rate(rows[::-1]) == "0.1"
    assert twins_grid.best_rate([*rows, row("0.003", 0, 40)]) == "0.003"  # of equal ones the smallest
    assert twins_grid.best_rate([row("1e-05", 0, 1), row("0.003", 0, 1)]) == "1e-05"  # as numbers, not as text


def test_a_rate_at_which_a_seed_diverged_is_out():
    ends = row("0.1", 0, 90)
    rows = [ends, ends | {"seed": 1, "held_out_robust": ""}, row("0.01", 0, 20), row("0.01", 1, 30)]
    assert twins_grid.best_rate(rows) == "0.01"
    with pytest.raises(StudyError, match="at diverges at every rate of lrs \\(0.1\\); add smaller ones"):
        twins_grid.best_rate(rows[:2])
    assert twins_grid.accuracies({"held_out": None}) == {"held_out_clean": "", "held_out_robust": ""}


def test_accuracies_count_robust_where_right_both_times():
    record = SimpleNamespace(clean_bits=(True, True, False, True), robust_bits=(True, False, False, False))
    assert twins_grid.accuracies({"test": record}) == {"test_clean": 75.0, "test_robust": 25.0}


def test_twins_are_compared_with_what_minimises_the_same_loss():
    assert twins_grid.twins_and_controls(TWINS) == [
        ("twins_at", "at"),
        ("twins_at", "at_scaled"),
        ("twins_at", "frozen_only"),
        ("twins_trades", "trades"),
    ]


def test_held_out_images_are_those_that_training_leaves(tmp_path):
    import torch

    from zsr import storage
    from zsr.data.sources import make
    from zsr.data.split import Split, digest

    sets, text = tmp_path / "sets", tmp_path / "text"
    for split, n in (("train", 30), ("test", 12)):
        make("letters", split, n, 0, 24).save(sets / "letters" / f"{split}.safetensors")
    test = sets / "letters/test.safetensors"
    storage.save_tensors(text / "letters.safetensors", {"text_embeddings": torch.eye(12)}, {"wording": "w"})
    storage.write_json(text / "letters.json", {"images": digest(test)})
    train = Split.load(sets / "letters/train.safetensors")
    held_out, tested = prepared.held_out(sets, text, "letters", 8), prepared.load(sets, text, "letters")
    used = train.part(slice(-8))
    assert sorted([*used.ids, *held_out.split.ids]) == sorted(train.ids) and len(held_out.split.ids) == 8
    assert held_out.inputs != tested.inputs and held_out.text_embeddings.equal(tested.text_embeddings)


# Tables


def table(path, caption):
    text = path.read_text().split(f"**{caption}**")[1].split("**")[0]
    lines = [[c.strip() for c in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    return lines[0], {line[0] if len(lines[0]) != len(set(lines[0])) else tuple(line[:2]): line for line in lines[2:]}


def test_the_tables_show_the_chosen_rate_and_the_sign_of_a_difference(tmp_path):
    grid = [row(lr, s, h, t, m, int(lr == best)) for m, best in (("at", "0.1"), ("twins_at", "0.01"))
            for lr in ("0.01", "0.1") for s, h, t in ((0, 1, 10), (1, 2, 20))]  # fmt: skip
    cells = [(g, a) for g in ("source", "unseen") for a in ("clean", "pgd")]
    averages = [{"group": g, "method": m, "attack": a, "mean": "50", "half_width": "9", "sd": "1.5"}
                for m in ("at", "twins_at") for g, a in cells]  # fmt: skip
    pairs = [{"group": g, "attack": a, "first": "at", "second": "twins_at", "mean": "-3", "half_width": "2"}
             for g, a in cells]  # fmt: skip
    twins_tables.study(tmp_path, averages, pairs, [("twins_at", "at")], grid, [], "8 images", "T")
    _, own = table(tmp_path / "twins.md", "accuracy in %, each method at its own rate")
    assert own["twins_at", "0.01"][2:] == ["50.0 ± 1.5"] * 4 and ("at", "0.1") in own
    _, differences = table(tmp_path / "twins.md", "TWINS minus its controls, points")
    assert list(differences.values()) == [["twins_at - at", *["+3.0 ± 2.0"] * 4]]
    _, rates = table(tmp_path / "twins.md", "accuracy in % at every rate")
    assert [cell[1] for cell in rates.values()] == ["0.01", "0.1*", "0.01*", "0.1"]
    assert rates["at", "0.1*"][2] == "15.0 ± 7.1"
    gone = [r | dict.fromkeys(twins_tables.PARTS, "") if (r["lr"], r["method"]) == ("0.01", "at") else r for r in grid]
    twins_tables.study(tmp_path, averages, pairs, [("twins_at", "at")], gone, [], "8 images", "T")
    _, rates = table(tmp_path / "twins.md", "accuracy in % at every rate")
    assert rates["at", "0.01"][2:] == ["diverged in 2 of 2 seeds"] * 3
    notes = (tmp_path / "twins.md").read_text()
    assert "8 images, mean over 2 seeds" in notes and "Test images chose nothing" in notes


def test_effective_rates_are_means_over_steps_at_one_rate_and_at_each_ones_own(tmp_path):
    def curve(rho, lr):
        measures = dict.fromkeys(twins_tables.MEASURES, "1") | {"rho": str(rho)}
        return [{"lr": str(lr)} | measures, {"lr": str(lr / 2)} | measures | {"rho": str(3 * rho)}]

    curves = {("at", "0.1"): curve(1, 0.1), ("at", "0.01"): curve(4, 0.01), ("twins_at", "0.01"): curve(8, 0.01)}
    twins_tables.effective_rates(tmp_path, curves, {"at": "0.1", "twins_at": "0.01"}, "0.01", "T")
    _, shown = table(tmp_path / "effective_rate.md", "all at lr 0.01")
    _, own = table(tmp_path / "effective_rate.md", "each at its own rate")
    assert [line[2] for line in shown.values()] == ["8", "16"] and [line[2] for line in own.values()] == ["2", "16"]
    assert own["at", "0.1"][-1] == "1.25e-01"  # mean of 0.1 x 1 and 0.05 x 3


def test_numbers_of_others_carry_their_origin(tmp_path):
    rows = read_rows(ROOT / "published/autolora_table2.csv")
    twins_tables.elsewhere(tmp_path, rows, "T")
    _, lines = table(tmp_path / "elsewhere.md", "accuracy in %")
    assert len(lines) == 18 and all(float(line[-1]) >= 0 for line in lines.values())
    assert lines["cub200", "none"][2:] == ["57.27", "63.58", "+6.31"]
    assert "AutoLoRa" in (tmp_path / "elsewhere.md").read_text()


# The graph


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    return Checkout(tmp_path_factory.mktemp("twins"), scale="twins")


@pytest.fixture(scope="module")
def stages(checkout):
    from dvc.repo import Repo

    with Repo(str(checkout.folder / "twins")) as repo:
        return list(repo.index.stages)


def test_every_file_that_a_stage_imports_is_among_its_deps_and_none_beside(stages):
    groups: dict[str, tuple[set, set]] = {}
    for stage in stages:
        deps, read_by = graph.code_deps(stage), graph.needed(stage)
        missing = {path for path in read_by if not graph.covered(path, deps)}
        assert not missing, f"{stage.name} imports {sorted(missing)}"
        of_group = groups.setdefault(stage.name.partition("@")[0], (set(), set()))
        of_group[0].update(deps), of_group[1].update(read_by)
    for group, (deps, read_by) in groups.items():
        unused = {dep for dep in deps if not any(graph.covered(path, {dep}) for path in read_by)}
        assert not unused, f"{group} lists {sorted(unused)}"


CHANGES = {
    "methods.twins_at.lambda_frozen": (0.4, OWN_OF_TWINS | {"collect", "tables"}),
    "lrs": ([0.001, 0.003, 0.01, 0.03, 0.1, 0.3], CHOICE | {"tables", "figures"}),
    "base_model.epochs": (3, {"base_model"}),
    "train.attack.n_iter": (3, GRID | {"reference@clip", "reference@start"}),
    "held_out": (200, GRID | CHOICE | {"tables"}),
    "attacks.autoattack.n_iter": (10, {e for e in evaluations(*TWINS["methods"]) if "auto" in e} | {"collect"}),
}


@pytest.fixture(scope="module")
def stale(checkout):
    return graph.changed(checkout)


def test_the_committed_lock_belongs_to_the_committed_code_and_params(checkout, stale):
    assert not stale
    assert "Data and pipelines are up to date." in checkout.dvc("repro", "--allow-missing", "--dry")


@pytest.mark.parametrize("key", [pytest.param(k, marks=[pytest.mark.slow] * (i > 1)) for i, k in enumerate(CHANGES)])
def test_a_change_of_params_touches_exactly_its_stages(checkout, stale, key):
    value, expected = CHANGES[key]
    path = checkout.folder / "twins/params.yaml"
    original = path.read_text()
    try:
        checkout.edit({key: value})
        found = {stage for stage in graph.changed(checkout) - stale if not (key == "lrs" and "-0.3" in stage)}
        assert found == (expected | {"params"}) - stale
    finally:
        path.write_text(original)


def test_all_that_follows_from_lambda_is_twins_own(stages):
    """What `dvc exp run -S methods.twins_at.lambda_frozen=0.4` may run besides the check of params."""
    below, queue = set(), [stage for stage in stages if stage.name in OWN_OF_TWINS]
    outs = {stage: {out.def_path for out in stage.outs} for stage in stages}
    while queue:
        written = outs[queue.pop()]
        for stage in stages:
            reads = {dep.def_path for dep in stage.deps}
            if stage not in below and any(w == r or w.startswith(f"{r}/") for w in written for r in reads):
                below.add(stage)
                queue.append(stage)
    names = {stage.name for stage in below} | OWN_OF_TWINS
    assert names == OWN_OF_TWINS | evaluations("twins_at") | {"collect", "tables", "figures"}


def test_stages_hard_code_no_path(stages):
    outs = {out.def_path for stage in stages for out in stage.outs if "/" in out.def_path}
    for path in (ROOT / "stages").glob("*.py"):
        assert not [out for out in outs if out in path.read_text()], path


def test_no_method_imports_a_study():
    for path in (ROOT / "zsr/methods").glob("*.py"):
        assert not re.search(r"zsr\.(transfer|twins)_", path.read_text()), path
    assert block(TWINS, "methods.twins_at.lambda_frozen", float) > 0


# The paper scale


def test_the_paper_scale_has_the_same_graph_and_candidates():
    paper = ROOT / "paper-twins"
    assert (paper / "dvc.yaml").read_text() == (ROOT / "twins/dvc.yaml").read_text()
    study = check(paper / "params.yaml")
    assert list(study.candidates) == CANDIDATES and study.model.arch == "RN50-quickgelu"
    assert twins_grid.twins_and_controls(read(paper / "params.yaml")) == twins_grid.twins_and_controls(TWINS)


def test_rn50_has_a_frozen_twin_of_all_55_norms_each_behind_a_convolution():
    import open_clip

    from zsr.effective_rate import normed_convolutions
    from zsr.models.dual_norm import DualBatchNorm2d, twinify

    visual = open_clip.create_model("RN50-quickgelu").visual
    assert len(normed_convolutions(visual)) == 55
    twinify(visual)
    assert sum(isinstance(m, DualBatchNorm2d) for m in visual.modules()) == len(normed_convolutions(visual)) == 55


# The whole of it, in small


SMALL = {
    "seeds": [0],
    "candidates": ["at", "twins_at"],
    "lrs": [0.003, 1e38],  # at the second every training diverges
    "shown_lr": 0.003,
    "held_out": 12,
    "data.sets": {"letters": {"train": 36, "test": 12}, "shapes": {"train": 12, "test": 12},
                  "digits_real": {"train": 0, "test": 12}},
    "base_model.pool": 32,
    "base_model.epochs": 1,
    "base_model.warmup_steps": 0,
    "train.epochs": 1,
    "train.batch_size": 12,
    "methods.start.train": {"epochs": 1},
    "evaluate.batch_size": 12,
    "attacks.pgd.n_iter": 1,
    "attacks.autoattack.n_iter": 2,
    **{f"methods.{name}": None for name in TWINS["methods"] if name not in ("clip", "start", "at", "twins_at")},
}  # fmt: skip


def run(stage, folder):
    """The command of a stage, in this process, where it would be run."""
    import importlib
    import shlex

    from click.testing import CliRunner

    _, _, _, module, *arguments = shlex.split(stage.cmd)  # PYTHONPATH=... python -m module
    result = CliRunner().invoke(importlib.import_module(module).main, arguments)
    assert result.exit_code == 0, f"{stage.name}: {result.output} {result.exception!r}"
    for out in stage.outs:
        assert (folder / out.def_path).exists(), f"{stage.name} leaves no {out.def_path}"


def test_the_graph_runs_from_drawing_to_tables(tmp_path, monkeypatch):
    import networkx
    from dvc.repo import Repo

    monkeypatch.setenv("ZSR_SCRATCH", str(tmp_path / "scratch"))
    checkout = Checkout(tmp_path, scale="twins")
    checkout.edit(SMALL)
    folder = tmp_path / "twins"
    monkeypatch.chdir(folder)
    with Repo(str(folder)) as repo:
        for stage in networkx.dfs_postorder_nodes(repo.index.graph):
            run(stage, folder)
    grid = [row for name in SMALL["candidates"] for row in read_rows(folder / f"metrics/grid/{name}.csv")]
    assert [(row["lr"], row["chosen"], bool(row["test_robust"])) for row in grid] == 2 * [
        ("0.003", "1", True),
        ("1e+38", "0", False),
    ]
    assert (folder / "data/towers/at/1e+38/0.json").exists()
    assert [path.name for path in (folder / "data/checkpoints/twins_at").iterdir()] == ["0.safetensors"]
    curve = read_rows(folder / "metrics/curves/twins_at-0.003.csv")
    assert len(curve) == 2 and {"rho", "radial", "frozen_ce_adv", "adaptive_ce_adv"} <= set(curve[0])
    header, own = table(folder / "tables/twins.md", "accuracy in %, each method at its own rate")
    assert [line[0] for line in own.values()] == ["clip", "start", "at", "twins_at"] and "target autoattack" in header
    first = read_rows(folder / "metrics/accuracy.csv")
    assert {row["set"] for row in first} == {"letters", "shapes", "digits_real"}

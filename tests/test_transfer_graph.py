"""transfer/dvc.yaml against the code and its params: nothing a stage reads is missing, nothing else reruns it."""

import re

import pytest

from tests.pipeline import ROOT, Checkout
from tests.test_graph import changed, closure, code_deps, covered
from zsr.params import read

TRANSFER, PAPER = (read(ROOT / folder / "params.yaml") for folder in ("transfer", "paper-transfer"))


@pytest.fixture(scope="module")
def transfer(tmp_path_factory):
    return Checkout(tmp_path_factory.mktemp("transfer"), scale="transfer")


@pytest.fixture(scope="module")
def transfer_repo(transfer):
    from dvc.repo import Repo

    with Repo(str(transfer.folder / "transfer")) as opened:
        yield opened


def needed_of_transfer(stage, document=TRANSFER) -> set[str]:
    command = re.search(r"python -m (\S+)", stage.cmd).group(1).replace(".", "/") + ".py"
    group, _, item = stage.name.partition("@")
    seeds = {command}
    if group == "data":
        seeds |= {f"zsr/data/sets/{name}.py" for name in ([item] if document is TRANSFER else document["data"]["sets"])}
    if group == "verdicts":
        seeds.add(f"zsr/attacks/{document['grid']['attack']}.py")
    if group in ("start", "train"):
        code = document["starts" if group == "start" else "runs"][item]["code"]
        seeds |= {str(path.relative_to(ROOT)) for path in [ROOT / "zsr" / code, *(ROOT / "zsr" / code).glob("*.py")]}
    return closure(seeds)


def test_every_file_that_a_stage_of_the_transfer_study_imports_is_among_its_deps(transfer_repo):
    stages = transfer_repo.index.stages
    assert len(stages) == 3 + len(TRANSFER["data"]["sets"]) + len(TRANSFER["starts"]) + 2 * len(TRANSFER["runs"])
    for stage in stages:
        missing = {path for path in needed_of_transfer(stage) if not covered(path, code_deps(stage))}
        assert not missing, f"{stage.name} imports {sorted(missing)}"


def test_no_stage_of_the_transfer_study_lists_code_that_none_of_its_group_reads(transfer_repo):
    """TWINS is of the paper's scale alone, which has the same graph, and so are public sets."""
    others = closure({"zsr/methods/twins.py", *(f"zsr/data/sets/{name}.py" for name in PAPER["data"]["sets"])})
    groups: dict[str, tuple[set, set]] = {}
    for stage in transfer_repo.index.stages:
        deps, read_by = groups.setdefault(stage.name.partition("@")[0], (set(), set()))
        deps |= code_deps(stage)
        read_by |= needed_of_transfer(stage)
    for group, (deps, read_by) in groups.items():
        read_by |= others if group in ("data", "start", "train") else set()
        unused = {dep for dep in deps if not any(covered(path, {dep}) for path in read_by)}
        assert not unused, f"{group} lists {sorted(unused)}"


@pytest.fixture(scope="module")
def transfer_stale(transfer):
    return changed(transfer)


TRAINED = {f"train@{name}" for name in TRANSFER["runs"]}
STARTED = {f"start@{name}" for name in TRANSFER["starts"]}
JUDGED = {f"verdicts@{name}" for name in TRANSFER["runs"]}
OF_TRANSFER = {  # a change of transfer/params.yaml -> the stages that `dvc status` then calls changed
    "methods.dm.beta_eff": (2.0, {"train@scratch_dm", "train@pretrained_dm", "train@robust_dm"}),
    "methods.at.norm_stats": ("clip", {"start@robust", *(f"train@{start}_at" for start in TRANSFER["starts"])}),
    "starts.robust.train.lr": (0.04, {"start@robust"}),
    "train.lr": (0.03, STARTED | TRAINED),
    "grid.eps": (["15/255"], JUDGED | {"transfer_tables"}),
    "likeness.radius": (3, {"likeness"}),
    "caution": ("another", {"transfer_tables"}),
}


@pytest.mark.parametrize(
    "key", [pytest.param(k, marks=[] if k == "methods.dm.beta_eff" else [pytest.mark.slow]) for k in OF_TRANSFER]
)
def test_a_change_of_the_transfer_studys_params_touches_exactly_its_stages(transfer, transfer_stale, key):
    value, expected = OF_TRANSFER[key]
    path = transfer.folder / "transfer/params.yaml"
    original = path.read_text()
    try:
        transfer.edit({key: value})
        assert changed(transfer) - transfer_stale == (expected | {"params"}) - transfer_stale
    finally:
        path.write_text(original)


def test_below_a_method_of_the_transfer_study_are_its_runs_alone(transfer_repo):
    import networkx

    stages = {stage.name: stage for stage in transfer_repo.index.stages}
    below = {stage.name for stage in networkx.ancestors(transfer_repo.index.graph, stages["train@robust_dm"])}
    assert below == {"verdicts@robust_dm", "likeness", "transfer_tables"}


def test_the_committed_lock_of_the_transfer_study_belongs_to_the_committed_code_and_params(transfer, transfer_stale):
    assert not transfer_stale
    assert "Data and pipelines are up to date." in transfer.dvc("repro", "--allow-missing", "--dry")

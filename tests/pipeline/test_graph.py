"""dvc.yaml against params.yaml and the code: what reruns when a number, a comment or a method's file is edited."""

import functools
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
import ruamel.yaml
from click.testing import CliRunner
from dvc.repo import Repo
from dvc.utils.serialize import load_yaml

from stages import code
from tests.checkout import ROOT, Checkout
from tests.conftest import parsed
from zsr import scratch
from zsr.params import read

PARAMS = parsed(ROOT / "params.yaml")
METHODS, ATTACKS, SETS = list(PARAMS["methods"]), list(PARAMS["attacks"]), list(PARAMS["data"]["sets"])
TRAIN = {f"train@{m}" for m in METHODS}
EVALUATE = {f"evaluate@{m}-{a}" for m in METHODS for a in ATTACKS}
DATA = {f"data@{s}" for s in SETS}
TEXT = {f"text_embeddings@{s}" for s in SETS}
MEASURES = {"eps_sweep@pgd", "attention@things"}
STUDIES = sorted(path.name for path in (ROOT / "studies").iterdir())
RUN = [path.parent.relative_to(ROOT).as_posix() for path in ROOT.glob("**/dvc.lock") if ".git" not in path.parts]


def status(folder: Path) -> dict[str, list]:
    """What `dvc status` says of each stage that is not as the lock has it."""
    with Repo(str(folder)) as repo:
        return {stage.rpartition(":")[2]: entries for stage, entries in repo.status().items()}


def changed(said: dict[str, list], kind: str = "changed deps") -> set[str]:
    """Stages whose params, code or, of kind "changed outs", results are not as the lock has them.

    Data that is absent from the checkout does not count.
    """
    found = set()
    for stage, entries in said.items():
        told = [entry.get(kind, {}) for entry in entries if isinstance(entry, dict)]
        if any(state not in ("deleted", "not in cache") for states in told for state in states.values()):
            found.add(stage)
    return found


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    return Checkout(tmp_path_factory.mktemp("graph"))


@pytest.fixture(scope="module")
def graph():
    """The graph of the root's study."""
    with Repo(str(ROOT)) as repo:
        yield repo.index


@pytest.mark.parametrize("study", STUDIES)
def test_every_study_has_the_same_graph_and_a_project_of_its_own(study):
    folder = ROOT / "studies" / study
    assert (folder / "dvc.yaml").read_bytes() == (ROOT / "dvc.yaml").read_bytes()
    assert "dir = ../../../.dvc/cache" in (folder / ".dvc/config").read_text()
    assert (folder / ".dvcignore").read_bytes() == (ROOT / ".dvcignore").read_bytes()


def test_the_graph_and_its_notebook_stay_small():
    assert (ROOT / "dvc.yaml").read_text().count("\n") <= 200
    lock = (ROOT / "dvc.lock").read_text()  # DVC writes it anew after every stage
    assert lock.count("\n") <= 44 * len(parsed(ROOT / "dvc.lock")["stages"])
    assert len(list((ROOT / "stages").glob("[a-z]*.py"))) <= 27


def test_dvc_reads_the_files_of_a_study_as_the_stages_do_and_by_the_fast_parser(tmp_path):
    """libyaml takes a third off every DVC command; numbers and words must be to it what they are to our own reader."""
    assert ruamel.yaml.__with_libyaml__
    odd = tmp_path / "odd.yaml"
    values = ["1e-05", "off", "010", "1_000", "8/255", "0x10", "12:30", "~", "1e5", ".5", "'é{}'", "{a: [b]}", "null"]
    odd.write_text("\n".join(f"k{i}: {value}" for i, value in enumerate(values)))
    paths = (odd, *ROOT.glob("*.yaml"), *ROOT.glob("studies/*/*.yaml"), ROOT / "zsr/data/registry.yaml")
    for path in {path.read_bytes(): path for path in paths}.values():  # dvc.yaml is the same in all studies
        assert load_yaml(path) == parsed(path) == read(path), path


def test_what_a_stage_depends_on_is_the_output_of_another():
    """Of all stages of the text, also of those that the root has none of, such as `defend`."""
    listed = {name: stage.get("do", stage) for name, stage in read(ROOT / "dvc.yaml")["stages"].items()}
    outs = [next(iter(out)) if isinstance(out, Mapping) else out for s in listed.values() for out in s.get("outs", [])]
    cell = r"\$\{.*?\}"
    for name, stage in listed.items():
        for dep in (re.sub(cell, "x", dep) for dep in stage.get("deps", []) if dep.startswith("data")):
            made = [re.sub(cell, "[a-z0-9_]+", out) for out in outs]  # names of cells have no dot
            known = any(out.startswith(dep + "/") or re.match(f"{out}(/|$)", dep) for out in made)
            assert known, f"{name} depends on {dep}, which no stage makes"


def test_no_stage_lists_a_source_file(graph):
    listed = {(stage.name, dep.def_path) for stage in graph.stages for dep in stage.deps}
    assert {path for name, path in listed if path.endswith(".py")} == set()
    sources = {"extensions", "params.yaml", "requirements.txt", "stages", "zsr"}
    assert {path for name, path in listed if name == "code"} == sources
    for stage in graph.stages:
        assert stage.name == "code" or "code.yaml" in {dep.def_path for dep in stage.deps}, stage.name


def moved(folder: Path) -> dict[str, set[str]]:
    """Stage -> the files of its inputs and outputs that its lock has otherwise; keys that are gone do not count."""
    document = functools.cache(lambda name: parsed(folder / name))
    found = {}
    for stage, entry in parsed(folder / "dvc.lock")["stages"].items():
        others = {name for name, keys in entry.get("params", {}).items() if not agree(document(name), keys)}
        listed = [item for kind in ("deps", "outs") for item in entry.get(kind, [])]
        found[stage] = others | {item["path"] for item in listed if md5(folder / item["path"]) not in ("", item["md5"])}
    return found


def agree(document: dict, keys: Mapping[str, object]) -> bool:
    """Has the document these values at these dotted keys, as far as it has the keys?"""
    for key, value in keys.items():
        block: object = document
        for part in key.split("."):
            block = block.get(part, value) if isinstance(block, dict) else value
        if block != value:
            return False
    return True


@functools.cache
def md5(path: Path) -> str:
    """The hash that DVC gives a file or a folder of the project; "": neither is there, or the folder lacks files."""
    if path.is_file():
        return hashlib.md5(path.read_bytes()).hexdigest()
    inside = sorted((p.relative_to(path).parts, p) for p in path.rglob("*") if p.is_file())
    tree = [{"md5": md5(p), "relpath": "/".join(parts)} for parts, p in inside]
    return hashlib.md5(json.dumps(tree, sort_keys=True).encode()).hexdigest() + ".dir" if tree else ""


@pytest.mark.parametrize("scale", RUN)
def test_every_lock_in_git_has_the_hashes_of_the_results_and_the_numbers_of_params(scale):
    """Of a study in studies/ the code alone may be newer than its last run."""
    for stage, paths in moved(ROOT / scale).items():
        assert paths <= {"code.yaml"} or stage in ("code", "check"), stage  # these two read all of params.yaml


@pytest.fixture(scope="module")
def committed(checkout):
    """What `dvc status` says of a study as it is in git."""
    return functools.cache(lambda scale: status(checkout.folder / scale))


@pytest.mark.parametrize("scale", [pytest.param(r, marks=[] if r == "." else [pytest.mark.slow]) for r in RUN])
def test_the_results_in_git_are_those_of_the_lock_and_of_the_numbers_in_params(committed, scale):
    """Of a study in studies/ the code and the text of the graph alone may be newer than its last run.

    A dependency that the lock does not know is of a newer graph. One that the lock has otherwise is of other numbers.
    """
    said = committed(scale)
    assert changed(said, "changed outs") <= {"code"}
    for stage, entries in said.items():
        deps = [entry.get("changed deps", {}) for entry in entries if isinstance(entry, dict)]
        moved = {path for states in deps for path, state in states.items() if state not in ("deleted", "new")}
        assert stage in ("code", "check") or moved <= {"code.yaml"}, stage  # these two read all of params.yaml


def test_the_committed_lock_belongs_to_the_committed_code_and_params(committed):
    assert not changed(committed("."))
    assert not [stage for stage, entries in committed(".").items() if "always changed" in entries]


@pytest.mark.slow
def test_of_what_is_committed_a_run_would_repeat_nothing(checkout, monkeypatch):
    monkeypatch.chdir(checkout.folder)
    with Repo(str(checkout.folder)) as repo:
        assert repo.reproduce(allow_missing=True, dry=True) == []


OWN = {  # of every method, a key of its block and another value
    "ft_clean": ("duplicate_negatives", False),
    "ft_adv": ("duplicate_negatives", False),
    "fare": ("features", "unit"),
    "pmg_aft": ("kl_reduction", "batchmean"),
    "vision_attention": ("map_gradient", "second_order"),
    "comp_tga": ("train.attack.fixed_noise", False),
    "embedding_anchor": ("lambda_adv", 2.0),
}
CHANGES = {  # a change of params.yaml -> the stages that `dvc status` then calls changed, besides code and check
    "method.lambda_ar": (0.1, {"train@tga_zsr"}),
    **{f"methods.{m}.{key}": (value, {f"train@{m}"}) for m, (key, value) in OWN.items()},
    "methods.tecoa.train": ({"lr": 0.002}, {"train@tecoa"}),
    "seeds": ([0, 1], TRAIN | {"start"}),
    "attacks.pgd.n_iter": (30, {e for e in EVALUATE if e.endswith("-pgd")} | MEASURES),
    "train.lr": (0.001, TRAIN | {"start"}),
    "train.attack.eps": ("4/255", TRAIN | {"start", "figures", "report"}),
    "evaluate.seed": (1, EVALUATE | MEASURES),
    "evaluate.protocol": ("published", EVALUATE | MEASURES),
    "protocols.published.attacks.pgd.reduction": ("sum", set()),  # of the protocol that is not in force
    "base_model.epochs": (5, {"base_model", "download_base"}),
    "data.template": ("a picture of {}", TEXT),
    "data.sets.letters.test": (90, {"data@letters", "download@letters"}),
    "data.seed": (1, DATA),
    "data.image_size": (24, DATA | {"base_model"}),
    "data.controls": (["textures"], set()),  # it changes data/study.json, which collect depends on
    "model.arch": ("ViT-B-32", TRAIN | EVALUATE | MEASURES | TEXT | {"base_model", "download_base", "start"}),
    "threads": (2, TRAIN | EVALUATE | MEASURES | TEXT | {"start"}),
    "base_model.threads": (1, {"base_model", "download_base"}),
    "attacks.cw.kappa": (1, {e for e in EVALUATE if e.endswith("-cw")}),
    "attention.things.shown": (4, {"attention@things", "report"}),
    "eps_sweep.pgd.images": (20, {"eps_sweep@pgd", "figures", "report"}),
    "name": ("other", {"tables", "figures", "report", "attention@things"}),
    "tables": (["accuracy"], {"tables", "report"}),
}


def test_every_change_is_one():
    for key, (value, _) in CHANGES.items():
        block = PARAMS
        for part in key.split("."):
            block = block.get(part, {})
        assert block != value, key


@pytest.mark.slow
@pytest.mark.parametrize("key", CHANGES)
def test_a_change_of_params_touches_exactly_its_stages(checkout, kept, key):
    value, expected = CHANGES[key]
    kept("params.yaml")
    checkout.edit({key: value})
    assert changed(status(checkout.folder)) == expected | {"code", "check"}


@pytest.fixture
def kept(checkout):
    """Puts files of the checkout back after a test has edited them."""
    originals: dict[Path, str] = {}

    def keep(name: str) -> Path:
        path = checkout.folder / name
        originals.setdefault(path, path.read_text())
        return path

    yield keep
    for path, text in originals.items():
        path.write_text(text)


@pytest.fixture
def edited(checkout, kept, monkeypatch):
    """Edits files, runs the stage `code`, and returns the keys of code.yaml that change. An edit: (name, old, new)."""
    monkeypatch.chdir(checkout.folder)
    for name in ("code_digest", "closure"):  # of this checkout, in this process
        real = getattr(scratch, name)
        monkeypatch.setattr(scratch, name, functools.partial(_in, checkout.folder, real))

    def edit(*edits: tuple[str, str, str]) -> set[str]:
        digests = kept("code.yaml")
        before = flat(digests)
        for name, old, new in edits:
            path = kept(name)
            assert old in path.read_text()
            path.write_text(path.read_text().replace(old, new, 1))
        CliRunner().invoke(code.main, [], catch_exceptions=False)
        after = flat(digests)
        return {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}

    return edit


def _in(folder, function, modules, root=None, **given):
    return function(modules, root=folder, **given)


def flat(path: Path) -> dict[str, str]:
    """The digests of a code.yaml by dotted keys."""
    groups = {key: value if isinstance(value, dict) else {"": value} for key, value in read(path).items()}
    return {f"{key}.{cell}".rstrip("."): digest for key, group in groups.items() for cell, digest in group.items()}


def test_an_edit_reruns_what_runs_the_edited_file_or_reads_the_number_alone(edited, checkout, kept):
    """A comment nothing, a method its own training, an attack its evaluations, a table the tables; so does a number."""
    comments = (
        ("zsr/files.py", "import csv\n", "import csv  # comma-separated values\n\n\n"),
        ("zsr/methods/fare.py", '"""FARE: ', '"""FARE, '),
    )
    assert edited(*comments) == set()
    code = (
        ("zsr/methods/fare.py", "self._shift(", "0.0 + self._shift("),
        ("zsr/attacks/cw.py", '"CW as PGD"', '"CW by PGD"'),
        ("zsr/reports/comparison.py", 'AVERAGE = "average"', 'AVERAGE = "mean"'),
    )
    assert edited(*code) == {"train.fare", "evaluate.cw", "tables"}
    kept("params.yaml")
    checkout.edit({key: CHANGES[key][0] for key in ("method.lambda_ar", "attacks.pgd.n_iter")})
    of_code = {"code", "train@fare", "tables"} | {stage for stage in EVALUATE if stage.endswith("-cw")}
    of_params = {"check"} | CHANGES["method.lambda_ar"][1] | CHANGES["attacks.pgd.n_iter"][1]
    assert changed(status(checkout.folder)) == of_code | of_params


def test_a_row_added_is_in_the_graph_and_its_code_has_a_digest(checkout, kept, monkeypatch):
    kept("params.yaml")
    monkeypatch.chdir(checkout.folder)
    checkout.edit({"methods.tecoa_two": {"section": "methods.tecoa_two", "module": "tecoa"}})
    with Repo(str(checkout.folder)) as repo:
        listed = {stage.name for stage in repo.index.stages}
        said = {stage.rpartition(":")[2]: entries for stage, entries in repo.status(["code", "check", "train"]).items()}
    assert {"train@tecoa_two", *(f"evaluate@tecoa_two-{a}" for a in ATTACKS)} <= listed
    assert changed(said) == {"code", "check", "train@tecoa_two"}


def test_all_that_follows_from_the_method_under_study(graph):
    """What `dvc exp run -S method.lambda_ar=0.1` may run: its training and what stands below it, nothing beside."""
    import networkx

    stages = {stage.name: stage for stage in graph.stages}
    below = {stage.name for stage in networkx.ancestors(graph.graph, stages["train@tga_zsr"])}
    evaluations = {f"evaluate@tga_zsr-{attack}" for attack in ATTACKS}
    assert below == evaluations | MEASURES | {"collect", "tables", "figures", "report"}


def test_expensive_outputs_can_come_from_the_run_cache(graph):
    """`cache: false` on an output other than a metric or plot, or `persist`, switches a stage's run-cache off."""
    kept = ("base_model", "start", "train", "evaluate", "text_embeddings", "data", "download")
    for stage in graph.stages:
        if stage.name.partition("@")[0] in kept:
            assert all((out.use_cache or out.metric or out.plot) and not out.persist for out in stage.outs), stage.name


def test_stages_write_what_dvc_yaml_names():
    """The paths of stages/command.py and those of dvc.yaml are the same."""
    from stages import command

    text = (ROOT / "dvc.yaml").read_text()
    for name in ("CODE", "CATALOGUE", "DOWNLOADS", "BASE_WEIGHTS", "SETS", "BASE_MODEL", "TEXT_EMBEDDINGS",
                 "STARTS", "CHECKPOINTS", "RECORDS", "METRICS", "CURVES", "RESULTS"):  # fmt: skip
        assert re.search(rf"[\s\[\"]{re.escape(str(getattr(command, name)))}[\s/,:\]\"]", text), name

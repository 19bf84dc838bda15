"""dvc.yaml against the code and params.yaml: nothing a stage reads is missing from it, nothing else reruns it."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.pipeline import ROOT, Checkout
from zsr.params import read

ABLATION = read(ROOT / "ablation/params.yaml")
TWINS = read(ROOT / "twins/params.yaml")
READ = {  # what modules read besides what they import
    "zsr/models/clip.py": "zsr/models/configs",
    "zsr/study.py": "zsr/models/configs",
    "zsr/data/registry.py": "zsr/data/registry.yaml",
    "zsr/data/prompts.py": "zsr/data/classnames",
}
DYNAMIC = {"finetune": "zsr/methods/{}.py", "data": "zsr/data/sets/{}.py", "evaluate": "zsr/attacks/{}.py"}
PARAMS = read(ROOT / "params.yaml")
METHODS, ATTACKS, SETS = list(PARAMS["methods"]), list(PARAMS["attacks"]), list(PARAMS["data"]["sets"])
COMPUTING = {"base_model", "text_embeddings", "attention", "eps_sweep"}
FINETUNE = {f"finetune@{m}" for m in METHODS}
EVALUATE = {f"evaluate@{m}-{a}" for m in METHODS for a in ATTACKS}
DATA = {f"data@{s}" for s in SETS}
TRAININGS = {f"variant_training@{v}" for v in ABLATION["variants"]}
VERDICTS = {f"variant_verdicts@{v}" for v in ABLATION["variants"]}
TABLES = {"ablation_tables"}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    return Checkout(tmp_path_factory.mktemp("graph"))


@pytest.fixture
def repo(checkout):
    from dvc.repo import Repo

    with Repo(str(checkout.folder)) as opened:
        yield opened


def closure(seeds: set[str]) -> set[str]:
    """Files of the project that Python files import, directly or not; empty package files carry nothing."""
    seen, queue = set(), list(seeds)
    while queue:
        path = queue.pop()
        if path in seen or not (ROOT / path).is_file() or path.endswith("__init__.py"):
            continue
        seen.add(path)
        queue += _imported(path)
    return seen | {path for reader, path in READ.items() if reader in seen}


def modules(numbers, method: str) -> set[str]:
    """Files of a method of some params, and of the base that it may carry."""
    row = numbers["methods"][method]
    names = {row.get("module", method)} | {row["base"]["module"]} if "base" in row else {row.get("module", method)}
    return {f"zsr/methods/{name}.py" for name in names}


@cache
def _imported(path: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        names = []
        if isinstance(node, ast.ImportFrom):
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found += [name.replace(".", "/") + ".py" for name in names if name.split(".")[0] in ("zsr", "stages")]
    return found


def needed(stage) -> set[str]:
    """Code that a stage of dvc.yaml reads: the closure of its command and of the module its item names."""
    command = re.search(r"python -m (\S+)", stage.cmd).group(1).replace(".", "/") + ".py"
    group, _, item = stage.name.partition("@")
    seeds = {command}
    if group in ("reference", "grid", "choice"):
        seeds |= modules(TWINS, item.partition("-")[0])
    if group == "choice":
        seeds.add(f"zsr/attacks/{TWINS['chosen_by']}.py")
    if group == "variant_training":
        seeds.add(f"zsr/methods/{ABLATION['variants'][item]['method']}.py")
    if group == "variant_verdicts":
        seeds.add(f"zsr/attacks/{ABLATION['attack']}.py")
    if group in DYNAMIC:
        seeds.add(DYNAMIC[group].format(item.rpartition("-")[2] if group == "evaluate" else item))
        assert (ROOT / max(seeds)).is_file()
    if group in ("attention", "eps_sweep"):
        seeds.add(f"zsr/attacks/{PARAMS[group]['attack']}.py")
    return closure(seeds)


def code_deps(stage) -> set[str]:
    paths = {dep.def_path.removeprefix("../") for dep in stage.deps}
    return {path for path in paths if path.split("/")[0] in ("zsr", "stages")}


def covered(path: str, deps: set[str]) -> bool:
    """Is a path among the deps, or in a folder that is?"""
    return any(path == dep or path.startswith(f"{dep}/") for dep in deps)


def test_every_file_that_a_stage_imports_is_among_its_deps(repo):
    assert len(repo.index.stages) == 10 + len(DATA | FINETUNE | EVALUATE | TRAININGS | VERDICTS)
    for stage in repo.index.stages:
        deps = code_deps(stage)
        missing = {path for path in needed(stage) if not covered(path, deps)}
        assert not missing, f"{stage.name} imports {sorted(missing)}"


def test_no_group_of_stages_lists_code_that_none_of_it_reads(repo):
    groups: dict[tuple, tuple[set, set]] = {}
    for stage in repo.index.stages:
        deps, read_by = groups.setdefault((stage.path_in_repo, stage.name.partition("@")[0]), (set(), set()))
        deps |= code_deps(stage)
        read_by |= needed(stage)
    public = {f"zsr/data/sets/{name}.py" for name in read(ROOT / "paper/params.yaml")["data"]["sets"]}
    groups["dvc.yaml", "data"][1].update(closure(public))
    for group, (deps, read_by) in groups.items():
        unused = {dep for dep in deps if not any(covered(path, {dep}) for path in read_by)}
        assert not unused, f"{group} lists {sorted(unused)}"


OWN = {  # of every method, a key of its block and another value
    "ft_clean": ("duplicate_negatives", False),
    "ft_adv": ("duplicate_negatives", False),
    "fare": ("features", "unit"),
    "pmg_aft": ("kl_reduction", "batchmean"),
    "vision_attention": ("map_gradient", "second_order"),
    "comp_tga": ("train.attack.fixed_noise", False),
    "embedding_anchor": ("lambda_adv", 2.0),
}


def variants(*sections) -> set[str]:
    """Variants of the ablation that read one of these blocks of params.yaml."""
    return {f"variant_training@{name}" for name, v in ABLATION["variants"].items() if v["section"] in sections}


CHANGES = {  # a change of params.yaml -> the stages that `dvc status` then calls changed, besides the params check
    "method.lambda_ar": (0.1, {"finetune@tga_zsr"} | variants("method")),
    **{
        f"methods.{m}.{key}": (
            value,
            {f"finetune@{m}", "collect", "figures", "attention", "eps_sweep"} | variants(f"methods.{m}"),
        )
        for m, (key, value) in OWN.items()
    },
    "methods.tecoa.train": ({"lr": 0.002}, {"finetune@tecoa", "collect", "figures", "attention", "eps_sweep"}),
    "seeds": ([0, 1], FINETUNE),
    "attacks.pgd.n_iter": (
        30,
        {e for e in EVALUATE if e.endswith("-pgd")} | {"collect", "attention", "eps_sweep"} | VERDICTS,
    ),
    "train.lr": (0.002, FINETUNE | TRAININGS),
    "train.attack.eps": ("4/255", FINETUNE | TRAININGS),
    "evaluate.seed": (1, EVALUATE | {"attention", "eps_sweep"} | VERDICTS),
    "evaluate.batch_size": (50, EVALUATE | VERDICTS),
    "evaluate.protocol": ("published", EVALUATE | VERDICTS | {"eps_sweep"}),
    "protocols.published.attacks.pgd.reduction": ("sum", VERDICTS),  # of the study's evaluations none takes it now
    "base_model.epochs": (5, {"base_model"}),
    "data.template": ("a picture of {}", {"text_embeddings", "collect"} | TABLES),
    "data.sets.letters.test": (
        100,
        {"data@letters", "text_embeddings", "collect", "eps_sweep"} | EVALUATE | VERDICTS | TABLES,
    ),
    "data.sets.shapes.train": (
        2000,
        {"data@shapes", "text_embeddings", "collect", "eps_sweep"} | EVALUATE | VERDICTS | TABLES,
    ),
    "data.seed": (1, DATA | {"collect"} | TABLES),
    "data.image_size": (32, DATA | {"base_model", "collect"} | TABLES),
    "data.controls": (["colours", "textures"], {"collect"} | TABLES),
    "model.arch": ("ViT-B-32", COMPUTING | FINETUNE | EVALUATE | TRAININGS | VERDICTS),
    "threads": (1, COMPUTING | FINETUNE | EVALUATE | TRAININGS | VERDICTS),
    "attacks.cw.kappa": (1, {e for e in EVALUATE if e.endswith("-cw")} | {"collect"}),
    "attention.columns": (4, {"attention"}),
    "eps_sweep.images": (20, {"eps_sweep"}),
    "name": ("other", {"tables", "figures", "attention", "eps_sweep"}),
}


def changed(checkout) -> set[str]:
    """Stages whose params or code `dvc status` calls changed; data that is absent from the checkout does not count."""
    from dvc.repo import Repo

    found = set()
    with Repo(str(checkout.folder / checkout.scale)) as repo:
        for stage, entries in repo.status().items():
            deps = [entry.get("changed deps", {}) for entry in entries if isinstance(entry, dict)]
            if any(state != "deleted" for states in deps for state in states.values()):
                found.add(stage.rpartition(":")[2])
    return found


def test_the_committed_lock_belongs_to_the_committed_code_and_params(checkout, stale):
    """The ablation takes an hour: its code may be older than the rest, see test_ablation; its numbers may not."""
    assert stale <= TRAININGS | VERDICTS | TABLES
    assert "Data and pipelines are up to date." in checkout.dvc("repro", "--allow-missing", "--dry")


def test_the_ablation_was_run_with_the_committed_numbers(checkout):
    from dvc.repo import Repo

    with Repo(str(checkout.folder)) as repo:
        states = [
            state
            for stage, entries in repo.status().items()
            if stage.startswith("ablation")
            for entry in entries
            if isinstance(entry, dict)
            for path, states in entry.get("changed deps", {}).items()
            if path.endswith("params.yaml")
            for state in states.values()
        ]
    assert "modified" not in states  # a key that is new had no other value then


@pytest.fixture(scope="module")
def stale(checkout):
    """Stages that are out of date before any change: none, unless code was edited and not run yet."""
    return changed(checkout)


EVERY_DAY = ("method.lambda_ar", "train.lr")  # each costs many seconds; others are slow


@pytest.mark.parametrize("key", [pytest.param(k, marks=[] if k in EVERY_DAY else [pytest.mark.slow]) for k in CHANGES])
def test_a_change_of_params_touches_exactly_its_stages(checkout, stale, key):
    value, expected = CHANGES[key]
    original = (checkout.folder / "params.yaml").read_text()
    try:
        checkout.edit({key: value})
        assert changed(checkout) - stale == (expected | {"params"}) - stale
    finally:
        (checkout.folder / "params.yaml").write_text(original)


def test_an_edited_method_touches_its_own_training_only(checkout, stale):
    path = checkout.folder / "zsr/methods/tecoa.py"
    original = path.read_text()
    try:
        path.write_text(original + "# edited\n")
        assert changed(checkout) - stale == {"finetune@tecoa"} - stale  # no variant is TeCoA's own file
    finally:
        path.write_text(original)


def test_all_that_follows_from_the_method_under_study(repo):
    """What `dvc exp run -S method.lambda_ar=0.1` may run: its training and what stands below it, nothing beside."""
    import networkx

    stages = {stage.name: stage for stage in repo.index.stages if stage.path_in_repo == "dvc.yaml"}
    below = {stage.name for stage in networkx.ancestors(repo.index.graph, stages["finetune@tga_zsr"])}
    evaluations = {f"evaluate@tga_zsr-{attack}" for attack in ATTACKS}
    assert below == evaluations | {"attention", "collect", "eps_sweep", "figures", "tables"}


@pytest.mark.slow
def test_a_comment_reruns_the_check_alone(checkout, stale):
    path = checkout.folder / "params.yaml"
    original = path.read_text()
    try:
        path.write_text("# a comment\n" + original)
        assert changed(checkout) - stale == {"params"} - stale
    finally:
        path.write_text(original)


def test_expensive_outputs_can_come_from_the_run_cache(repo):
    """`cache: false` on an output other than a metric or plot, or `persist`, switches a stage's run-cache off."""
    for stage in repo.index.stages:
        if stage.name.partition("@")[0] in (
            "base_model",
            "finetune",
            "evaluate",
            "text_embeddings",
            "data",
            "variant_training",
            "variant_verdicts",
        ):
            assert all((out.use_cache or out.metric or out.plot) and not out.persist for out in stage.outs), stage.name


def test_no_path_is_said_twice(repo):
    """dvc.yaml hands every path to the command; stages hard-code none."""
    outs = {out.def_path for stage in repo.index.stages for out in stage.outs if "/" in out.def_path}
    for path in (ROOT / "stages").glob("*.py"):
        assert not [out for out in outs if out in Path(path).read_text()], path

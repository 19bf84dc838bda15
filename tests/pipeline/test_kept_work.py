"""The key of kept work: whatever a stage of dvc.yaml depends on changes it, and a stage reads nothing else.

Stages are run up to the moment at which they ask for their kept work.
"""

import json
from importlib import import_module
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from tests.conftest import ROOT, parsed
from tests.prepared_sets import write_index
from zsr import files, scratch, study
from zsr.data.sources import make
from zsr.evaluation.results import CLEAN
from zsr.params import ParamError, StudyError

SMALL = {"threads": 2, "data.sets": {"shapes": {"train": 24, "test": 12}, "letters": {"train": 0, "test": 12}}}
VALUES = [  # what a text may become; the first that the check accepts is taken
    "sgd", "bf16", "tf32", "mean", "last", "adv", "features", "auto", "zsr-tiny-rn", "other", "letters", "any",
    "resize_minmax", "rms", "unit",
]  # fmt: skip
POINTERS = ("section", "module", "start", "attack")  # texts that say where numbers are
FIGURE = ("attention.shapes.methods", "attention.shapes.shown")  # what a figure shows of the work, and no more
STAGES = {  # stage, its arguments -> the blocks of params.yaml that dvc.yaml lists for it
    ("base_model",): ["base_model", "data.image_size", "model"],
    ("train", "tecoa"): ["compute", "grid", "methods.tecoa", "model", "seeds", "threads", "train"],
    ("train", "tga_zsr"): ["method"],
    ("train", "fare"): ["methods.fare"],  # with numbers of training of its own
    ("evaluate", "tecoa", "pgd"): ["attacks.pgd", "compute", "evaluate", "model", "protocols.trusted", "threads"],
    ("eps_sweep", "pgd"): ["attacks.pgd", "compute", "eps_sweep.pgd", "evaluate", "model", "threads"],
    ("attention", "shapes"): ["attacks.pgd", "attention.shapes", "compute", "evaluate", "model", "threads"],
}


class Tracked(dict):
    """params.yaml, which notes the keys that are read of it."""

    def __init__(self, content: dict, seen: set, at: str = ""):
        super().__init__({k: Tracked(v, seen, f"{at}{k}.") if isinstance(v, dict) else v for k, v in content.items()})
        self.seen, self.at = seen, at

    def __getitem__(self, key):
        self.seen.add(f"{self.at}{key}")
        return super().__getitem__(key)

    def items(self):
        self.seen |= {f"{self.at}{key}" for key in self}
        return super().items()


@pytest.fixture
def folder(tmp_path, monkeypatch, clip_model):
    """A folder of a small study whose data are there, and the stages' scratch folder."""
    from zsr.models import clip

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZSR_SCRATCH", str(tmp_path / "scratch"))
    for name, size in SMALL["data.sets"].items():
        for split, n in size.items():
            if n:
                make(name, split, n, 0, 24).save(Path(f"data/sets/{name}/{split}.safetensors"), placed=True)
        text = Path(f"data/text_embeddings/{name}/0.safetensors")
        rows = len(make(name, "test", 1, 0, 24).classnames)
        files.save_tensors(text, {"text_embeddings": torch.eye(48)[:rows]}, {"wording": "w"}, placed=True)
    data = tmp_path / "data"
    write_index(data / "sets", data / "text_embeddings", SMALL["data.sets"])
    clip.save(Path("data/base_model/0.safetensors"), clip_model, "zsr-tiny", placed=True)
    for method in ("tecoa", "tga_zsr"):
        clip.save(Path(f"data/checkpoints/{method}/0.safetensors"), clip_model, "zsr-tiny", placed=True)
    catalogue = dict.fromkeys(("attacks", "bases", "groups", "judged", "sets"), {}) | {"methods": {"tecoa": {}}}
    files.write_kept(tmp_path / "data/study.json", "study", catalogue)
    return tmp_path


@pytest.fixture
def document() -> dict:
    """A small study of two sets, four methods and one attack."""
    changed = parsed(ROOT / "params.yaml")
    changed["data"] |= {"sets": SMALL["data.sets"], "source": "shapes", "start_source": "shapes", "controls": []}
    changed["methods"] = {name: changed["methods"][name] for name in ("clip", "tecoa", "tga_zsr", "fare")}
    changed["attacks"] = {"pgd": changed["attacks"]["pgd"] | {"success": "last"}}  # which goes with every other number
    changed["protocols"] = {"trusted": {}, "other": {}}
    changed["attention"] = {"shapes": {"attack": "pgd", "methods": ["clip"], "shown": 2, "images": 6}}
    changed["evaluate"]["workers"] = 1
    return changed


def asked(stage: tuple[str, ...], document: dict, monkeypatch, seen: set | None = None) -> str:
    """The key of the first kept work that a stage asks for."""
    found = []

    def stop(task, code):
        found.append(real(task, code))
        raise StudyError("enough")

    real = scratch.key
    with monkeypatch.context() as patch:
        patch.setattr(scratch, "key", stop)
        patch.setattr("stages.command.read", lambda path: Tracked(document, set() if seen is None else seen))
        result = CliRunner().invoke(import_module(f"stages.{stage[0]}").main, list(stage[1:]))
    assert found, result.output
    return found[0]


def leaves(block, at: str) -> list[str]:
    if not isinstance(block, dict):
        return [at]
    return [leaf for key, value in block.items() for leaf in leaves(value, f"{at}.{key}")]


def get(document: dict, key: str):
    for part in key.split("."):
        document = document[part]
    return document


def with_value(document: dict, key: str, value) -> dict:
    changed = json.loads(json.dumps(document))
    *parents, last = key.split(".")
    get(changed, ".".join(parents))[last] = value if parents else value
    return changed


def others(value) -> list:
    """Values that a key may take instead."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, (int, float)):
        return [value + 1, value / 2, 1 - value]
    if isinstance(value, list):
        return [[*value[:-1], other] for other in others(value[-1])] + [[*value, 7]]
    if "/" in value:
        return ["1/255", "2/255", "30/255"]
    return [other for other in VALUES if other != value]


def changed(document: dict, key: str, monkeypatch) -> dict:
    """The document with another value at the key, one that the check accepts where there is any."""
    for value in others(get(document, key)):
        candidate = with_value({"": document}, f".{key}", value)[""]
        try:
            with monkeypatch.context() as patch:
                patch.setattr(study, "read", lambda path, candidate=candidate: candidate)
                study.check("params.yaml")
        except ParamError:
            continue
        return candidate
    return with_value({"": document}, f".{key}", others(get(document, key))[0])[""]  # none fits the other numbers


@pytest.mark.parametrize("stage", STAGES, ids="-".join)
def test_every_number_that_a_stage_depends_on_changes_its_key(stage, folder, document, monkeypatch):
    before = asked(stage, document, monkeypatch)
    assert asked(stage, document, monkeypatch) == before
    keys = [leaf for block in STAGES[stage] for leaf in leaves(get(document, block), block)]
    for key in (key for key in keys if key.rpartition(".")[2] not in POINTERS):
        if key == "model.arch" or key.startswith("model.") and stage[0] != "base_model":
            continue  # weights are of one arch; test_another_model_is_another_key
        if key == "attacks.pgd.success" and stage[0] == "attention":
            continue  # maps show images after all steps
        if key in FIGURE:
            continue
        assert asked(stage, changed(document, key, monkeypatch), monkeypatch) != before, key


@pytest.mark.parametrize("stage", STAGES, ids="-".join)
def test_a_stage_reads_no_number_that_dvc_yaml_does_not_list(stage, folder, document, monkeypatch):
    from ruamel.yaml import YAML

    seen: set[str] = set()
    asked(stage, document, monkeypatch, seen)
    found = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"][stage[0]]
    listed = [key for key in found.get("do", found)["params"] if isinstance(key, str)]
    own = {"${key}": stage[-1], "${item.attack}": "pgd"}
    own |= {"${item.section}": "method", "${evaluate.protocol}": "trusted"}
    for slot, name in own.items():
        listed = [key.replace(slot, name) for key in listed]
    listed += ["launcher", "shared", "data.source"]  # how processes start; names of sections; a part of paths in deps
    listed += ["protocols.other"]  # read for its name alone
    listed += ["evaluate.save_every", "evaluate.workers"]  # how work is shared out: they change rounding alone
    for key in seen:
        assert any(key == one or key.startswith(f"{one}.") or one.startswith(f"{key}.") for one in listed), key


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage[0] != "base_model"], ids="-".join)
def test_the_contents_of_every_input_change_the_key(stage, folder, document, monkeypatch):
    before = asked(stage, document, monkeypatch)
    make("shapes", "train", 24, 1, 24).save(Path("data/sets/shapes/train.safetensors"), placed=True)
    weights = {"train": "base_model/0", "evaluate": "checkpoints/tecoa/0", "eps_sweep": "checkpoints/tecoa/0"}
    weights["attention"] = "checkpoints/tecoa/0"
    if stage[0] == "train":
        assert asked(stage, document, monkeypatch) != before
        before = asked(stage, document, monkeypatch)
    path = Path(f"data/{weights[stage[0]]}.safetensors")
    tensors, facts = files.load_tensors(path)
    files.save_tensors(path, tensors | {"logit_scale": torch.tensor(1.0)}, facts, placed=True)
    assert asked(stage, document, monkeypatch) != before
    if stage[0] != "train":  # the images that are judged, and what was made for them
        before, test = asked(stage, document, monkeypatch), Path("data/sets/shapes/test.safetensors")
        make("shapes", "test", 12, 1, 24).save(test, placed=True)
        write_index(folder / "data/sets", folder / "data/text_embeddings", SMALL["data.sets"])
        assert asked(stage, document, monkeypatch) != before


@pytest.mark.parametrize("stage", STAGES, ids="-".join)
def test_other_code_another_library_and_another_device_are_other_keys(stage, folder, document, monkeypatch):

    before = asked(stage, document, monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(scratch, "version", lambda name: "0.0")
        assert asked(stage, document, monkeypatch) != before
    with monkeypatch.context() as patch:
        patch.setattr(scratch, "_file_digest", lambda path: "edited" if path.parent.name == "stages" else "same")
        other = asked(stage, document, monkeypatch)
        patch.setattr(scratch, "_file_digest", lambda path: "same")
        assert asked(stage, document, monkeypatch) != other


def test_every_entry_of_a_mapping_in_a_task_is_in_the_key():
    base = {"module": "tecoa", "lambda": 1.0}
    changes = ({"lambda": 2.0}, {"module": "fare"}, {"more": None})
    described = {scratch.described(mapping) for mapping in (base, *(base | change for change in changes))}
    assert len(described) == 4


def test_the_device_that_auto_finds_is_in_the_key(monkeypatch):
    from dataclasses import dataclass

    from zsr.compute import Compute

    @dataclass(frozen=True)
    class Task:
        compute: Compute

    task = Task(Compute(device="auto"))
    on_cpu = scratch.key(task, "code")
    monkeypatch.setattr(Compute, "place", lambda self: torch.device("cuda"))
    assert scratch.key(task, "code") != on_cpu


# What lies in the place of kept work, or of an input, and is something else

TRAINING = "0123"


@pytest.fixture
def training(tmp_path):
    """The kept work of a finished training, with the checkpoint of its middle."""
    from zsr.training.loop import Progress, _save, facts_of_training

    folder, text = tmp_path / TRAINING, files.rows_text([{"step": 0, "loss": 1.5}, {"step": 1, "loss": 0.5}])
    files.save_tensors(folder / "tower.safetensors", {"w": torch.ones(50)}, facts_of_training(TRAINING, text))
    files.write_atomic(folder / "curve.csv", text.encode())
    files.write_kept(folder / "diverged.json", TRAINING, "the loss is not finite")
    model = torch.nn.Linear(3, 3)
    torch.nn.init.ones_(model.weight)
    _save(folder / "unfinished", model, [torch.optim.SGD(model.parameters(), 0.1)], Progress(1, [{"step": 0.0}]))
    return folder


def kept(folder, name):
    """What a training finds under a name in its folder."""
    from functools import partial

    from zsr.training.loop import _checkpoint, kept_curve

    readers = {
        "curve.csv": partial(kept_curve, folder / "tower.safetensors", folder.name),
        "diverged.json": lambda path: files.read_kept(path, folder.name),
        "unfinished": _checkpoint,
    }
    return scratch.readable(folder / name, readers[name])


def altered(content: bytes) -> bytes:
    """Four other bytes inside what was computed."""
    at = max(content.find(b"\x00\x00\x80?"), content.find(b"finite"), content.find(b"0.5"), len(content) // 2 - 60)
    return content[:at] + bytes(byte ^ 1 for byte in content[at : at + 4]) + content[at + 4 :]


@pytest.mark.parametrize(
    "name, file", [(n, n) for n in ("curve.csv", "diverged.json", "unfinished")] + [("curve.csv", "tower.safetensors")]
)
@pytest.mark.parametrize("damage", ["empty", "cut", "altered", "of another training", "gone"])
def test_kept_work_that_is_damaged_is_no_kept_work(training, capsys, name, file, damage):
    assert kept(training, name) is not None
    path, content = training / file, (training / file).read_bytes()
    path.write_bytes({"empty": b"", "cut": content[:-30], "altered": altered(content)}.get(damage, content))
    if damage == "of another training":
        training = training.rename(training.with_name("4567"))
        path = training / file
    if damage == "gone":
        path.unlink()
    assert kept(training, name) is None
    said = capsys.readouterr().err.splitlines()
    assert not (training / name).exists() and len(said) == (name != file or damage != "gone")
    moved = {line.split()[0] for line in said if "and is computed anew" in line}
    assert moved == {str(old).removesuffix(".damaged") for old in training.glob("*.damaged")}
    assert kept(training, name) is None and not capsys.readouterr().err


def test_kept_measurements_that_are_damaged_are_measured_anew(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ZSR_SCRATCH", str(tmp_path))
    rows, measured = [{"set": "shapes", "eps": "1/255", "correct": 3}], []

    def measure() -> list[dict]:
        measured.append(1)
        return rows

    for content in (None, None, b"", b"[]", b'{"task": "k", "content": [], "digest": "0"}', "of another task"):
        if content == "of another task":
            files.write_kept(tmp_path / "eps_sweep/k", "other", [])
        elif content is not None:
            (tmp_path / "eps_sweep/k").write_bytes(content)
        assert scratch.kept_json("eps_sweep", "k", measure) == rows
    assert len(measured) == 1 + 4 and len(capsys.readouterr().err.splitlines()) == 4


def relabelled(path, **changes):
    """The file of images with other arrays and its old digest."""
    arrays, facts = files.map_arrays(path)
    files.save_arrays(
        path, {name: changes.get(name, lambda x: x)(array.copy()) for name, array in arrays.items()}, facts
    )


def flipped(images):
    images[3, 1, 1, 0] ^= 1
    return images


IMAGES = {
    "labels reversed": lambda path: relabelled(path, labels=lambda labels: labels[::-1].copy()),
    "a pixel": lambda path: relabelled(path, images=flipped),
    "ids": lambda path: relabelled(path, ids=lambda ids: ids + 1),
    "names": lambda path: path.write_bytes(path.read_bytes().replace(b"circle", b"cirkle")),
    "of another split": lambda path: (
        make("shapes", "train", 12, 0, 24).save(path.with_name("train.safetensors"), True)
        or path.with_name("train.safetensors").replace(path)
    ),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "weights": lambda path: files.save_tensors(path, {"w": torch.ones(3)}),
}


@pytest.mark.parametrize("damage", IMAGES)
def test_images_that_are_not_those_of_their_digest_or_place_are_refused(tmp_path, damage):
    from zsr.data.prepared import Split

    path = tmp_path / "data/sets/shapes/test.safetensors"
    make("shapes", "test", 12, 0, 24).save(path, placed=True)
    before = path.read_bytes()
    Split.load(path)
    IMAGES[damage](path)
    assert path.read_bytes() != before
    with pytest.raises(
        StudyError, match=f"^{path} .*; run dvc checkout --force data/sets/shapes/test.safetensors, or dvc"
    ):
        Split.load(path)


EMBEDDINGS = {
    "of another set": ({}, "letters", 12),
    "not finite": ({0: torch.nan}, "shapes", 12),
    "of other classes": ({}, "shapes", 11),
}


@pytest.mark.parametrize("fault", EMBEDDINGS)
def test_text_embeddings_of_another_set_or_with_nan_are_refused(tmp_path, fault):
    from zsr.data.prepared import load_embeddings

    changes, name, classes = EMBEDDINGS[fault]
    rows, path = torch.eye(48)[:classes], tmp_path / "text_embeddings/shapes/0.safetensors"
    for row, value in changes.items():
        rows[row] = value
    files.save_tensors(tmp_path / f"text_embeddings/{name}/0.safetensors", {"text_embeddings": rows}, {}, placed=True)
    path.parent.mkdir(exist_ok=True)
    (tmp_path / f"text_embeddings/{name}/0.safetensors").replace(path)
    with pytest.raises(StudyError, match=f"^{path} "):
        load_embeddings(path, 12)


@pytest.mark.parametrize("fault", ["four bytes", "not finite", "elsewhere"])
@pytest.mark.parametrize("part", ["whole", "tower"])
def test_weights_that_are_damaged_not_finite_or_of_another_place_are_not_loaded(tmp_path, clip_model, fault, part):
    from zsr.models import clip

    path = tmp_path / "tecoa/0.safetensors"
    changed = clip_model if part == "whole" else clip_model.visual
    if fault == "not finite":
        clip_model.visual.proj.data[0, 0] = torch.inf
    files.save_tensors(path, changed.state_dict(), {"norm_stats": "clip"}, placed=True)
    if fault == "four bytes":
        content = path.read_bytes()
        path.write_bytes(content[:-400] + b"four" + content[-396:])
    if fault == "elsewhere":
        (tmp_path / "fare").mkdir()
        path = path.rename(tmp_path / "fare/0.safetensors")
    with pytest.raises(StudyError, match=f"^{path} "):
        clip.create("zsr-tiny", path) if part == "whole" else clip.load_tower(path, clip_model)


def test_a_folder_without_a_model_is_one_line(tmp_path):
    from zsr.models import heads

    (tmp_path / "0.bak.safetensors").touch()
    with pytest.raises(StudyError, match="holds no model, a file SEED.safetensors"):
        heads.first_checkpoint(tmp_path)


def test_a_stage_refuses_code_that_code_yaml_does_not_know(folder, document, monkeypatch):
    (folder / "code.yaml").write_text("train:\n  tecoa: '0123'\n")
    files.write_json(folder / "params.yaml", document)
    result = CliRunner().invoke(import_module("stages.train").main, ["tecoa"])
    assert result.exit_code == 1 and "Traceback" not in result.output
    assert "code.yaml: train.tecoa is 0123, but the code and libraries here are" in result.output
    assert CLEAN not in result.output and not (folder / "scratch").exists()

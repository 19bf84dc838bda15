"""The smallest study and the smallest inputs of commands, made once per campaign, with what commands make of them."""

import hashlib
import io
import json
import os
import random
import shutil
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.campaign import forks
from tests.campaign.forks import Ended
from tests.checkout import ROOT, put
from zsr import files

SMALL = {
    "name": "campaign",
    "threads": 1,
    "data.source": "shapes",
    "data.start_source": "shapes",
    "data.controls": [],
    "data.complete": False,
    "data.sets": {"shapes": {"train": 24, "test": 10}, "letters": {"train": 0, "test": 10}},
    "base_model.pool": 48,
    "base_model.epochs": 2,
    "base_model.batch_size": 24,
    "base_model.threads": 1,
    "base_model.warmup_steps": 1,
    "train.epochs": 2,
    "train.batch_size": 8,
    "train.save_every": 2,
    "train.warmup_steps": 1,
    "evaluate.batch_size": 4,
    "evaluate.save_every": 1,
    "attacks.pgd.n_iter": 2,
    "attacks.cw.n_iter": 2,
    "attacks.autoattack": None,
    "eps_sweep": {},
    "attention": {},
    "tables": ["accuracy", "attacks", "audit"],
    "figures": ["training"],
}
METHODS, ATTACKS, SETS = ("clip", "tecoa"), ("pgd", "cw"), ("shapes", "letters")
STAGES = (
    ("check",),
    *((stage, name) for name in SETS for stage in ("download", "data")),
    *(("download_base",), ("base_model",)),
    *(("text_embeddings", name) for name in SETS),
    ("sets",),
    *(("train", method) for method in METHODS),
    *(("evaluate", method, attack) for method in METHODS for attack in ATTACKS),
    *(("collect",), ("tables",)),
)
OUTS = {  # stage -> what DVC deletes before it runs, with the cell's names in place of {0} and {1}
    "check": ("data/params.ok", "data/study.json"),
    "download": ("data/downloads/{0}.json",),
    "data": ("data/sets/{0}",),
    "download_base": ("data/base_weights.json",),
    "base_model": ("data/base_model", "metrics/curves/base_model.csv"),
    "text_embeddings": ("data/text_embeddings/{0}",),
    "sets": ("data/sets.json",),
    "train": ("data/checkpoints/{0}", "metrics/curves/{0}"),
    "evaluate": ("data/records/{0}-{1}",),
    "collect": ("metrics/summary", "metrics/results"),
    "tables": ("tables",),
    "figures": ("figures",),
}
PUBLIC = (
    *("tiny_imagenet", "cifar100", "stl10", "sun397", "food101", "oxford_pets", "flowers102", "dtd", "eurosat"),
    *("fgvc_aircraft", "imagenet", "caltech101", "stanford_cars", "pcam"),
)
SHARDS = "shards"  # the set food101 in the form of the Hub's shards
CIFAR = "cifar10"
ARCH, TEMPLATE = "zsr-tiny-32", "a {}"


def contents(folder: Path, hidden: bool = False) -> dict[str, str]:
    """Path below the folder -> hash of the file. Hidden files are left out: no stage and no DVC looks at them."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink())
    named = ((path.relative_to(folder).as_posix(), path) for path in found)
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in named
        if hidden or not any(part.startswith(".") for part in name.split("/"))
    }


def linked(source: Path, target: Path) -> Path:
    """A copy whose files are hard links. Whoever changes one must put a new file in its place, as `replaced` does."""
    return Path(shutil.copytree(source, target, copy_function=os.link, symlinks=True))


def replaced(path: Path, content: bytes) -> None:
    """Put a new file in the place of a file."""
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def outs(stage: Sequence[str]) -> list[str]:
    return [out.format(*stage[1:]) for out in OUTS[stage[0]]]


def without_outs(study: Path, stage: Sequence[str]) -> None:
    """Delete the outputs of a stage, as DVC does before it runs the stage."""
    for out in outs(stage):
        path = study / out
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def made(study: Path, stage: Sequence[str]) -> dict[str, str]:
    """The contents of the outputs of a stage."""
    found = {}
    for out in outs(stage):
        path = study / out
        if path.is_dir():
            found |= {f"{out}/{name}": digest for name, digest in contents(path).items()}
        elif path.is_file():
            found[out] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


@dataclass
class World:
    """The inputs of all cases, below `folder`, which no case may change.

    study: a finished study. seconds: how long each of its stages ran. undisturbed: what each stage made. pictures: a
    folder of pictures in folders of classes. weights: a whole model in several forms. public: the sets of PUBLIC,
    SHARDS and CIFAR, each below a data root of its own. reference: what a command made, by a name of the command.
    """

    folder: Path
    seconds: dict[tuple[str, ...], float]
    undisturbed: dict[tuple[str, ...], dict[str, str]]
    reference: dict[str, object]
    before: dict[str, str]

    @property
    def study(self) -> Path:
        return self.folder / "study"

    @property
    def pictures(self) -> Path:
        return self.folder / "pictures"

    @property
    def weights(self) -> Path:
        return self.folder / "weights"

    @property
    def public(self) -> Path:
        return self.folder / "public"

    @property
    def unfinished(self) -> dict[tuple[str, ...], Path]:
        """Stage -> a scratch folder with the partial work of the stage, which was killed."""
        return {
            ("train", "tecoa"): self.folder / "scratch_train",
            ("evaluate", "tecoa", "pgd"): self.folder / "scratch_evaluate",
        }

    def document(self) -> dict:
        from zsr.params import read

        return read(self.study / "params.yaml")

    def copied(self, folder: Path) -> Path:
        """The study, in a folder of a case."""
        return linked(self.study, folder / "study")

    def unchanged(self) -> list[str]:
        """The files that a case has changed, which none may: then other cases cannot be believed."""
        now = contents(self.folder, hidden=True)
        names = {name for name in {*now, *self.before} if not name.endswith(".lock")}  # they are there to be held
        return [name for name in names if now.get(name) != self.before.get(name)]


def stage(command: Sequence[str], study: Path, **more) -> Ended:
    """Run a stage of a study, whose kept work is in the study's folder `scratch`."""
    environment = {"ZSR_SCRATCH": study / "scratch", "ZSR_DVC": os.getpid()} | more.pop("environment", {})
    return forks.run(("stages", *command), study, environment=environment, **more)


def evaluated(weights: Path, pictures: Path, out: Path, *more: object, **limits) -> Ended:
    """`zsr evaluate` of a file on a folder of pictures."""
    options = ("--attack", "pgd", "--eps", "8/255", "--n-iter", "1", "--resize", "small", "--threads", "1")
    command = ("zsr", "evaluate", weights, "--data", pictures, *options, "--out", out, *more)
    return forks.run(command, out.parent, **limits)


def records(out: Path) -> dict[str, str]:
    """The contents of the records of `zsr evaluate`."""
    return {name: digest for name, digest in contents(out).items() if name.endswith(".json")}


def parameters(names: Mapping[str, int], **changes: object) -> dict:
    """The params document of the campaign, with so many test images of other sets."""
    from zsr.params import read

    document = read(ROOT / "params.yaml")
    document["methods"] = {name: document["methods"][name] for name in METHODS}
    document["protocols"] = {"trusted": {}}
    for key, value in (SMALL | changes).items():
        put(document, key, value)
    if names:
        document["data"]["sets"] = {name: {"train": 0, "test": n} for name, n in names.items()}
    return document


def yaml(document: object) -> str:
    from ruamel.yaml import YAML

    writer, text = YAML(typ="safe"), io.StringIO()
    writer.default_flow_style, writer.sort_base_mapping_type_on_output = False, False
    writer.dump(document, text)
    return text.getvalue()


def public_study(world_folder: Path, name: str, folder: Path, n: int) -> Path:
    """A study of one public set, in a new folder."""
    folder.mkdir(parents=True, exist_ok=True)
    document = parameters({set_of(name): n})
    (folder / "params.yaml").write_text(yaml(document), encoding="utf-8")
    manifest = folder / "data/downloads" / f"{set_of(name)}.json"
    files.write_kept(manifest, f"download of {set_of(name)}", {"set": set_of(name)})  # nothing to get
    return folder


def set_of(name: str) -> str:
    return "food101" if name == SHARDS else name


def built(folder: Path) -> World:
    """Make the world. The commands run as forks; this process computes nothing."""
    study = folder / "study"
    study.mkdir(parents=True)
    (study / "params.yaml").write_text(yaml(parameters({})), encoding="utf-8")
    shutil.copy(ROOT / "dvc.yaml", study)
    seconds, undisturbed = {}, {}
    for command in STAGES:
        ended = stage(command, study)
        assert ended.status == 0, f"stages {command}: {ended.err or ended.out}"
        seconds[command], undisturbed[command] = ended.seconds, made(study, command)
    ended = stage(("figures",), study)
    assert ended.status == 0, ended.err
    undisturbed["figures",] = made(study, ("figures",))
    world = World(folder, seconds, undisturbed, {}, {})
    _write_unfinished(world)
    forks.call(lambda: _write_inputs(world))
    world.reference = _references(world)
    world.before = contents(folder, hidden=True)
    return world


def _write_unfinished(world: World) -> None:
    """Stages that are killed as soon as they have put their partial work in place for the second time."""
    for command, kept in world.unfinished.items():
        study = world.copied(world.folder / "cut")
        shutil.rmtree(study / "scratch")
        without_outs(study, command)
        stage(command, study, before=lambda: dying("replace", 2, signal.SIGKILL))
        shutil.copytree(study / "scratch", kept)
        shutil.rmtree(study.parent)


def dying(name: str, count: int, how: signal.Signals) -> None:
    """Have this process send itself a signal at the count-th call of a function of `os`: before or after the call."""
    called, real = [0], getattr(os, name)

    def replacement(*arguments, **named):
        result = real(*arguments, **named)
        called[0] += 1
        if called[0] == count:
            os.kill(os.getpid(), how)
        return result

    setattr(os, name, replacement)


def _write_inputs(world: World) -> None:
    import numpy as np
    import torch
    from PIL import Image

    from tests import fixtures_real
    from zsr.data.sources import make
    from zsr.models import clip

    split, chosen = make("shapes", "test", 60, 0, 32), []
    for label in (0, 1):
        chosen += np.flatnonzero(split.labels == label)[:5].tolist()
    for row in chosen:
        place = world.pictures / f"class_{split.labels[row]}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(split.images[row]).save(place / f"{row}.png")
    world.weights.mkdir()
    whole = clip.create(ARCH, world.study / "data/base_model/0.safetensors")
    shutil.copy(world.study / "data/base_model/0.safetensors", world.weights / "whole.safetensors")
    tower = next((world.study / "scratch/training").glob("*/tower.safetensors"))
    shutil.copy(tower, world.weights / "tower.safetensors")
    torch.save(whole.state_dict(), world.weights / "plain.pt")
    wrapped = {f"module.{name}": tensor for name, tensor in whole.state_dict().items()}
    torch.save({"epoch": 1, "state_dict": wrapped}, world.weights / "wrapped.pt")
    for name in (*PUBLIC, CIFAR):
        fixtures_real.LAYOUTS[name](world.public / name, np.random.default_rng(0))
    names, keys = ("apple pie", "baby back ribs", "baklava"), ("apple_pie", "baby_back_ribs", "baklava")
    fixtures_real.shards(world.public / SHARDS / "wds_food101", names, keys, np.random.default_rng(0))


def images_of(root: Path, name: str) -> int:
    """The number of test images that a public set's fixture has."""
    from importlib import import_module

    return len(import_module(f"zsr.data.sets.{set_of(name)}").read(root, "test").ids)


def _references(world: World) -> dict[str, object]:
    """What undisturbed commands make of the inputs."""
    found: dict[str, object] = {}
    counts = world.folder / "counts.json"
    names = (*PUBLIC, SHARDS, CIFAR)
    forks.call(lambda: counts.write_text(json.dumps({name: images_of(world.public / name, name) for name in names})))
    found["counts"] = json.loads(counts.read_text())
    for name in names:
        study = public_study(world.folder, name, world.folder / "try" / name, found["counts"][name])
        ended = stage(("data", set_of(name)), study, environment={"DATA_ROOT": world.public / name})
        assert ended.status == 0, f"data of {name}: {ended.err}"
        found[f"data {name}"] = made(study, ("data", set_of(name)))
    ended = evaluated(world.weights / "whole.safetensors", world.pictures, world.folder / "try" / "out")
    assert ended.status == 0, ended.err
    found["records"] = records(world.folder / "try" / "out")
    shutil.copytree(world.folder / "try" / "out", world.folder / "records")
    shutil.rmtree(world.folder / "try")
    return found


Case = Callable[[random.Random, World, Path], "object"]

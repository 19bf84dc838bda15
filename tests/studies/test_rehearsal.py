"""The paper's graph from nothing to tables, its downloads from a server on the loopback, killed twice on the way."""

import json
import os
import random
import re
import shutil
import signal
import threading
from pathlib import Path

import numpy as np
import pytest

from tests import fixtures_real
from tests.checkout import Checkout, ran
from tests.loopback import GUARD, facts, loopback, serve_sets
from tests.studies.test_paper import FIXTURES, SETS
from zsr.files import read_rows, write_json
from zsr.models import base_weights
from zsr.params import read

pytestmark = pytest.mark.slow
SEED = 7  # of the kills
ARCH = "ViT-B-32-quickgelu"
FEW = ("clip", "tga_zsr")
PRESENT = [name for name in SETS if name != "imagenet"]
REPRO = ("-m", "stages.repro", "dvc", "repro")  # a plain dvc repro, whose stages are spared the imports
EDITS = FIXTURES | {
    **{f"methods.{name}": None for name in ("fare", "pmg_aft")},
    "data.sets.imagenet": {"train": 0, "test": 2, "if_missing": "skip"},
}
EDITS = {key: value for key, value in EDITS.items() if not key.startswith(("methods.fare.", "methods.pmg_aft."))}


@pytest.fixture(scope="module")
def server():
    with loopback() as running:
        yield running


@pytest.fixture(scope="module")
def paper(tmp_path_factory, server):
    """A checkout of the paper's study in small that can reach the server alone, and an empty data root."""
    folder = tmp_path_factory.mktemp("rehearsal")
    checkout = Checkout(folder / "zsr", scale="studies/paper")
    registry = checkout.folder / "zsr/data/registry.yaml"
    document = read(registry)
    lock = serve_sets(server, document, folder / "served")
    registry.write_text(json.dumps(document, indent=1))
    write_json(checkout.folder / "zsr/data/fetching/hub_lock.json", lock)
    weights = folder / "served" / "weights.safetensors"
    write_weights(weights)
    (pin,) = base_weights.PINS
    server.files[f"{pin.repo}/resolve/{pin.revision}/{pin.name}"] = weights
    code = checkout.folder / "zsr/models/base_weights.py"
    pinned = re.sub(
        r"size=605_143_284, sha256=.{66}", "size={size}, sha256='{sha256}'".format(**facts(weights)), code.read_text()
    )
    code.write_text(pinned)
    (checkout.folder / "sitecustomize.py").write_text(GUARD)  # every stage has the root in PYTHONPATH
    checkout.edit(EDITS)
    checkout.commit("small")
    checkout.variables = {"HF_ENDPOINT": server.address, "PYTHONPATH": str(checkout.folder), "HF_HUB_DISABLE_XET": "1"}
    checkout.variables |= {"DATA_ROOT": str(folder / "downloads"), "HF_HOME": str(folder / "hub"), "HOME": str(folder)}
    return checkout


def write_weights(path: Path) -> None:
    """Random weights of the tower, in halves, as small as a true one can be."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    path.parent.mkdir(parents=True, exist_ok=True)
    state = open_clip.create_model(ARCH).half().state_dict()
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)


def killed(checkout: Checkout, when) -> list[str]:
    """Start dvc repro, and kill all its processes when `when` of a process and its lines so far returns."""
    process, lines = checkout.start(*REPRO), []
    reader = threading.Thread(target=lambda: lines.extend(iter(process.stdout.readline, "")))
    reader.start()
    try:
        when(process, lines)
        assert process.poll() is None, "".join(lines)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        reader.join()
    return lines


def waiting(condition):
    def wait(process, lines) -> None:
        while process.poll() is None and not condition(lines):
            threading.Event().wait(0.02)

    return wait


def kept(root: Path, path: str) -> int:
    """The bytes of a file that a download has left on disk, finished or not."""
    name = path.rpartition("/")[2]
    return max((p.stat().st_size for p in root.rglob(f"{name}*") if p.is_file() and ".json" not in p.name), default=0)


def test_the_paper_runs_from_nothing_on_what_one_server_has_and_no_byte_comes_twice(paper, server):
    rng, root = random.Random(SEED), Path(paper.variables["DATA_ROOT"])
    refused = paper.start("-c", "import socket; socket.create_connection(('192.0.2.1', 80))").communicate()[0]
    assert "the rehearsal has no network" in refused
    archives = sorted(path for path in server.files if path[0] in "01" and server.files[path].stat().st_size > 2000)
    torn = rng.choice(archives)
    server.hold = (torn, rng.randrange(1000, server.files[torn].stat().st_size))
    cut = server.hold[1]
    first = killed(paper, waiting(lambda lines: server.held.is_set() and kept(root, torn)))
    server.released.set()
    on_disk = kept(root, torn)
    assert 0 < on_disk <= cut
    n = rng.randrange(20, 60)
    killed(paper, waiting(lambda lines: sum("Running stage" in line for line in lines) >= n))
    output = paper.python(*REPRO)
    assert "download@imagenet" in ran("".join(first) + output) or "imagenet is left out" in output
    again = [at for path, at in server.asked if path == torn]
    assert again == [0, on_disk]
    others = [path for path, _ in server.asked if path != torn]
    assert len(others) == len(set(others))  # whole files, once each
    assert {path: server.sent[path] for path in server.sent if path != torn} == {
        path: server.files[path].stat().st_size for path in server.sent if path != torn
    }
    assert len(server.sent) >= len(PRESENT)
    folder = paper.folder / paper.scale
    rows = read_rows(folder / "metrics/results/accuracy.csv")
    assert {row["set"] for row in rows} == set(PRESENT) and {row["method"] for row in rows} == set(FEW)
    text = (folder / "tables/accuracy.md").read_text()
    assert "15 of 16 sets" in text and "imagenet" in text
    before = len(server.asked)
    assert not ran(paper.python(*REPRO)) and len(server.asked) == before


def test_when_imagenet_is_brought_only_it_runs(paper, server):
    folder, before = paper.folder / paper.scale, len(server.asked)
    made = folder.parents[2] / "made"
    fixtures_real.imagenet(made, np.random.default_rng(0))
    shutil.move(made / "imagenet", Path(paper.variables["DATA_ROOT"]) / "imagenet")
    paper.python("-m", "dvc", "repro", "-f", "-s", "download@imagenet")
    output = paper.python(*REPRO)
    own = {f"{stage}@imagenet" for stage in ("data", "text_embeddings")}
    judged = {f"evaluate@{name}-pgd" for name in FEW}
    after = {"sets", "collect", "tables", "figures", "report", "eps_sweep@pgd", "attention@tiny_imagenet"}
    assert own | judged <= ran(output) <= own | judged | after
    assert output.count(f"{2 * len(PRESENT)} images from kept work") == len(FEW)
    assert {row["set"] for row in read_rows(folder / "metrics/results/accuracy.csv")} == set(SETS)
    assert "15 of 16 sets" not in (folder / "tables/accuracy.md").read_text()
    assert len(server.asked) == before

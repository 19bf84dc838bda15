"""Machines that share a study: two evaluate half of the rows each, a third one merges, collects and writes the tables.

The commands are those of docs/many_gpus.md. The remote of DVC is a server of S3 on the loopback.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.checkout import ROOT, Checkout, ran
from tests.pipeline.test_study import METHODS, SMALL

pytestmark = pytest.mark.slow
ROWS = ("clip", "tecoa", "tga_zsr", "embedding_anchor")
HALVES = {"host1": ("clip", "tga_zsr"), "host2": ("tecoa", "embedding_anchor", "tga_zsr")}
SHARED = SMALL | {  # the eps sweep and the attention maps are of all rows, so a third machine would compute them
    **{f"methods.{m}": None for m in METHODS if m not in ROWS},
    "eps_sweep": {},
    "attention": {},
    "seeds": [0],
    "figures": ["trade_off", "per_set"],
}
SHARED = {key: value for key, value in SHARED.items() if value is not None or key.removeprefix("methods.") not in ROWS}
SHARED = {key: value for key, value in SHARED.items() if not key.startswith("eps_sweep.")}
LAST = {"collect", "tables", "figures", "report", "plots_page"}
RESULTS = ("data/checkpoints/*/*", "data/records/*/*/*", "metrics/**/*", "tables/*", "figures/*", "report.html")


def commands(name: str) -> str:
    """The block of commands in docs/many_gpus.md that has the name."""
    page = (ROOT / "docs/many_gpus.md").read_text()
    (block,) = re.findall(rf"<!-- run: {name} -->\n```bash\n(.*?)```", page, re.DOTALL)
    return block


class Machine:
    """A folder with its own clones; commands of the docs run in it by bash."""

    def __init__(self, folder: Path, **variables: str):
        folder.mkdir()
        who = {
            f"GIT_{role}_{key}": "test@example.invalid" for role in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")
        }
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("DVC_", "ZSR_", "AWS_"))}
        self.folder = folder
        self.environment = kept | who | {"PATH": path, "DVC_NO_ANALYTICS": "1"} | variables

    def run(self, script: str, where: str = ".", code: int = 0) -> str:
        command = ["bash", "-euo", "pipefail", "-c", script]
        place = {"cwd": self.folder / where, "env": self.environment}
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **place)
        assert done.returncode == code, done.stdout
        return done.stdout

    def contents(self) -> dict[Path, bytes]:
        study = self.folder / "zsr"
        return {p.relative_to(study): p.read_bytes() for g in RESULTS for p in study.glob(g) if p.is_file()}


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """The small study, committed, without a lock."""
    checkout = Checkout(tmp_path_factory.mktemp("start"))
    (checkout.folder / "dvc.lock").unlink()
    checkout.edit(SHARED)
    checkout.commit("small")
    return checkout


@pytest.fixture(scope="module")
def alone(start, tmp_path_factory, warm):
    """What one machine makes of the study."""
    machine = Machine(tmp_path_factory.mktemp("alone") / "machine", **warm)
    machine.run(f"git clone --quiet {start.folder} zsr && cd zsr && dvc repro")
    return machine.contents()


@pytest.fixture
def server():
    """Variables of a server of S3 with an empty bucket."""
    moto = pytest.importorskip("moto.server", reason="needs the extra `rehearsal`")
    pytest.importorskip("dvc_s3")
    running = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    variables = {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_EC2_METADATA_DISABLED": "true", **keys}
    from boto3 import client

    client("s3", endpoint_url=variables["AWS_ENDPOINT_URL"], aws_access_key_id="test", aws_secret_access_key="test",
           region_name="us-east-1").create_bucket(Bucket="zsr")  # fmt: skip
    try:
        yield variables
    finally:
        running.stop()


@pytest.fixture
def machine(start, server, warm, tmp_path):
    """Make a machine that knows the origin of git and the remote of DVC."""
    subprocess.run(["git", "clone", "--quiet", "--bare", start.folder, tmp_path / "origin.git"], check=True)
    variables = {"ORIGIN": str(tmp_path / "origin.git"), "REMOTE": "s3://zsr/study", "STUDY": ".", **server, **warm}
    return lambda name, **more: Machine(tmp_path / name, **variables | more)


def stages(*rows: str) -> set[str]:
    return {stage for row in rows for stage in (f"train@{row}", f"evaluate@{row}-pgd")}


def test_two_machines_do_half_each_and_a_third_only_collects(machine, alone):
    """The second machine also does a row of the first: what both made is the same bytes, and is taken once."""
    first = machine("first")
    assert {"base_model", "text_embeddings", "start", "data@shapes"} <= ran(first.run(commands("inputs")))
    for host, rows in HALVES.items():
        cells = " ".join(f"evaluate@{row}-pgd" for row in rows)
        assert ran(machine(host, HOST=host, CELLS=cells).run(commands("share"))) == stages(*rows)
    third = machine("third", HOSTS=" ".join(HALVES))
    assert ran(third.run(commands("merge"))) == LAST
    assert third.contents() == alone
    assert "Data and pipelines are up to date." in third.run("dvc status", "zsr")
    assert not ran(third.run("dvc repro", "zsr"))


def test_jobs_of_an_array_share_a_cache_and_the_last_clone_only_collects(start, alone, warm, tmp_path):
    shared = {"ORIGIN": str(start.folder), "STUDY": ".", "SHARED": str(tmp_path / "shared")}

    def node(name: str, **more: str) -> Machine:
        return Machine(tmp_path / name, **shared, TMPDIR=str(tmp_path / name), **more, **warm)

    assert "base_model" in ran(node("first").run(commands("slurm first")))
    (methods,) = re.findall(r"methods=\((.*)\)", commands("slurm array"))
    for row in ROWS:
        place = methods.split().index(row)
        output = node(row, SLURM_ARRAY_TASK_ID=str(place)).run(commands("slurm array"))
        assert ran(output) - {"code"} == stages(row)
    last = node("last")
    assert ran(last.run(commands("slurm last"))) <= LAST | {"code"}
    assert last.contents() == alone

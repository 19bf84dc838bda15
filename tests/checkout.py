"""A checkout of the project in a temporary folder, in which tests run DVC."""

import copy
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

from zsr.params import read

ROOT = Path(__file__).parents[1]


def files() -> list[str]:
    """Every file that git tracks here, and every new file that git does not ignore."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    return subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()


def versions(name: str) -> list[str]:
    """The text of a file as it lies here and as the last commit has it, as far as there are such.

    A page may speak of either: results that are made here later can differ from the committed ones by rounding.
    """
    here = [(ROOT / name).read_text()] if (ROOT / name).is_file() else []
    shown = subprocess.run(["git", "show", f"HEAD:{name}"], cwd=ROOT, capture_output=True, text=True)
    return here + [shown.stdout] * (shown.returncode == 0)


def put(document: dict, key: str, value: object) -> None:
    """Set the value at a dotted key; None removes the key."""
    *parents, last = key.split(".")
    for parent in parents:
        document = document[parent]
    if value is None:
        del document[last]
    else:
        document[last] = value


class Checkout:
    """A copy of the project as its own git repository, with its own DVC cache and scratch folder.

    It has the tracked and the new files as they lie. scale: the folder of the study that is meant, "" or
    "studies/paper". only: the files and folders of the root that are copied; (): all. variables: of the environment of
    its commands.
    """

    def __init__(self, folder: Path, scale: str = "", only: Collection[str] = (), **variables: str):
        self.folder, self.scale, self.variables = folder, scale, variables
        for name in files():
            if (ROOT / name).is_file() and (not only or name.split("/")[0] in only):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, folder / name)
        self.commit("start")

    def cloned(self, folder: Path) -> "Checkout":
        """A clone of what was committed, with a cache and a scratch folder of its own."""
        clone = copy.copy(self)
        clone.folder = folder
        subprocess.run(["git", "clone", "-q", self.folder, folder], check=True)
        return clone

    def commit(self, message: str) -> None:
        who = ["-c", "user.name=test", "-c", "user.email=test@example.invalid"]
        for command in (["init", "-q"], ["add", "-A"], [*who, "commit", "-q", "--allow-empty", "-m", message]):
            subprocess.run(["git", *command], cwd=self.folder, check=True, capture_output=True)

    @property
    def environment(self) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("DVC_", "ZSR_"))}
        return kept | {"PATH": path, "DVC_NO_ANALYTICS": "1", "COLUMNS": "100"} | self.variables

    def start(self, *arguments: str) -> subprocess.Popen:
        """Python in a process group of its own."""
        output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        command, where = [sys.executable, *arguments], self.folder / self.scale
        return subprocess.Popen(command, cwd=where, env=self.environment, start_new_session=True, **output)

    def dvc(self, *arguments: str) -> str:
        return self.python("-m", "dvc", *arguments)

    def python(self, *arguments: str) -> str:
        process = self.start(*arguments)
        text, _ = process.communicate()
        assert process.returncode == 0, text
        return text

    def edit(self, changes: dict[str, object]) -> None:
        """Set dotted keys of params.yaml; None deletes one."""
        path = self.folder / self.scale / "params.yaml"
        document = read(path)
        for key, value in changes.items():
            put(document, key, value)
        path.write_text(json.dumps(document, indent=1))  # JSON is YAML

    def contents(self, *patterns: str) -> dict[Path, bytes]:
        """Every file that a pattern matches, and what is in it."""
        return {p: p.read_bytes() for pattern in patterns for p in self.folder.glob(pattern) if p.is_file()}


def ran(output: str) -> set[str]:
    """The stages that a `dvc repro` or `dvc exp run` executed."""
    return set(re.findall(r"Running stage '([^']+)'", output))

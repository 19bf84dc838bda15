"""Processes of the project compute with AVX2 where the processor has it, unless somebody has asked for otherwise."""

import os
import subprocess
import sys

import pytest

from tests.checkout import ROOT
from zsr import rounding


@pytest.fixture
def unset(monkeypatch):
    """The environment, without the variables of libraries."""
    for name in rounding.OF_AVX2 | rounding.WITHOUT_AVX512:
        monkeypatch.delenv(name, raising=False)
    return os.environ


def processors(tmp_path, monkeypatch, flags: str) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(f"processor\t: 0\nmodel name\t: any\nflags\t\t: {flags}\n\nprocessor\t: 1\nflags\t\t: {flags}\n")
    monkeypatch.setattr(rounding, "PROCESSORS", path)


def test_a_processor_with_longer_vectors_computes_as_one_with_avx2(tmp_path, monkeypatch, unset):
    processors(tmp_path, monkeypatch, "fpu fma avx avx2 avx512f avx512vl")
    assert rounding.variables() == rounding.OF_AVX2 | rounding.WITHOUT_AVX512


def test_numpy_is_told_of_no_vectors_that_the_processor_lacks(tmp_path, monkeypatch, unset):
    processors(tmp_path, monkeypatch, "fpu fma avx avx2")
    assert rounding.variables() == rounding.OF_AVX2


def test_who_asks_for_other_vectors_gets_them(tmp_path, monkeypatch, unset):
    processors(tmp_path, monkeypatch, "avx2")
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx512")
    assert rounding.variables().keys() == rounding.OF_AVX2.keys() - {"ATEN_CPU_CAPABILITY"}


@pytest.mark.parametrize("flags", ["fpu sse2", "avx avx512f", ""])  # an instruction that lacks would end the process
def test_a_processor_without_avx2_is_left_alone(tmp_path, monkeypatch, unset, flags):
    processors(tmp_path, monkeypatch, flags)
    assert not rounding.variables()


def test_a_system_without_the_file_is_left_alone(tmp_path, monkeypatch, unset):
    monkeypatch.setattr(rounding, "PROCESSORS", tmp_path / "none")
    assert not rounding.variables()


TOLD = "import torch; print(torch.backends.cpu.get_cpu_capability())"


@pytest.mark.skipif("avx2" not in rounding._flags(), reason="the processor has no AVX2")
@pytest.mark.parametrize(
    "code",
    [
        "import sys; sys.argv[1:] = ['told']; import runpy; runpy.run_module('stages', run_name='__main__')",
        "from zsr.cli.main import main; main(['methods', '--help'], standalone_mode=False); " + TOLD,
    ],
    ids=["a stage", "zsr"],
)
def test_a_stage_and_a_command_compute_with_avx2(tmp_path, unset, code):
    (tmp_path / "stages").mkdir()
    for name in ("__init__.py", "__main__.py", "warm.py"):
        (tmp_path / "stages" / name).write_bytes((ROOT / "stages" / name).read_bytes())
    (tmp_path / "stages/told.py").write_text(TOLD)
    command = [sys.executable, "-c", code]
    told = subprocess.run(
        command,
        cwd=tmp_path,
        env={**unset, "PYTHONPATH": f"{tmp_path}:{ROOT}", "ZSR_WARM": ""},
        capture_output=True,
        text=True,
    )
    assert told.stdout.splitlines()[-1] == "AVX2", told.stderr

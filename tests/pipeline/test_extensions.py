"""A user's own module in the folder `extensions`: whatever is wrong with it is one line that names the file."""

import sys

import pytest
from click.testing import CliRunner

from zsr import params
from zsr.cli.running import OneLine
from zsr.params import ParamError, component

ATTACK = '''"""Mine."""
from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True)
class Mine:
    eps: float = 0.1
    parts: list[int] = ()

    def __call__(self, model, images, labels, noise=None, batch_size=None):
        return images

    def protocol(self):
        return "mine"


ATTACK = Mine
'''
METHOD = '''"""Mine."""
from dataclasses import dataclass

from zsr.methods._base import Method


@dataclass(frozen=True, kw_only=True)
class Mine(Method):
    def losses(self, model, frozen, batch, adv):
        return {"loss_of_mine": 1 / 0}


METHOD = Mine
'''


@pytest.fixture
def made(tmp_path, monkeypatch):
    """text of a module -> what a row of the module makes."""
    monkeypatch.setattr(params, "EXTENSIONS", tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "lab", raising=False)
    monkeypatch.delitem(sys.modules, "lab.mine", raising=False)
    (tmp_path / "lab").mkdir()

    def of(text: str, kind: str = "attacks", **numbers: object) -> object:
        (tmp_path / "lab/mine.py").write_text(text, encoding="utf-8")
        section = {"section": "methods.mine"} if kind == "methods" else {}
        return component({kind: {"mine": {"module": "lab.mine"} | section | numbers}}, kind, "mine")

    return of


def test_a_class_as_those_of_the_project_is_taken(made):
    assert made("\ufeff" + ATTACK, eps="8/255", parts=[1, 2]).parts == [1, 2]


WRONG = {
    "an instance": (ATTACK + "ATTACK = Mine()\n", "must be a dataclass, got Mine(eps=0.1"),
    "a function": (ATTACK + "def ATTACK(eps): return 1\n", "must be a dataclass, got <function ATTACK"),
    "another class": (ATTACK.replace("@dataclass(frozen=True, kw_only=True)\n", ""), "must be a dataclass, got <class"),
    "no eps": (ATTACK.replace("eps: float", "size: float"), "lacks eps, see the classes in zsr/attacks"),
    "no protocol": (ATTACK.replace("def protocol", "def facts"), "lacks protocol, see the classes in zsr/attacks"),
    "fewer arguments": (ATTACK.replace(", noise=None, batch_size=None", ""), "no class as those in zsr/attacks (TypeE"),
    "a type that is not there": (ATTACK.replace("list[int]", "'Gone'"), "(NameError: name 'Gone' is not defined)"),
    "an end of the process": ("import sys\nsys.exit(0)\n", "cannot be imported (SystemExit: 0)"),
    "no Python": ("def x(:\n", "cannot be imported (SyntaxError: "),
}


@pytest.mark.parametrize("case", WRONG)
def test_another_thing_in_the_place_of_the_class_is_refused(made, tmp_path, case):
    text, message = WRONG[case]
    with pytest.raises(ParamError) as error:
        made(text)
    assert str(error.value).startswith("attacks.mine.module: ") and str(tmp_path / "lab/mine.py") in str(error.value)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_number_of_a_kind_that_params_yaml_cannot_give_is_refused(made):
    with pytest.raises(ParamError, match=r"attacks.mine.parts must be <class 'set'>, got \[1\]"):
        made(ATTACK.replace("list[int]", "set[int]"), parts=[1])


def test_an_error_in_the_code_is_one_line_with_its_place(made, tmp_path):
    method = made(METHOD, "methods")

    result = CliRunner().invoke(OneLine("stage", callback=lambda: method.losses(None, None, None, None)), [])
    line = f"Error: {tmp_path / 'lab/mine.py'}, line 10: ZeroDivisionError: division by zero; mend it there\n"
    assert (result.exit_code, result.output) == (1, line)


def test_a_method_without_losses_says_so(made):
    text = METHOD.replace("def losses(self, model, frozen, batch, adv)", "def loss(self)")
    with pytest.raises(params.StudyError, match="Mine of lab.mine has no losses: define the function"):
        made(text, "methods").losses(None, None, None, None)

"""What the benchmarks measure is the project's own loops: a step and an evaluation of a tiny tower on the CPU."""

from dataclasses import replace

from benchmarks import _speeds
from benchmarks._speeds import evaluation_speed, forward_cost, training_cost
from benchmarks._tower import Tower
from tests.conftest import ROOT
from zsr.compute import ON_CPU
from zsr.evaluation.evaluate import Evaluation
from zsr.params import component, read, training_of
from zsr.training.finetune import FineTuning

PAPER = read(ROOT / "studies/paper/params.yaml")


def test_a_step_of_training_costs_its_passes(monkeypatch):
    """TeCoA's step: two steps of the attack and one pass that trains, three times forward and backward."""
    tower = Tower.make("zsr-tiny", ON_CPU)
    monkeypatch.setattr(_speeds, "matmul_rate", lambda *_: 1e12)  # the rate of a large product takes long on a CPU
    recipe = training_of(PAPER, "tecoa", FineTuning)
    recipe = replace(recipe, batch_size=4, attack=replace(recipe.attack, precision="fp32"))
    step = training_cost(tower, component(PAPER, "methods", "tecoa"), recipe, steps=1)
    forward = forward_cost(tower, recipe.precision, batch_size=4, steps=1)
    assert step.seconds > 0 and 7 * forward.operations < step.operations < 10 * forward.operations


def test_an_attack_costs_its_iterations():
    tower, attack = Tower.make("zsr-tiny", ON_CPU), component(PAPER, "attacks", "pgd")
    evaluation = Evaluation(seed=0, batch_size=4, save_every=8)
    speeds = [evaluation_speed(tower, replace(attack, n_iter=n), evaluation) for n in (1, 3)]
    assert speeds[1].gradients - speeds[0].gradients == 2 and all(speed.seconds > 0 for speed in speeds)

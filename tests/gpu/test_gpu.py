"""What must hold on a GPU: the numbers of the CPU up to rounding, and the precision that is asked for.

These tests are skipped where there is no GPU. tests/models/test_passes.py tests without one that nothing stays behind.
"""

import copy
from dataclasses import replace

import pytest
import torch

from tests.conftest import ROOT
from tests.prepared_sets import prepared_sets
from zsr.attacks.autoattack import AutoAttack
from zsr.attacks.batch import Drawn
from zsr.compute import ON_CPU, Compute, matmul_precision
from zsr.evaluation.evaluate import Evaluation, Judging, judge
from zsr.evaluation.records import Record
from zsr.models import clip
from zsr.models.clip import Classifier
from zsr.models.heads import Model
from zsr.params import component, read, training_of
from zsr.scratch import unwatched
from zsr.training.finetune import FineTuning, Texts

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
DOCUMENT = read(ROOT / "params.yaml")
TRAINED = [name for name in DOCUMENT["methods"] if name != "clip"]
GPU, CPU = torch.device("cuda", 0), torch.device("cpu")


def _step(name: str, device: torch.device, model: torch.nn.Module, adv: torch.Tensor) -> tuple[dict, torch.Tensor]:
    """Losses of a method on given attacked images, and the gradient of their sum by the image tower."""
    method = component(DOCUMENT, "methods", name)
    generator = torch.Generator().manual_seed(3)
    images, labels = torch.rand(8, 3, 24, 24, generator=generator), torch.arange(8) % 5
    text = torch.nn.functional.normalize(torch.randn(2, 5, 48, generator=generator), dim=2)
    texts = Texts(*text).to(device)
    trained, frozen = (Classifier(copy.deepcopy(model), texts.text_embeddings).to(device) for _ in range(2))
    trained.visual.ln_post.bias.data += 0.1  # a distance has no gradient where both towers agree, but for rounding
    frozen.requires_grad_(False)
    trained.requires_grad_(False).visual.requires_grad_(True)
    images, labels, adv = images.to(device), labels.to(device), adv.to(device)
    batch = texts.batch(images, labels, method.anchors(frozen, texts.batch(images, labels)))
    with matmul_precision(device, "fp32"):
        losses = method.losses(trained, frozen, batch, adv if method.attacked else None)
        sum(losses.values()).backward()
    gradient = torch.cat([p.grad.flatten().cpu() for p in trained.visual.parameters() if p.grad is not None])
    return {key: value.item() for key, value in losses.items()}, gradient


@pytest.mark.parametrize("name", TRAINED)
def test_losses_and_gradients_are_those_of_the_cpu(name, clip_model):
    adv = torch.rand(8, 3, 24, 24, generator=torch.Generator().manual_seed(4))
    (losses, gradient), (of_cpu, cpu_gradient) = (_step(name, device, clip_model, adv) for device in (GPU, CPU))
    assert losses == pytest.approx(of_cpu, rel=1e-4, abs=1e-6)
    assert (gradient - cpu_gradient).norm() <= 1e-3 * cpu_gradient.norm()


def test_an_attack_starts_from_the_noise_of_the_cpu_and_takes_its_steps(trained, split):
    """The sign of a gradient of nothing but rounding may differ, so a few pixels may."""
    images, labels, _ = split.tensors(range(32))
    recipe = training_of(DOCUMENT, "tga_zsr", FineTuning).attack
    start, found = torch.rand(images.shape, generator=torch.Generator().manual_seed(5)), []
    for device in (CPU, GPU):
        model = copy.deepcopy(trained).to(device)
        on_device, text_labels = images.to(device), labels.to(device)
        objective = lambda x: torch.nn.functional.cross_entropy(model(x), text_labels, reduction="sum")  # noqa: E731,B023
        found.append(recipe.maximise(objective, on_device, Drawn(start.to(device))).cpu())
    assert (found[0] != found[1]).float().mean() < 0.02
    assert (found[1] - images).abs().max() <= recipe.eps + 1e-6 and 0 <= found[1].min() and found[1].max() <= 1


@pytest.fixture
def judged(clip_model, fitted_prompts, tmp_path, monkeypatch):
    """Judges a classifier that is often right on 64 pictures: `(attack, compute) -> Record`."""
    monkeypatch.setenv("ZSR_SCRATCH", str(tmp_path / "scratch"))
    sets = prepared_sets(tmp_path, {"shapes": 64}, fitted_prompts)
    clip_model.logit_scale.data += 5.7
    clip.save(tmp_path / "weights.safetensors", clip_model, "zsr-tiny")

    def run(attack, compute: Compute) -> Record:
        judging = Judging(
            method="m",
            seed=0,
            attack_name="attack",
            attack=attack,
            evaluation=Evaluation(seed=0, batch_size=16, save_every=2),
            model=Model(arch="zsr-tiny"),
            compute=compute,
            threads=1,
            weights=tmp_path / "weights.safetensors",
        )
        out = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        judge(judging, sets, "code", lambda name: unwatched, out)
        return Record.load(out / "shapes.json")

    return run


SMALL = {"eps": 0.6 / 255, "n_iter": 10}
ATTACKS = {
    "pgd": replace(component(DOCUMENT, "attacks", "pgd"), step_size=0.15 / 255, **SMALL),
    "cw": replace(component(DOCUMENT, "attacks", "cw"), step_size=0.15 / 255, **SMALL),
    "paper": AutoAttack(version="paper", **SMALL),
    "standard": AutoAttack(version="standard", **SMALL),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_verdicts_are_those_of_the_cpu(name, judged):
    """At most two of 64 images lie so near to the boundary that rounding decides."""
    of_gpu, of_cpu = judged(ATTACKS[name], Compute(device="cuda")), judged(ATTACKS[name], ON_CPU)
    assert (of_gpu.clean_bits != of_cpu.clean_bits).sum() <= 1
    assert (of_gpu.hits != of_cpu.hits).sum() <= 2
    assert 0 < of_gpu.hits.sum() < of_gpu.clean_bits.sum()


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_an_attack_whose_gradients_are_coarse_fools_the_fp32_verdict_too(precision, judged):
    """The summed loss underflows in no format, so a coarse gradient costs a few images at most."""
    full, coarse = (judged(replace(ATTACKS["pgd"], precision=p), Compute(device="cuda")) for p in ("fp32", precision))
    assert (full.clean_bits == coarse.clean_bits).all()
    assert abs(int(full.hits.sum()) - int(coarse.hits.sum())) <= 4


def test_a_compiled_tower_gives_the_same_verdicts(judged):
    plain, compiled = (judged(ATTACKS["pgd"], Compute(device="cuda", compile=c)) for c in (False, True))
    assert (plain.hits != compiled.hits).sum() <= 2 and (plain.clean_bits != compiled.clean_bits).sum() <= 1


def test_fp32_is_full_fp32_and_tf32_is_not():
    generator = torch.Generator().manual_seed(6)
    a, b = torch.randn(2, 512, 512, generator=generator)
    exact, errors = a.double() @ b.double(), {}
    for precision in ("fp32", "tf32"):
        with matmul_precision(GPU, precision):
            product = (a.to(GPU) @ b.to(GPU)).cpu().double()
        errors[precision] = ((product - exact).norm() / exact.norm()).item()
    assert errors["fp32"] < 1e-6 < 1e-5 < errors["tf32"] < 1e-2

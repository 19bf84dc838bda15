"""Models with one fault each, which must be found, and sound ones, which must not be blamed."""

import pytest
import torch
from torch import nn

from zsr.evaluation import sentinels


class Around(nn.Module):
    """A model with something done before and after it."""

    def __init__(self, model, before=lambda x: x, after=lambda logits: logits):
        super().__init__()
        self.model, self.before, self.after = model, before, after

    def forward(self, images):
        return self.after(self.model(self.before(images)))


class Half(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        with torch.autocast("cpu", torch.float16):
            return self.model(images)


class Purified(nn.Module):
    """Descends its own energy before it answers."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        with torch.enable_grad():
            x = images.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self.model(x).logsumexp(dim=1).sum(), x)
        return self.model(images - 1e-4 * gradient)


def straight_through(images):
    return images + ((15 * images).round() / 15 - images).detach()


def nan_off_the_grid(images):
    off = ((255 * images).round() / 255 - images).abs().flatten(1).amax(dim=1) > 1e-4
    return torch.where(off[:, None, None, None], torch.nan, images)


def wrong_gradient(images):
    return 2 * images.detach() - images  # forward the identity, backward its negative


FAULTY = {
    "detached": (lambda m: Around(m, lambda x: x.detach()), {"detached_gradient"}),
    "quantised": (lambda m: Around(m, lambda x: (15 * x).round() / 15), {"zero_gradient", "quantised_input"}),
    "8 bits": (lambda m: Around(m, lambda x: (255 * x).round() / 255), {"zero_gradient", "quantised_input"}),
    "quantised, straight through": (lambda m: Around(m, straight_through), {"quantised_input", "gradient_mismatch"}),
    "wrong gradient": (lambda m: Around(m, wrong_gradient), {"gradient_mismatch"}),
    "noisy": (lambda m: Around(m, lambda x: x + 1e-3 * torch.randn_like(x)), {"random_forward"}),
    "softmax": (lambda m: Around(m, after=lambda z: z.softmax(dim=1)), {"probabilities"}),
    "logits x 1e4": (lambda m: Around(m, after=lambda z: 1e4 * z), {"saturated"}),
    "plain cosines": (lambda m: Around(m, after=lambda z: z / m.logit_scale), {"plain_cosines"}),
    "fp16": (lambda m: Half(Around(m, after=lambda z: 1.5 * z)), {"underflow"}),
    "inner loop": (Purified, {"inner_gradient"}),
    "nan": (lambda m: Around(m, nan_off_the_grid), {"not_finite"}),
    "nan, without a gradient that would find it": (
        lambda m: Around(m, lambda x: nan_off_the_grid(x.detach())),
        {"not_finite", "detached_gradient"},
    ),
    "nan everywhere": (lambda m: Around(m, after=lambda z: z / 0 * 0), {"not_finite"}),
}


@pytest.fixture
def batch(split):
    return split.tensors(range(8))[:2]


def named(model, batch):
    return {mark.name for mark in sentinels.inspect(model.eval().requires_grad_(False), *batch)}


@pytest.mark.parametrize("fault", FAULTY)
def test_a_fault_has_its_mark_and_no_other(trained, batch, fault):
    build, expected = FAULTY[fault]
    assert named(build(trained), batch) == expected


def test_dropout_in_training_mode_has_its_mark(trained, batch):
    model = nn.Sequential(nn.Dropout(0.1), trained).eval().requires_grad_(False)
    assert sentinels.inspect(model, *batch) == ()
    found = sentinels.inspect(model.train(), *batch)
    assert {mark.name for mark in found} >= {"training_mode", "random_forward"}
    assert "modules are in training mode" in found[0].reason


def plain_models(trained):
    linear = nn.Sequential(nn.Flatten(), nn.Linear(3 * 24 * 24, 12))
    conv = nn.Sequential(nn.Conv2d(3, 32, 4, 4), nn.GELU(), nn.Flatten(), nn.Linear(32 * 36, 12))
    for layer in (linear[1], conv[3]):
        layer.weight.data *= 30
    return {
        "clip": trained,
        "confident": Around(trained, after=lambda z: 3 * z),
        "hesitant": Around(trained, after=lambda z: z / 5),
        "flat, as after adversarial training": Around(trained, before=lambda x: 0.5 + 0.1 * (x - 0.5)),
        "linear": linear,
        "convolutions": conv,
        "two classes": Around(trained, after=lambda z: z.unflatten(1, (2, 6)).sum(dim=2)),
    }


@pytest.mark.parametrize("name", plain_models(nn.Identity()))
def test_a_plain_model_has_no_mark(trained, split, name):
    model = plain_models(trained)[name].eval().requires_grad_(False)
    images, labels, _ = split.tensors(range(64))
    for rows in torch.arange(64).split(16):
        of = labels[rows] % 2 if name == "two classes" else labels[rows]
        assert sentinels.inspect(model, images[rows], of) == ()


def test_looking_at_a_model_leaves_it_as_it_was_and_takes_no_random_number(trained, batch):
    model = trained.eval().requires_grad_(False)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    generator = torch.get_rng_state()
    sentinels.inspect(model, *batch)
    assert torch.equal(generator, torch.get_rng_state())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_a_reason_has_numbers(trained, batch):
    for fault in ("8 bits", "logits x 1e4", "nan", "noisy", "fp16"):
        found = sentinels.inspect(FAULTY[fault][0](trained).eval().requires_grad_(False), *batch)
        assert all(any(c.isdigit() for c in mark.reason) for mark in found), found

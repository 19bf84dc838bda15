"""What every defence promises, for those that average over views or correct by low frequencies."""

import pytest
import torch

from tests.defences.small_tower import SmallTower, drawn, noise_of
from zsr.defences._base import Tower
from zsr.defences.csr import CSR
from zsr.defences.dbd import DBD
from zsr.defences.reliability_tte import ReliabilityTTE

ON = {
    "dbd": DBD(kernel=3),
    "reliability_tte": ReliabilityTTE(views=7, neighbours=3),
    "csr": CSR(threshold=0.999, eps="40/255", step_size="20/255"),
}
OFF = {"dbd": DBD(views=0), "reliability_tte": ReliabilityTTE(views=0), "csr": CSR(n_iter=0)}


@pytest.fixture
def tower() -> Tower:
    return Tower(SmallTower())


@pytest.mark.parametrize("name", ON)
def test_the_identity_setting_gives_the_logits_of_the_model_bit_for_bit(name, tower):
    images = drawn()
    for logits in (OFF[name].logits, OFF[name].surrogate):
        assert torch.equal(logits(tower, images, noise_of(images), 0), SmallTower()(images))
    assert not torch.allclose(ON[name].logits(tower, images, noise_of(images), 0), SmallTower()(images), atol=0.1)


@pytest.mark.parametrize("name", ON)
def test_the_surrogate_has_the_values_of_the_logits_and_a_gradient_at_every_pixel(name, tower):
    images = (drawn() + 0.3 / 255).clamp(max=1).requires_grad_()
    logits, surrogate = (f(tower, images, noise_of(images), 4) for f in (ON[name].logits, ON[name].surrogate))
    assert torch.equal(logits, surrogate)
    (gradient,) = torch.autograd.grad(surrogate[:, 0].sum(), images)
    assert (gradient != 0).float().mean() > 0.99


@pytest.mark.parametrize("name", ["dbd", "reliability_tte"])
def test_the_surrogate_has_a_gradient_where_the_logits_have_none(name, tower):
    """Of views in coarse greys, for instance. Where a view has a gradient of its own, the two are equal."""
    images = drawn().requires_grad_()
    passes = (ON[name].surrogate, ON[name].logits)
    own, published = (torch.autograd.grad(f(tower, images, noise_of(images), 4)[:, 0].sum(), images)[0] for f in passes)
    assert (own - published).norm() > 0.05 * published.norm()


@pytest.mark.parametrize("name", ON)
def test_logits_depend_on_no_other_image_of_the_batch(name, tower):
    images = drawn()
    noise, defence = noise_of(images), ON[name]
    whole = defence.logits(tower, images, noise, 1)
    for size in (5, 1):
        rows = torch.arange(len(images)).split(size)
        parts = torch.cat([defence.logits(tower, images[part], noise.take(part), 1) for part in rows])
        torch.testing.assert_close(parts, whole, atol=1e-3, rtol=0)
        assert torch.equal(parts.argmax(dim=1), whole.argmax(dim=1))


@pytest.mark.parametrize("name", ON)
def test_draws_differ_from_each_other_unless_the_defence_is_deterministic(name, tower):
    images = drawn()
    first, again, other = (ON[name].logits(tower, images, noise_of(images), draw) for draw in (0, 0, 1))
    assert torch.equal(first, again) and torch.equal(first, other) == ON[name].deterministic
    assert ON[name].deterministic == ("deterministic" not in ON[name].violates)

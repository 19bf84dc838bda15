import dataclasses
import re

import pytest
import torch

from zsr.attacks import APGD, CW, FAB, PGD, AutoAttack, Clean, Square
from zsr.attacks.batch import Noise
from zsr.params import ParamError

PGD10 = PGD(
    eps=8 / 255, step_size=4 / 255, n_iter=10, random_start=True, precision="fp32", reduction="sum", success="last"
)


def noise(n: int, scope="test", seed=0) -> Noise:
    return Noise(seed, scope, list(range(n)))


def test_pgd_reaches_the_corner_that_a_linear_objective_points_to():
    images, slope = torch.rand(5, 3, 8, 8), torch.randn(3, 8, 8)
    adv = PGD10.maximise(lambda x: (x * slope).sum((1, 2, 3)), images, noise(5))
    torch.testing.assert_close(adv, (images + PGD10.eps * slope.sign()).clamp(0, 1))


def test_pgd_stays_in_the_ball_and_among_pixels_and_leaves_parameters_alone(model, batch):
    adv = PGD10(model, batch.images, batch.labels, noise(6))
    assert (adv - batch.images).abs().max() <= PGD10.eps + 1e-6
    assert adv.min() >= 0 and adv.max() <= 1 and not adv.requires_grad
    assert all(p.grad is None for p in model.parameters())


def test_pgd_raises_the_loss_of_every_image(model, batch):
    from zsr.models.passes import cross_entropy

    attack = dataclasses.replace(PGD10, random_start=False, step_size=1 / 255)
    adv = attack(model, batch.images, batch.labels, noise(6))
    assert (cross_entropy(model(adv), batch.labels) > cross_entropy(model(batch.images), batch.labels)).all()


def test_pgd_returns_the_last_iterate_and_bounces_where_the_step_is_the_ball():
    images = torch.full((1, 1, 1, 1), 0.5)
    attack = dataclasses.replace(PGD10, eps=0.1, step_size=0.1, n_iter=3, random_start=False)
    adv = attack.maximise(lambda x: -(x - 0.5).abs().sum((1, 2, 3)) + 0.01 * x.sum((1, 2, 3)), images, noise(1))
    torch.testing.assert_close(adv, torch.full_like(images, 0.6))  # 0.6, 0.5, 0.6: not the best point, 0.5


def test_any_success_is_kept_though_the_last_iterate_bounces_back():
    """One pixel, misclassified between 0.53 and 0.61; steps of the whole ball take it to 0.6, 0.5, 0.6, 0.5."""

    def model(x):
        x = x.flatten(1)
        return torch.cat([(x - 0.57).abs() - 0.04, 0 * x], dim=1)

    images, labels = torch.full((1, 1, 1, 1), 0.5), torch.tensor([0])
    attack = dataclasses.replace(PGD10, eps=0.1, step_size=0.1, n_iter=4, random_start=False)
    assert model(attack(model, images, labels, noise(1))).argmax() == 0
    found = dataclasses.replace(attack, success="any")(model, images, labels, noise(1))
    assert model(found).argmax() == 1 and (found - images).abs().max() <= attack.eps + 1e-6


def test_any_success_is_the_last_iterate_where_there_is_none_and_takes_no_more_passes(model, batch):
    calls = []

    def counted(x):
        calls.append(1)
        return model(x)

    attack = dataclasses.replace(PGD10, success="any")
    far = dataclasses.replace(attack, eps=1e-6, step_size=1e-7)
    with torch.no_grad():
        labels = model(batch.images).argmax(dim=1)  # all right, and too little room to change that
    last = dataclasses.replace(far, success="last")(model, batch.images, labels, noise(6))
    assert torch.equal(far(counted, batch.images, labels, noise(6)), last) and len(calls) == 10


def test_any_success_fools_whatever_the_last_iterate_fools(model, batch):
    attack = dataclasses.replace(PGD10, eps=1 / 255, step_size=1 / 255)
    with torch.no_grad():
        labels = model(batch.images).argmax(dim=1)
    last, found = (
        model(dataclasses.replace(attack, success=which)(model, batch.images, labels, noise(6))).argmax(dim=1)
        for which in ("last", "any")
    )
    assert ((last == labels) | (found != labels)).all()


def test_an_answer_that_is_no_number_does_not_replace_a_success():
    """One pixel goes 0.5, 0.6, 0.7: right, wrong, no answer."""

    def model(x):
        x = x.flatten(1)
        return torch.cat([torch.where(x > 0.65, torch.nan, 0 * x), 0.55 - x], dim=1)

    attack = dataclasses.replace(PGD10, success="any", random_start=False, eps=0.2, step_size=0.1, n_iter=4)
    adv = attack(model, torch.full((1, 1, 1, 1), 0.5), torch.tensor([1]), noise(1))
    torch.testing.assert_close(adv, torch.full_like(adv, 0.6))


def test_a_success_stays_while_its_place_waits_for_others():
    """The first of six images is fooled at 0.6 alone, on its way from 0.5 to 0.8; the others never."""

    def model(x):
        x = x.flatten(1)
        inside = torch.where((x > 0.55) & (x < 0.65), -1.0, 1.0)
        return torch.cat([inside - (x - x.detach()), 0 * x], dim=1)

    images = torch.tensor([0.5, 0.1, 0.1, 0.1, 0.1, 0.1]).view(6, 1, 1, 1)
    attack = dataclasses.replace(PGD10, success="any", random_start=False, eps=0.3, step_size=0.1, n_iter=4)
    adv = attack(model, images, torch.zeros(6, dtype=torch.long), noise(6))
    torch.testing.assert_close(adv.flatten(), torch.tensor([0.6, 0.4, 0.4, 0.4, 0.4, 0.4]))


def test_any_success_is_refused_where_no_verdict_would_confirm_it():
    for change in ({"clip_start": False}, {"precision": "fp16"}):
        with pytest.raises(ValueError, match="success: any needs"):
            dataclasses.replace(PGD10, success="any", **change)


def test_without_a_random_start_the_first_gradient_is_taken_at_the_image():
    seen = []
    attack = dataclasses.replace(PGD10, eps=0.1, step_size=0.01, n_iter=1, random_start=False)
    images = torch.rand(2, 3, 4, 4)
    attack.maximise(lambda x: (seen.append(x.detach().clone()), x.sum((1, 2, 3)))[1], images, noise(2))
    assert torch.equal(seen[0], images)


def test_one_image_does_not_change_what_happens_to_another(model, batch):
    whole = PGD10(model, batch.images, batch.labels, noise(6))
    one = PGD10(model, batch.images[2:3], batch.labels[2:3], Noise(0, "test", [2]))
    assert ((one - whole[2:3]).abs() > 1e-4).float().mean() < 0.01  # rounding may turn the sign of a tiny gradient


def test_a_start_that_is_not_clipped_may_leave_the_pixels_and_no_later_point_does():
    seen = []
    attack = dataclasses.replace(PGD10, clip_start=False, n_iter=3)
    images = torch.rand(4, 3, 8, 8).round()  # black and white
    adv = attack.maximise(lambda x: (seen.append(x.detach().clone()), x.sum((1, 2, 3)))[1], images, noise(4))
    outside = [((x < 0) | (x > 1)).any().item() for x in seen]
    assert outside == [True, False, False] and 0 <= adv.min() and adv.max() <= 1
    assert (seen[0] - images).abs().max() <= attack.eps + 1e-6


def test_a_mean_over_the_batch_turns_no_sign_in_fp32(model, batch):
    whole = PGD10(model, batch.images, batch.labels, noise(6))
    mean = dataclasses.replace(PGD10, reduction="mean")(model, batch.images, batch.labels, noise(6))
    assert ((mean - whole).abs() > 1e-4).float().mean() < 0.01


def confident(images, labels):
    """Logits whose cross-entropy has an input gradient of about 4e-7 at every pixel; fp16 ends at 6e-8."""
    slope = torch.linspace(1.0, 2.0, images[0].numel()).view_as(images[0])
    margin = 6.0 + 0.02 * (images * slope).flatten(1).mean(dim=1)
    return torch.stack([margin, torch.zeros_like(margin)], dim=1)


def test_an_unscaled_mean_underflows_in_fp16_and_a_sum_in_fp32_does_not():
    """Quirk S2: a pixel whose gradient is exactly zero stays where the random start put it."""
    images, labels = torch.rand(256, 3, 8, 8), torch.zeros(256, dtype=torch.int64)

    def zeros(precision, reduction):
        def logits(x):
            low = x.half() if precision == "fp16" else x  # what autocast does to a tower's first product
            return confident(low, labels)

        attack = dataclasses.replace(PGD10, precision=precision, reduction=reduction)
        adv = images.clone().requires_grad_()
        gradient = attack.ascent(lambda x: torch.nn.functional.cross_entropy(logits(x), labels, reduction="none"), adv)
        return (gradient == 0).float().mean().item()

    assert zeros("fp32", "sum") == zeros("fp32", "mean") == 0
    assert zeros("fp16", "mean") > 0.9 > 0.1 > zeros("fp16", "sum")


def test_the_gradient_is_taken_in_the_precision_that_is_asked_for(model, batch):
    kinds = {}
    for precision in ("fp32", "bf16", "fp16"):
        attack = dataclasses.replace(PGD10, precision=precision, n_iter=1)

        def objective(x, precision=precision):
            logits = model(x)
            kinds[precision] = logits.dtype
            return logits.float().sum(dim=1)

        assert attack.maximise(objective, batch.images[:2], noise(2)).dtype == torch.float32
    assert kinds == {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def test_noise_belongs_to_the_image_not_to_its_place():
    forward, backward = Noise(0, "shapes", [4, 7, 9]), Noise(0, "shapes", [9, 4])
    draws, others = forward.uniform((3, 4, 4), "pgd"), backward.uniform((3, 4, 4), "pgd")
    assert torch.equal(draws[0], others[1]) and torch.equal(draws[2], others[0])
    assert draws.min() >= -1 and draws.max() < 1 and abs(draws.mean()) < 0.3


@pytest.mark.parametrize(
    "key", [(1, "shapes", 4, "pgd"), (0, "greek", 4, "pgd"), (0, "shapes", 5, "pgd"), (0, "shapes", 4, "x")]
)
def test_noise_differs_by_seed_set_image_and_stream(key):
    seed, scope, image_id, stream = key
    base = Noise(0, "shapes", [4]).uniform((3, 4, 4), "pgd")
    assert not torch.equal(Noise(seed, scope, [image_id]).uniform((3, 4, 4), stream), base)


def test_clean_returns_the_images(model, batch):
    assert Clean()(model, batch.images, batch.labels, noise(6)) is batch.images


def test_the_protocol_names_every_number_of_the_attack():
    text = PGD10.protocol()
    for fact in (
        "l-inf",
        "eps 8/255",
        "step 4/255",
        "10 iterations",
        "random start",
        "1 restart",
        "last iterate",
        "sum of cross-entropy",
        "gradient fp32",
    ):
        assert fact in text


@pytest.mark.parametrize("attack", [PGD, CW, APGD, FAB, Square, AutoAttack])
def test_eps_alone_makes_an_attack_and_images_need_no_noise_of_the_caller(attack, model, batch):
    made = attack(eps="1/255")
    assert made.eps == 1 / 255
    shorter = {name: 3 for name in ("n_iter", "n_queries") if hasattr(made, name)}
    few = dataclasses.replace(made, **shorter, **({"n_targets": 2} if hasattr(made, "n_targets") else {}))
    labels = model(batch.images).argmax(dim=1)
    expected = few(model, batch.images, labels, Noise(0, "", range(6)))
    assert torch.equal(few(model, batch.images, labels), expected)


def test_the_defaults_are_those_of_the_field():
    assert (PGD(eps=4 / 255).step_size, PGD(eps=4 / 255).n_iter, PGD(eps=4 / 255).success) == (1 / 255, 100, "any")
    assert (AutoAttack(eps=0.1).version, AutoAttack(eps=0.1).n_iter) == ("standard", 100)
    assert (APGD(eps=0.1).norm, APGD(eps=0.1).loss, APGD(eps=0.1).n_restarts) == ("linf", "ce", 1)
    assert (Square(eps=0.1).n_queries, FAB(eps=0.1).n_iter, CW(eps=0.1).kappa) == (5000, 100, 50)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: PGD(eps=8), "PGD.eps must be above 0 and at most 1, got 8; 8 grey levels are 8/255"),
        (lambda: AutoAttack(eps=4.0), "AutoAttack.eps must be above 0 and at most 1, got 4.0; 4 grey levels are 4/255"),
        (lambda: PGD(eps=0.1, n_iter=0), "PGD.n_iter must be at least 1, got 0"),
        (lambda: PGD(eps=0.1, n_iter=2.5), "PGD.n_iter must be a whole number, got 2.5"),
        (lambda: CW(eps=0.1, kappa=-1), "CW.kappa must be at least 0, got -1"),
        (lambda: APGD(eps=0.1, loss="cw"), "APGD.loss must be one of ce, dlr, dlr_targeted, got 'cw'"),
        (lambda: Square(eps="8 of 255"), "Square.eps must be a number such as 0.1, 1e-3 or 8/255, got '8 of 255'"),
    ],
)
def test_values_are_checked_in_python_as_in_params_yaml(make, message):
    with pytest.raises(ParamError, match=f"^{re.escape(message)}"):
        make()


def test_apgd_takes_large_eps_in_l2_alone():
    assert APGD(eps=2, norm="l2").eps == 2
    with pytest.raises(ValueError, match="got 2; 2 grey levels are 2/255"):
        APGD(eps=2)

"""TWINS: two wings over one set of convolutions. T1 to T10 are the checks of the specification, with its thresholds."""

import copy
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from zsr.attacks.batch import Noise
from zsr.data.sources import make
from zsr.measures.effective_rate import effective_rate
from zsr.methods._base import Batch
from zsr.methods.tecoa import TeCoA
from zsr.methods.trades import TRADES
from zsr.methods.twins import DualBatchNorm2d, Twins, export_plain, flying, set_wing, twinify
from zsr.models import clip
from zsr.models.clip import Classifier
from zsr.models.passes import cross_entropy
from zsr.params import ParamError, StudyError, block, component, over, training_of
from zsr.training.finetune import FineTuning, Texts, _attacked, finetune
from zsr.training.loop import Recipe, fit

AT = {"module": "tecoa"}
BASES = {  # of every method that can be carried, the block of its own
    "tecoa": {},
    "trades": {"beta": 6.0, "beta_reduction": "nominal_batch"},
    "tga_zsr": {
        "lambda_ar": 0.08,
        "lambda_amc": 0.05,
        "norm_axis": "tokens",
        "order": "minmax_resize",
        "distance": "l2",
    },
    "fare": {"features": "raw"},
    "comp_tga": {"lambda_ar": 0.1, "lambda_amc": 0.07, "non_class_template": "not {}", "renormalize": False},
    "embedding_anchor": {"lambda_adv": 1.0, "lambda_clean": 1.0},
    "pmg_aft": {
        "lambda_general": 1.0,
        "lambda_clean": 1.0,
        "logit_scale": "one",
        "kl_reduction": "sum",
        "kl_direction": "target_first",
        "detach_clean": False,
        "norm_stats": "imagenet",
    },
}


def twins(base=AT, **changes) -> Twins:
    return Twins(base=base, **{"lambda_frozen": 1.0, **changes})


@pytest.fixture(scope="session")
def _resnet():
    """A small ResNet CLIP whose residual branches are open and whose statistics are those of some images."""
    torch.manual_seed(1)
    model = clip.create("zsr-tiny-rn")
    for name, p in model.visual.named_parameters():
        if "bn" in name or "downsample.1" in name:
            nn.init.normal_(p, mean=float(name.endswith("weight")), std=0.2)
    model.visual.train()
    with torch.no_grad():
        for _ in range(20):
            model.visual(torch.rand(16, 3, 32, 32) * 2 - 1)
    return model.eval()


@pytest.fixture
def resnet(_resnet):
    """One that a test may change."""
    return copy.deepcopy(_resnet)


@pytest.fixture
def frozen(_resnet, text_embeddings):
    return Classifier(copy.deepcopy(_resnet), text_embeddings).requires_grad_(False).eval()


@pytest.fixture
def model(resnet, text_embeddings):
    """A classifier of a tower that TWINS has prepared, in train mode."""
    twinify(resnet.visual)
    return Classifier(resnet, text_embeddings).train()


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(3)
    return Batch(torch.rand(8, 3, 24, 24, generator=generator), torch.tensor([0, 1, 2, 3, 4, 0, 1, 2]))


@pytest.fixture
def adv(batch):
    noise = torch.randn(batch.images.shape, generator=torch.Generator().manual_seed(5))
    return (batch.images + 0.03 * noise).clamp(0, 1)


def layers(model) -> list[DualBatchNorm2d]:
    return [layer for layer in model.modules() if isinstance(layer, DualBatchNorm2d)]


def buffers(module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.named_buffers()}


def same(before, after) -> dict[str, bool]:
    return {name: torch.equal(value, after[name]) for name, value in before.items()}


def total(terms):
    return sum(terms.values())


def gradient(loss, module):
    found = torch.autograd.grad(loss, list(module.parameters()), allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for g, p in zip(found, module.parameters(), strict=True)]


def flat(tensors):
    return torch.cat([tensor.flatten() for tensor in tensors])


# The layer


def test_t1_at_the_start_every_wing_is_the_plain_tower_in_eval_mode(resnet, text_embeddings, batch):
    plain = Classifier(copy.deepcopy(resnet), text_embeddings).eval()
    model = Classifier(resnet, text_embeddings)
    twinify(resnet.visual)
    model.eval()
    with torch.no_grad():
        expected, seen = plain(batch.images), {}
        for wing in ("adaptive", "frozen", "split"):
            set_wing(model, wing)
            seen[wing] = (model(batch.images) - expected).abs().max().item()
    assert len(layers(model)) == 19 and max(seen.values()) <= 1e-6


def test_the_published_forward_of_both_halves_at_once_is_two_forwards_of_half_a_batch(model, batch):
    """Logits and running statistics; of nine images the first four are the frozen wing's."""
    images = torch.cat([batch.images, batch.images[:1].flip(3)])
    other = copy.deepcopy(model)
    with flying(model, "split"):
        at_once = model(images)
    with flying(other, "frozen"):
        first = other(images[:4])
    with flying(other, "adaptive"):
        second = other(images[4:])
    torch.testing.assert_close(at_once, torch.cat([first, second]), rtol=1e-4, atol=1e-4)
    for ours, theirs in zip(buffers(model.visual).values(), buffers(other.visual).values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert (model(images[:4]) - first).abs().max() > 0.1  # by its own statistics it would be something else


def test_the_frozen_wing_is_an_affine_map_of_constants():
    norm = nn.BatchNorm2d(3)
    norm.running_mean, norm.running_var = torch.tensor([0.0, 1, 2]), torch.tensor([1.0, 4, 9])
    dual, x = DualBatchNorm2d(norm), torch.randn(5, 3, 2, 2)
    dual.frozen_weight.data, dual.frozen_bias.data = torch.tensor([1.0, 2, 3]), torch.tensor([0.0, -1, 1])
    dual.wing = "frozen"
    mean, std = torch.tensor([0.0, 1, 2]).view(3, 1, 1), torch.tensor([1.0, 2, 3]).view(3, 1, 1)
    expected = (x - mean) / std * torch.tensor([1.0, 2, 3]).view(3, 1, 1) + torch.tensor([0.0, -1, 1]).view(3, 1, 1)
    torch.testing.assert_close(dual(x), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(norm.weight, torch.ones(3)) and norm.num_batches_tracked == 0


@pytest.mark.parametrize("wing", ["adaptive", "frozen", "split"])
def test_under_autocast_the_layer_computes_in_fp32(wing):
    norm, x = nn.BatchNorm2d(4), 100 + torch.randn(8, 4, 3, 3)
    dual, plain = DualBatchNorm2d(norm), DualBatchNorm2d(copy.deepcopy(norm))
    dual.wing = plain.wing = wing
    with torch.autocast("cpu", torch.bfloat16):
        seen = dual(x.bfloat16())
    assert seen.dtype == torch.float32 and torch.equal(seen, plain(x.bfloat16().float()))
    assert dual.double()(x.double()).dtype == torch.float64


def test_layers_of_several_processes_and_without_affine_are_taken_too():
    tower = nn.Sequential(nn.Conv2d(3, 4, 1), nn.SyncBatchNorm(4), nn.Sequential(nn.BatchNorm2d(4, affine=False)))
    x = torch.randn(6, 3, 2, 2)
    expected, names = tower.eval()(x), list(tower.state_dict())
    twinify(tower)
    assert [type(layer.adaptive) for layer in layers(tower)] == [nn.SyncBatchNorm, nn.BatchNorm2d]
    for wing in ("adaptive", "frozen"):
        set_wing(tower, wing)
        torch.testing.assert_close(tower(x), expected)
    assert len(list(tower.parameters())) == 2 + 4
    export_plain(tower)
    assert list(tower.state_dict()) == names and type(tower[1]) is nn.SyncBatchNorm


def test_a_tower_without_statistics_is_refused_and_so_are_wings_that_are_not_there(clip_model, resnet):
    """T7, first part: LayerNorm has no population statistics."""
    message = "TWINS needs a tower with BatchNorm, such as RN50; VisionTransformer has none to freeze"
    with pytest.raises(ParamError, match=message):
        twins().prepare(clip_model.visual)
    with pytest.raises(ParamError, match="Sequential has none"):
        twinify(nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False)))
    with pytest.raises(StudyError, match="ModifiedResNet has no wings yet; call twinify"):
        set_wing(resnet.visual, "frozen")
    twinify(resnet.visual)
    with pytest.raises(ParamError, match="has none to freeze"):  # twice
        twinify(resnet.visual)


# The method


def steps(method, model, frozen, batch, adv, n=3):
    """A few steps of plain SGD."""
    optimizer = torch.optim.SGD(model.visual.parameters(), 1e-3)
    for _ in range(n):
        optimizer.zero_grad()
        total(method.losses(model, frozen, batch, adv)).backward()
        optimizer.step()


def test_t2_training_moves_every_adaptive_statistic_and_no_frozen_one(model, frozen, batch, adv):
    before = buffers(model.visual)
    steps(twins(), model, frozen, batch, adv)
    stays = same(before, buffers(model.visual))
    constants = {name for name in stays if "frozen_" in name}
    assert len(constants) == 2 * 19 and all(stays[name] for name in constants)
    moving = set(stays) - constants
    assert len(moving) == 57 and not any(stays[name] for name in moving)


@pytest.mark.parametrize("prepared", [True, False])
def test_t3_attack_and_evaluation_move_no_buffer(document, resnet, text_embeddings, batch, prepared):
    """With wings and without: also the other methods on a tower with BatchNorm."""
    method = twins() if prepared else TeCoA()
    method.prepare(resnet.visual)
    model, attack = Classifier(resnet, text_embeddings), block(document, "train", FineTuning).attack
    resnet.visual.train()
    before = buffers(model)
    adv = _attacked(method, model, batch, attack, Noise(0, "t", range(8)))
    assert all(same(before, buffers(model)).values()) and resnet.visual.training
    assert (adv - batch.images).abs().max() > 0.9 * attack.eps
    model.eval()
    loss = cross_entropy(model(adv), batch.labels) - cross_entropy(model(batch.images), batch.labels)
    assert loss.mean() > 0  # it is the eval mode's loss that was raised
    pgd = component(document, "attacks", "pgd")
    pgd(model, batch.images, batch.labels, Noise(0, "t", range(8)), 5)
    assert all(same(before, buffers(model)).values())


def test_t4_the_frozen_half_leaves_the_adaptive_statistics_alone(model, frozen, batch, adv):
    other, changed = copy.deepcopy(model), adv.clone()
    changed[:4] = torch.rand(4, 3, 24, 24)
    twins().losses(model, frozen, batch, adv)
    twins().losses(other, frozen, replace(batch, images=changed), changed)
    assert all(same(buffers(model), buffers(other)).values())
    changed[4:] = torch.rand(4, 3, 24, 24)
    twins().losses(other, frozen, batch, changed)
    assert not all(same(buffers(model), buffers(other)).values())


def test_t6_the_gradient_is_linear_in_lambda_and_at_zero_that_of_the_second_half(
    resnet, text_embeddings, frozen, batch, adv
):
    plain = Classifier(copy.deepcopy(resnet), text_embeddings).double().train()
    twinify(resnet.visual)
    model = Classifier(resnet, text_embeddings).double().train()
    batch, adv = replace(batch, images=batch.images.double()), adv.double()

    def slope(lambda_frozen):
        method = twins(lambda_frozen=lambda_frozen)
        return flat(gradient(total(method.losses(model, frozen, batch, adv)), model.visual))

    none, whole, some = slope(0.0), slope(1.0), slope(0.4)
    assert (some - none - 0.4 * (whole - none)).norm() <= 1e-12 * some.norm()
    assert (whole - none).norm() > 0.1 * none.norm()
    expected = gradient(cross_entropy(plain(adv[4:]), batch.labels[4:]).mean(), plain.visual)
    named = {n.replace(".adaptive.", "."): g for n, g in zip(dict(model.visual.named_parameters()), split(none, model))}
    difference = [named[name] - g for (name, _), g in zip(plain.visual.named_parameters(), expected, strict=True)]
    assert flat(difference).norm() <= 1e-12 * flat(expected).norm()


def split(vector, model):
    parts = vector.split([p.numel() for p in model.visual.parameters()])
    return [part.view_as(p) for part, p in zip(parts, model.visual.parameters())]


@pytest.mark.parametrize("n, first, second", [(7, slice(0, 3), slice(3, 7)), (2, slice(0, 1), slice(1, 2))])
def test_t7_the_first_half_of_an_odd_batch_is_the_smaller_one(model, frozen, batch, adv, n, first, second):
    model.double(), frozen.double()
    model.visual.image_size = 64  # more than one place in the last block, so that one image has statistics
    grow_pool(model)
    batch, adv = replace(batch, images=batch.images.double()).rows(slice(n)), adv.double()[:n]
    other = copy.deepcopy(model)
    terms = twins(lambda_frozen=0.4).losses(model, frozen, batch, adv)
    for wing, rows, weight in (("frozen", first, 0.4), ("adaptive", second, 1.0)):
        with flying(other, wing):
            expected = weight * F.cross_entropy(other(adv[rows]), batch.labels[rows])
        torch.testing.assert_close(terms[f"{wing}_ce_adv"], expected)


def grow_pool(model):
    pool = model.visual.attnpool
    pool.positional_embedding = nn.Parameter(torch.randn(5, 512, dtype=pool.positional_embedding.dtype) / 20)


def test_t7_one_image_goes_to_both_wings(model, frozen, batch, adv):
    grow_pool(model)
    model.visual.image_size = 64
    terms = twins().losses(model, frozen, batch.rows(slice(1)), adv[:1])
    assert all(term.isfinite() and term > 0 for term in terms.values())


def test_t7_eval_mode_attack_and_inference_never_use_the_frozen_wing(document, model, batch):
    for layer in layers(model):
        layer.frozen_mean.fill_(torch.nan)
    set_wing(model, "frozen")
    assert model(batch.images).isnan().all()
    model.eval()
    assert model(batch.images).isfinite().all()
    set_wing(model, "frozen")
    assert model(batch.images).isnan().all()  # who asks for it in eval mode has it until the next eval()
    model.eval()
    attack = block(document, "train", FineTuning).attack
    model.train()
    adv = _attacked(twins(), model, batch, attack, Noise(0, "t", range(8)))
    assert (adv - batch.images).abs().max() > 0.9 * attack.eps


def test_t8_what_is_left_is_the_unmodified_tower_with_the_adaptive_wing(model, frozen, resnet, batch, adv):
    modules = [type(m) for m in frozen.visual.modules()]
    steps(twins(), model, frozen, batch, adv)
    with torch.no_grad():
        expected = model.eval()(batch.images)
    twins().finish(resnet.visual)
    assert [type(m) for m in resnet.visual.modules()] == modules
    plain = clip.create("zsr-tiny-rn")
    plain.visual.load_state_dict(resnet.visual.state_dict(), strict=True)
    with torch.no_grad():
        again = Classifier(plain, model.text_embeddings).eval()(batch.images)
        assert (again - expected).abs().max() <= 1e-6 and (frozen(batch.images) - expected).abs().max() > 1e-3


@pytest.mark.parametrize("affine, parameters", [("separate", 2 * 19), ("shared", 0)])
def test_t9_both_affine_maps_learn_or_there_is_one(resnet, text_embeddings, frozen, batch, adv, affine, parameters):
    before = len(list(resnet.visual.parameters()))
    method = twins(affine=affine)
    method.prepare(resnet.visual)
    model = Classifier(resnet, text_embeddings).train()
    own = [p for name, p in resnet.visual.named_parameters() if "frozen_" in name]
    assert len(own) == parameters == len(list(resnet.visual.parameters())) - before
    total(method.losses(model, frozen, batch, adv)).backward()
    affines = [p for layer in layers(model) for p in layer.parameters()]
    assert len(affines) == 2 * 19 + parameters
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in affines)


def test_t10_the_published_reduction_halves_the_weight_of_the_divergence_in_a_wing(model, frozen, batch, adv):
    """6 over the nominal batch of 8 on halves of 4 is 3 on their mean; the baseline on whole batches has 6."""
    terms = {}
    for reduction in ("nominal_batch", "mean"):
        base = {"module": "trades", "beta": 6.0, "beta_reduction": reduction}
        whole = replace(batch, nominal=8)
        terms[reduction] = twins(base).losses(copy.deepcopy(model), frozen, whole, adv)
        assert terms[reduction].keys() == {f"{w}_{t}" for w in ("frozen", "adaptive") for t in ("ce_clean", "kl")}
    for wing in ("frozen", "adaptive"):
        published, mean = (terms[reduction][f"{wing}_kl"].item() for reduction in ("nominal_batch", "mean"))
        assert mean == 2 * published > 0
        assert terms["nominal_batch"][f"{wing}_ce_clean"] == terms["mean"][f"{wing}_ce_clean"]
    baselines = [
        TRADES(beta=6.0, beta_reduction=r).losses(frozen, frozen, replace(batch, nominal=8), adv)["kl"]
        for r in ("nominal_batch", "mean")
    ]
    assert torch.equal(*baselines)


def test_trades_is_the_formula_with_gradients_through_both_sides(resnet, text_embeddings, frozen, batch, adv):
    """Also of a short last batch, and after the attacked images BatchNorm sees the clean ones."""
    model = Classifier(resnet, text_embeddings).double()
    batch, adv = replace(batch, images=batch.images.double(), nominal=32), adv.double()
    terms = TRADES(beta=6.0, beta_reduction="nominal_batch").losses(model, frozen, batch, adv)
    clean, attacked = (model(x).softmax(dim=1) for x in (batch.images, adv))
    divergence = (clean * (clean / attacked).log()).sum()
    torch.testing.assert_close(terms["kl"], 6 / 32 * divergence)
    ours, expected = (flat(gradient(x, model.visual)) for x in (terms["kl"], 6 / 32 * divergence))
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-9)
    order = []
    spy = copy.deepcopy(model)
    spy.register_forward_pre_hook(lambda _m, given: order.append(torch.equal(given[0], adv)))
    TRADES(beta=1.0, beta_reduction="mean").losses(spy, frozen, batch, adv)
    assert order == [True, False]


# Fields and controls


def losses(method, resnet, text_embeddings, frozen, batch, adv):
    tower = copy.deepcopy(resnet)
    method.prepare(tower.visual)
    return method.losses(Classifier(tower, text_embeddings).train(), frozen, batch, adv), tower


def test_the_control_without_a_frozen_wing_is_at_on_two_halves(resnet, text_embeddings, frozen, batch, adv):
    """`at_scaled` of the specification: the same scale of the loss, statistics of half a batch each."""
    terms, tower = losses(twins(wings="adaptive", lambda_frozen=0.4), resnet, text_embeddings, frozen, batch, adv)
    plain = Classifier(resnet, text_embeddings).train()
    first, second = (cross_entropy(plain(adv[h]), batch.labels[h]).mean() for h in (slice(4), slice(4, 8)))
    assert torch.equal(terms["first_ce_adv"], 0.4 * first) and torch.equal(terms["second_ce_adv"], second)
    export_plain(tower.visual)
    assert all(same(buffers(plain.visual), buffers(tower.visual)).values())


def test_the_control_without_an_adaptive_wing_is_at_by_running_statistics(resnet, text_embeddings, frozen, batch, adv):
    """`frozen_only`: with one affine map, so the wing of inference is the wing that was trained."""
    method = twins(wings="frozen")
    terms, tower = losses(method, resnet, text_embeddings, frozen, batch, adv)
    plain = Classifier(resnet, text_embeddings).eval()
    expected = [cross_entropy(plain(adv[h]), batch.labels[h]).mean() for h in (slice(4), slice(4, 8))]
    torch.testing.assert_close(list(terms.values()), expected)
    steps(method, Classifier(tower, text_embeddings), frozen, batch, adv)
    model = Classifier(tower, text_embeddings).eval()
    logits = model(batch.images)
    set_wing(model, "frozen")
    torch.testing.assert_close(model(batch.images), logits)


@pytest.mark.parametrize("wings", ["adaptive", "frozen"])
def test_in_controls_every_parameter_learns(resnet, text_embeddings, frozen, batch, adv, wings):
    """Without a second scale and shift, of which one would go unused."""
    terms, tower = losses(twins(wings=wings), resnet, text_embeddings, frozen, batch, adv)
    total(terms).backward()
    assert all(p.grad is not None for p in tower.visual.parameters())


def test_whole_batches_for_both_wings_and_the_scale_of_the_base(resnet, text_embeddings, frozen, batch, adv):
    plain = Classifier(copy.deepcopy(resnet), text_embeddings)
    terms, _ = losses(twins(split="full", lambda_frozen=0.4), resnet, text_embeddings, frozen, batch, adv)
    expected = [
        weight * cross_entropy(plain.train(mode)(adv), batch.labels).mean()
        for mode, weight in ((False, 0.4), (True, 1))
    ]
    torch.testing.assert_close(list(terms.values()), expected)
    scaled, _ = losses(
        twins(split="full", lambda_frozen=0.4, normalise=True), resnet, text_embeddings, frozen, batch, adv
    )
    torch.testing.assert_close(total(scaled), total(terms) / 1.4)


def test_parts_of_a_batch_are_folded_as_the_base_folds_them():
    pmg = twins(BASES["pmg_aft"] | {"module": "pmg_aft"}, norm_stats="imagenet")
    assert [pmg.fold(f"frozen_{term}") for term in ("ce_adv", "kl_general")] == ["mean", "sum"]
    trades = twins(BASES["trades"] | {"module": "trades"}, wings="adaptive")
    assert [trades.fold(f"second_{term}") for term in ("ce_clean", "kl")] == ["mean", "sum"]


# In the study


ROW = {"section": "methods.twins_at", "module": "twins", "base": AT, "lambda_frozen": 1.0}


def with_row(document, name="twins_at", **changes):
    return over(document, {"methods": {name: ROW | {"section": f"methods.{name}"} | changes}})


def test_a_row_may_have_a_name_of_its_own(document):
    pulled, study = {"module": "tga_zsr", **BASES["tga_zsr"]}, component(document, "methods", "tga_zsr")
    method = component(with_row(document, "twins_tga_zsr", base=pulled, affine="shared"), "methods", "twins_tga_zsr")
    assert method == twins(pulled, affine="shared") and method._loss == study
    row = {"section": "method", "module": "tga_zsr"}
    again = document | {"methods": document["methods"] | {"again": row}}
    assert component(again, "methods", "again") == study
    row = {"section": "methods.warm", "module": "tecoa", "train": {"warmup_steps": 7}}
    warm = document | {"methods": document["methods"] | {"warm": row}}
    assert component(warm, "methods", "warm") == TeCoA()
    assert training_of(warm, "warm", FineTuning) == replace(training_of(document, "tecoa", FineTuning), warmup_steps=7)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"module": "twin"}, "methods.twins_at.module names no module of zsr.methods: 'twin'; did you mean 'twins'?"),
        ({"module": 3}, "methods.twins_at.module must be text, got 3"),
        ({"base": {}}, "methods.twins_at: missing key 'base.module'"),
        ({"base": 3}, "methods.twins_at.base must hold keys and values, got 3"),
        ({"base": {"module": "tekoa"}}, "methods.twins_at: base.module names no module of zsr.methods: 'tekoa'"),
        ({"base": {"module": "fare"}}, "methods.twins_at: missing key 'base.features'"),
        ({"base": {"module": "fare", "features": "row"}}, "methods.twins_at: base.features must be one of raw, unit"),
        ({"base": {"module": "clip"}}, "base.module must train on attacked images one by one, got 'clip'"),
        ({"base": {"module": "ft_adv", "duplicate_negatives": True}}, "one by one, got 'ft_adv'"),
        ({"base": {"module": "twins", "base": AT, "lambda_frozen": 1}}, "one by one, got 'twins'"),
        ({"base": {"module": "pmg_aft", **BASES["pmg_aft"]}}, "norm_stats must be base.norm_stats, imagenet, got clip"),
        ({"lambda_frozen": -1}, "methods.twins_at.lambda_frozen must be at least 0, got -1"),
        ({"wings": "left"}, "methods.twins_at.wings must be one of both, adaptive, frozen, got 'left'"),
    ],
)
def test_a_mistake_in_a_row_is_named_in_one_line(document, changes, message):
    row = ROW | changes
    changed = document | {"methods": document["methods"] | {"twins_at": row}}
    with pytest.raises(ParamError) as error:
        component(changed, "methods", "twins_at")
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.fixture(scope="module")
def source():
    return make("shapes", "train", 20, 0, 24)


@pytest.fixture(scope="module")
def texts():
    return Texts(*F.normalize(torch.randn(2, 12, 48, generator=torch.Generator().manual_seed(0)), dim=2))


@pytest.fixture
def recipe(document):
    recipe = block(document, "train", FineTuning)
    return replace(
        recipe, epochs=1, batch_size=8, warmup_steps=1, save_every=1, attack=replace(recipe.attack, n_iter=1)
    )


@pytest.mark.parametrize("base", BASES)
def test_every_method_can_be_carried(base, resnet, texts, source, recipe, tmp_path):
    before, names = resnet.state_dict(), list(resnet.state_dict())
    before = {name: value.clone() for name, value in before.items()}
    method = twins({"module": base, **BASES[base]}, norm_stats=BASES[base].get("norm_stats", "clip"))
    assert method.non_class_template == BASES[base].get("non_class_template")
    rows = finetune(method, resnet, texts, source.first(12), recipe, 0, tmp_path / "s")
    after = resnet.state_dict()
    moved = {name for name in names if not torch.equal(after[name], before[name])}
    assert list(after) == names and len(rows) == 2 and not resnet.visual.training
    assert all(name.startswith("visual.") for name in moved) and "visual.bn1.running_mean" in moved
    assert all(torch.tensor(list(row.values())).isfinite().all() for row in rows)
    assert any(key.startswith("frozen_") for key in rows[0]) and any(key.startswith("adaptive_") for key in rows[0])


def test_the_modes_of_a_step_of_any_method_on_batch_norm(resnet, texts, source, recipe, tmp_path):
    """Attack by running statistics, loss by those of the batch; the frozen model keeps its own (T3)."""
    seen = []

    @dataclass(frozen=True, kw_only=True)
    class Spy(TeCoA):
        def inner_objective(self, model, batch):
            seen.append(("attack", model.visual.training, buffers(model.visual)))
            return super().inner_objective(model, batch)

        def losses(self, model, frozen, batch, adv):
            seen.append(("loss", model.visual.training, buffers(model.visual)))
            assert not frozen.visual.training and batch.nominal == 8
            frozen(batch.images)
            assert all(same(buffers(frozen.visual), start).values())
            return super().losses(model, frozen, batch, adv)

    start = buffers(resnet.visual)
    finetune(Spy(), resnet, texts, source, recipe, 0, tmp_path / "s")
    assert [(what, mode) for what, mode, _ in seen] == [("attack", False), ("loss", True)] * 3
    for (*_, before), (*_, after) in zip(seen[::2], seen[1::2]):
        assert all(same(before, after).values())
    assert not all(same(seen[1][2], seen[2][2]).values()) and not resnet.visual.training


def test_a_run_that_was_killed_continues_bit_for_bit(resnet, texts, source, recipe, tmp_path):
    whole, killed = copy.deepcopy(resnet), copy.deepcopy(resnet)
    rows = finetune(twins(), whole, texts, source, recipe, 0, tmp_path / "whole")

    def watch(steps, _done, _rows):
        for step in steps:
            if step == 2:
                raise KeyboardInterrupt
            yield step

    with pytest.raises(KeyboardInterrupt):
        finetune(twins(), killed, texts, source, recipe, 0, tmp_path / "killed", watch)
    resumed = copy.deepcopy(resnet)
    assert finetune(twins(), resumed, texts, source, recipe, 0, tmp_path / "killed") == rows
    assert all(same(whole.state_dict(), resumed.state_dict()).values())


# W1 of the specification: digits of scikit-learn, robustly pre-trained on 0 to 4 and fine-tuned on 5 to 9


class Digits(nn.Module):
    """A classifier of 8 x 8 pixels whose tower is three convolutions with BatchNorm; 5 classes."""

    def __init__(self):
        super().__init__()
        sizes, parts = [(1, 16, 1), (16, 32, 2), (32, 64, 2)], []
        for before, after, stride in sizes:
            parts += [nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        self.visual = nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 5))

    def forward(self, images):
        return self.visual(images)


def digits(low):
    """Images (n, 1, 8, 8) and labels from 0 of five classes; half of each to train, half to test."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    rows = (bunch.target >= low) & (bunch.target < low + 5)
    images = torch.from_numpy(bunch.images[rows] / 16).float()[:, None]
    labels = torch.from_numpy(bunch.target[rows] - low)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    return [(images[part], labels[part]) for part in order.chunk(2)]


def pgd(model, images, labels, start):
    """Ten steps of 1.5 eps / 10 in a ball of .15."""
    adv = (images + 0.15 * start).clamp(0, 1)
    for _ in range(10):
        adv = adv.detach().requires_grad_()
        (slope,) = torch.autograd.grad(cross_entropy(model(adv), labels).sum(), adv)
        adv = (adv + 0.0375 * slope.sign()).clamp(images - 0.15, images + 0.15).clamp(0, 1)
    return adv.detach()


def trained(method, model, data, seed, folder, epochs, lr):
    """SGD as the published recipe has it; returns the mean rho and accuracies (clean, PGD) of the plain tower."""
    (images, labels), (test, test_labels) = data
    method.prepare(model.visual)
    model.train()

    def terms(step, part):
        batch = Batch(images[part.samples], labels[part.samples], nominal=64)
        adv = pgd(model.eval(), batch.images, batch.labels, 2 * torch.rand_like(batch.images) - 1)
        return method.losses(model.train(), None, batch, adv)

    sgd = Recipe(
        epochs=epochs,
        batch_size=64,
        optimizer="sgd",
        lr=lr,
        weight_decay=1e-5,
        warmup_steps=0,
        grad_clip=0.0,
        save_every=10**6,
    )
    rows = fit(model.visual, terms, len(images), sgd, seed, folder, observe=effective_rate)
    method.finish(model.visual.eval())
    adv = pgd(model, test, test_labels, torch.zeros_like(test))
    right = [(model(x).argmax(dim=1) == test_labels).float().mean().item() for x in (test, adv)]
    return sum(row["rho"] for row in rows) / len(rows), *right


@pytest.mark.slow
def test_w1_twins_is_no_worse_than_at_on_digits_and_turns_filters_faster(tmp_path):
    """Specification, W1: means over three seeds at one rate. That TWINS beats `at_scaled` is not said, nor is it so."""
    methods = {"at": TeCoA(), "twins": twins(), "at_scaled": twins(wings="adaptive")}
    found = {name: [] for name in methods}
    for seed in range(3):
        torch.manual_seed(seed)
        base = Digits()
        trained(TeCoA(), base, digits(0), seed, tmp_path / f"base{seed}", 20, 0.05)
        nn.init.normal_(base.visual[-1].weight, std=0.1)
        nn.init.zeros_(base.visual[-1].bias)
        for name, method in methods.items():
            model, folder = copy.deepcopy(base), tmp_path / f"{name}{seed}"
            found[name].append(trained(method, model, digits(5), seed, folder, 20, 0.01))
    rho, clean, robust = ({name: sum(r[i] for r in rows) / 3 for name, rows in found.items()} for i in range(3))
    assert clean["twins"] >= clean["at"] and robust["twins"] >= robust["at"], found
    assert rho["twins"] > 2 * rho["at"] and rho["twins"] > rho["at_scaled"], found

"""params.yaml: what may stand in it, and how a mistake is named before anything runs."""

import copy
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from importlib import import_module
from pathlib import Path
from typing import Literal

import pytest
from click.testing import CliRunner
from ruamel.yaml import YAML

from stages import code
from tests.conftest import ROOT, parsed
from zsr import study
from zsr.evaluation.evaluate import Evaluation
from zsr.params import (
    Count,
    ParamError,
    PixelRange,
    Positive,
    Share,
    StudyError,
    block,
    build,
    component,
    over,
    read,
    training_of,
    under_protocol,
)
from zsr.study import catalogue, check
from zsr.training.finetune import FineTuning


@dataclass(frozen=True)
class Inner:
    rate: Positive
    share: Share = 0.5


@dataclass(frozen=True)
class Outer:
    eps: PixelRange
    n_iter: Count
    kind: Literal["sgd", "adamw"]
    flag: bool
    names: tuple[str, ...]
    inner: Inner


GOOD = {"eps": "8/255", "n_iter": 3, "kind": "sgd", "flag": True, "names": ["a"], "inner": {"rate": 1}}


def test_a_good_block_becomes_a_dataclass_with_floats():
    built = build(Outer, GOOD, "train")
    assert built.eps == 8 / 255 and built.inner == Inner(1.0, 0.5) and built.names == ("a",)
    assert isinstance(built.inner.rate, float)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"n_itr": 3}, r"unknown key 'train.n_itr'; did you mean 'n_iter'\? \(known: eps, n_iter, .*\)"),
        ({"n_iter": 2.5}, r"train.n_iter must be a whole number, got 2.5"),
        ({"n_iter": 0}, r"train.n_iter must be at least 1, got 0"),
        ({"n_iter": True}, r"train.n_iter must be a whole number, got True"),
        ({"eps": "8 of 255"}, r"train.eps must be a number such as 0.1, 1e-3 or 8/255, got '8 of 255'"),
        ({"eps": "1/0"}, r"train.eps must be a number .* got '1/0'"),
        ({"eps": 8}, r"train.eps must be above 0 and at most 1, got 8; 8 grey levels are 8/255"),
        ({"eps": float("nan")}, r"train.eps must be a number .* got nan"),
        ({"kind": "adam"}, r"train.kind must be one of sgd, adamw, got 'adam'; did you mean 'adamw'\?"),
        ({"flag": "yes"}, r"train.flag must be true or false, got 'yes'"),
        ({"names": "a"}, r"train.names must be a list, got 'a'"),
        ({"names": [1]}, r"train.names\[0\] must be text, got 1"),
        ({"inner": {"rate": -1}}, r"train.inner.rate must be above 0, got -1"),
        ({"inner": {}}, r"missing key 'train.inner.rate'"),
        ({"inner": 3}, r"train.inner must hold keys and values, got 3"),
    ],
)
def test_bad_input_is_named_in_one_line(change, message):
    with pytest.raises(ParamError, match=f"^{message}$"):
        build(Outer, GOOD | change, "train")


def test_a_missing_key_is_named():
    with pytest.raises(ParamError, match="missing key 'train.eps'"):
        build(Outer, {k: v for k, v in GOOD.items() if k != "eps"}, "train")


def test_yaml_is_read_as_dvc_writes_it(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text("lr: 1e-05\nname: off\n")  # what -S leaves behind; YAML 1.1 reads a string and False
    assert read(path) == {"lr": 1e-05, "name": "off"}


@pytest.mark.parametrize("text", ["a: [", "a: 1\na: 2", "- 1"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path, text):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(ParamError, match="params.yaml"):
        read(path)


def test_the_block_under_a_dotted_key(document):
    assert block(document, "attacks.pgd.n_iter", Count) == document["attacks"]["pgd"]["n_iter"]
    with pytest.raises(ParamError, match="missing key 'attacks.pdg'"):
        block(document, "attacks.pdg.n_iter", Count)


def test_the_method_under_study_reads_its_own_section(document):
    assert component(document, "methods", "tga_zsr").lambda_ar == document["method"]["lambda_ar"]


def test_a_method_is_trained_as_all_are_but_for_what_its_own_block_says(document):
    common, fare = (training_of(document, name, FineTuning) for name in ("tecoa", "fare"))
    assert common == build(FineTuning, document["train"], "train")
    changed = replace(common.attack, clip_start=False)
    assert fare == replace(common, first_step_full_rate=True, attack=changed) != common


MISTAKES = [  # a text in params.yaml, what is written instead, what is said of it
    ("lambda_ar: 0.08   #", "lambda_arr: 0.08   #", "unknown key 'method.lambda_arr'; did you mean 'lambda_ar'?"),
    ("  source: glyphs ", "  source: glyph ", "data: source must name one of sets (glyphs, letters,"),
    (
        "    greek:  ",
        "    greec:  ",
        "data.sets.greec names no module of zsr.data.sets: 'greec'; did you mean 'greek'?",
    ),
    (
        "    attack: pgd\n    methods",
        "    attack: pdg\n    methods",
        "attention.things.attack is none of attacks (pgd, cw, autoattack): 'pdg'; did you mean 'pgd'?",
    ),
    ("  things:\n    attack", "  thing:\n    attack", "attention is none of data.sets (glyphs, letters,"),
    ("  pgd:\n    eps:\n", "  pdg:\n    eps:\n", "eps_sweep is none of attacks (pgd, cw, autoattack): 'pdg'"),
    (
        "  tecoa:\n    section: methods.tecoa",
        "  tekoa:\n    section: methods.tekoa",
        "methods.tekoa names no module of zsr.methods: 'tekoa'; did you mean 'tecoa'? (known: agft, checkpoint, clip, ",
    ),
    (
        "section: methods.ft_adv",
        "section: methods.ft_ad",
        "methods.ft_adv.section must be one of methods.ft_adv, method,",
    ),
    ("optimizer: adamw", "optimizer: adma", "train.optimizer must be one of sgd, adamw, muon, got 'adma'"),
    (
        "  controls: []  ",
        "  controls: [letters, greek, things, signs, games, shapes, digits_font, digits_real, textures] #",
        "data.sets needs one besides the source and the controls that cannot be left out, got glyphs, letters,",
    ),
    ("threads: 2", "threads: two", "threads must be a whole number, got 'two'"),
    ("    n_iter: 20", "    n_iter: 0", "attacks.autoattack.n_iter must be at least 1, got 0"),
    (
        "arch: zsr-tiny-32",
        "arch: zsr-tny-32",
        "model.arch must be a model name of open_clip, got 'zsr-tny-32'; did you mean 'zsr-tiny-32'?",
    ),
    (
        "arch: zsr-tiny-32",
        "arch: convnext_base",
        "model.arch must have OpenAI's towers, a ViT or ResNet",
    ),
    ("arch: zsr-tiny-32", "arch: ViT-B-16", "data.image_size must be what ViT-B-16 sees, 224, got 32"),
    ("  image_size: 32", "  image_size: 24", "data.image_size must be what zsr-tiny-32 sees, 32, got 24"),
    ("      test: 300 ", "      test: 1798 ", "data.sets.digits_real.test must be at most 1797, got 1798"),
    (
        "this is a photo of {}",
        "a {colour} {}",
        "data.template must be text that holds {} once, for the class name, and no other brace, got",
    ),
    (
        "template: this is a photo of {}",
        "template: this is a photo of {{}}",
        "data.template must be text that holds {} once",
    ),
    (
        "- 0\n\ndata:",
        "- 0\n- 1\n- 0\n\ndata:",
        "seeds must be at least one, none twice, got [0, 1, 0]",
    ),
    (
        "first_step_full_rate: true",
        "first_step_fullrate: true",
        "unknown key 'methods.fare.train.first_step_fullrate'; did you mean",
    ),
    (
        "        fixed_noise: true",
        "        fixed_noise: 2",
        "methods.comp_tga.train.attack.fixed_noise must be true or false, got 2",
    ),
    (
        "kl_reduction: sum",
        "kl_reduction: mean",
        "methods.pmg_aft.kl_reduction must be one of sum, batchmean, got 'mean'",
    ),
    (
        "norm_stats: imagenet",
        "norm_stats: imagnet",
        "methods.pmg_aft.norm_stats must be one of clip, imagenet, inception, got 'imagnet'",
    ),
    ("    clip_start: true  ", "    success: any\n    clip_start: true  ", "unknown key 'train.attack.success'"),
    ("  pgd:\n    eps:\n", "  autoattack:\n    eps:\n", "eps_sweep.autoattack: the attack must have a step_size"),
    ("distance: l2", "distance: l3", "method.distance must be one of l2, rms, l1, cos, got 'l3'"),
    ("not a photo of {}", "not a photo", "methods.comp_tga.non_class_template must be text that holds {} once"),
    ("launcher: python", "launcher: mpirun", "launcher must be one of python, torchrun, got 'mpirun'"),
    (
        "  device: cpu ",
        "  device: gpu ",
        "compute.device must be one of auto, cpu, cuda, got 'gpu'; did you",
    ),
    (
        "prompt_set: official",
        "prompt_set: clear",
        "data.prompt_set must be one of official, clean, openclip, got",
    ),
    (
        "  save_every: 25\n",
        "  save_every: 25\n  accumulate: 2\n",
        "train.accumulate must be 1 for ft_clean, whose",
    ),
    ("pool: 10000 ", "pretrained: openai ", "unknown key 'base_model.seeds'"),
    ("    images: 100 ", "    images: 5 ", "attention.things: shown <= images <= 100, got 6 and 5"),
    (
        "    - tecoa\n    - tga_zsr\n",
        "    - tecao\n    - tga_zsr\n",
        "attention.things.methods is none of methods (clip, ft_clean, ft_adv, tecoa, fare, pmg_aft, vision_attention, "
        "tga_zsr, comp_tga, embedding_anchor): 'tecao'; did you mean 'tecoa'?",
    ),
    (
        "    - tecoa\n    - tga_zsr\n",
        "    - clip\n",
        "attention.things: methods must be one to 4 rows, none twice, got",
    ),
    ("arch: zsr-tiny", "archh: zsr-tiny", "unknown key 'model.archh'; did you mean 'arch'?"),
    ("- orderings\n", "- ordering\n", "differences, likeness, got 'ordering'"),
    (
        "- trade_off\n",
        "- tradeoff\n",
        "figures[0] must be one of trade_off, trade_off_source, rows, per_set, training,",
    ),
    ("quirks: {} ", "quirks: {tekoa: {id: T1, against: clip}} ", "quirks is none of methods (clip, ft_clean, ft_adv,"),
    (
        "quirks: {} ",
        "quirks: {tecoa: {id: T1, against: klip}} ",
        "quirks.*.against is none of methods (clip, ft_clean, ft_adv, tecoa, fare, pmg_aft, vision_attention, "
        "tga_zsr, comp_tga, embedding_anchor): 'klip'; did you mean 'clip'?",
    ),
    (
        "    section: methods.tecoa",
        "    section: methods.tecoa\n    start: robust",
        "methods.tecoa.start is none of starts (none): 'robust'",
    ),
    (
        "    section: methods.tecoa",
        "    section: shared.tecoa",
        "methods.tecoa.section must be one of methods.tecoa, method, got 'shared.tecoa'",
    ),
    ("  tga_zsr:\n", "  tga_zsr:\n    order: minmax_resize\n", "the hyper-parameters of tga_zsr are in 'method'"),
    ("    non_class_template: this", "    #", "missing key 'methods.comp_tga.non_class_template'"),
    ("- orderings\n", "- rates\n", "tables: 'rates' needs grid, which this study does not have"),
    ("- orderings\n", "- transfer\n", "tables: 'transfer' needs model.head: linear, which this study does not have"),
    ("- orderings\n", "- quirks\n", "tables: 'quirks' needs quirks, which this study does not have"),
    ("- training\n", "- effective_rate\n", "figures: 'effective_rate' needs grid, which this study does not have"),
    ("- training\n", "- likeness\n", "figures: 'likeness' needs likeness, which this study does not have"),
    ("threads: 1 ", "threads: 100000 ", "threads must be at least 1 and at most 1,024, got 100000"),
    ("  pool: 10000 ", "  pool: 1000001 ", "base_model.pool must be at least 1 and at most 1,000,000, got 1000001"),
    ("      train: 5120\n", "      train: 1000001\n", "data.sets.glyphs.train must be at most 1000000, got 1000001"),
    ("up: '' ", "up: ../.. ", "up must be '' or one or several times '../', got '../..'"),
    (
        "  pgd:\n    eps: 13/255 ",
        "  pgd:\n    eps: 0.001 ",
        "eps_sweep.pgd.eps must be at most 0.06375, where attacks.pgd.step_size, which grows with eps, comes to 1; got",
    ),
    ("  cw: ", f"  {'c' * 65}: ", "attacks: a name is small letters, digits and _ after a first letter, got 'ccc"),
    ("  cw: ", "  worst_case: ", "attacks: 'worst_case' stands for all attacks together; choose another name"),
]


@pytest.mark.parametrize("text, mistake, message", MISTAKES)
def test_a_mistake_in_the_study_is_named_before_anything_runs(tmp_path, monkeypatch, text, mistake, message):
    document = (ROOT / "params.yaml").read_text()
    assert text in document
    (tmp_path / "params.yaml").write_text(document.replace(text, mistake))
    monkeypatch.setattr(study, "read", parsed)
    with pytest.raises(ParamError) as error:
        check(tmp_path / "params.yaml")
    assert message in str(error.value) and "\n" not in str(error.value)
    assert str(error.value).startswith(str(tmp_path / "params.yaml"))


def nested(key: str, value: object) -> dict:
    """A document of one dotted key."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


NAMES = ["my tecoa", "a/b", "t;touch PWNED", "$HOME", "", "TECOA", 7, "tecoa.v2", "_tecoa", "2tecoa", "tecoa\n"]


@pytest.mark.parametrize("kind", ["methods", "starts", "attacks", "shared", "protocols", "data.sets"])
@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_a_name_that_could_not_stand_in_a_path_or_a_command_is_refused(document, monkeypatch, kind, name):
    monkeypatch.setattr(study, "read", lambda path: over(document, nested(kind, {name: {}})))
    with pytest.raises(ParamError) as error:
        check("params.yaml")
    rule = "a name is small letters, digits and _ after a first letter"
    assert str(error.value) == f"params.yaml: {kind}: {rule}, got {name!r}" and "\n" not in str(error.value)


def test_rows_have_names_of_their_own_and_may_share_a_module_and_numbers(document, monkeypatch):
    rows = {
        "shared": {"refined": document["method"]},
        "starts": {"robust_2": {"section": "starts.robust_2", "module": "fare", "features": "raw"}},
        "methods": {
            "tecoa_two": {"section": "methods.tecoa_two", "module": "tecoa"},
            "refined_tga": {"section": "shared.refined", "module": "tga_zsr", "start": "robust_2"},
        },
        "attacks": {"cw_20": document["attacks"]["cw"] | {"module": "cw", "n_iter": 20}},
        "eps_sweep": {"cw_20": document["eps_sweep"]["pgd"]},
    }
    changed = over(document, rows)
    monkeypatch.setattr(study, "read", lambda path: changed)
    found = catalogue(check("params.yaml"), changed)
    assert found["methods"]["refined_tga"] == rows["methods"]["refined_tga"] and "cw_20" in found["attacks"]
    assert component(changed, "methods", "tecoa_two") == component(document, "methods", "tecoa")
    assert component(changed, "methods", "refined_tga") == component(document, "methods", "tga_zsr")
    assert component(changed, "attacks", "cw_20") == replace(component(document, "attacks", "cw"), n_iter=20)


def test_code_yaml_is_valid_whatever_a_row_is_called():
    """The check, which comes after it, says what is wrong with the name."""
    digests = {f"train.{name}": "0e1" for name in (*map(str, NAMES), "a: b", "*x", "'q", "null", "# x", "{a}")}
    found = YAML(typ="safe", pure=True).load(code.text({"check": "1"} | digests, {"torch": "2.10"}))
    assert {f"train.{name}": digest for name, digest in found["train"].items()} == digests
    assert found["check"] == "1" and found["libraries"] == {"torch": "2.10"}


def keys_of(block: dict, prefix: tuple = ()):
    for key, value in block.items():
        yield (*prefix, key)
        if isinstance(value, dict):
            yield from keys_of(value, (*prefix, key))


LEFT_OUT = object()
WRONG = (
    *(LEFT_OUT, None, "abc", "", -1, 0, 1.5, True, [], ["x"], {}, {"x": 1}, "1/0", "{}"),
    *(10**400, 10**5000, "1e999999999", "a\0b", "x" * 5000, date(2026, 1, 1)),
)


def put(block: dict, key: str, value: object) -> None:
    if value is LEFT_OUT:
        del block[key]
    else:
        block[key] = value


def assert_is_one_line(error: ParamError, key: str) -> None:
    """It begins with the file, names the key or the block of the key, and is short, however long the value is."""
    said = str(error)
    assert said.startswith("params.yaml: ") and ": : " not in said and "\n" not in said and len(said) < 700
    assert any(part in said.removeprefix("params.yaml: ") for part in key.split(".")[-2:])


def refused(document: dict, key: str, values: Iterable, monkeypatch) -> int:
    """The number of values that the check refuses at a key, each of them in one line."""
    count = 0
    *parents, last = key.split(".")
    for wrong in values:
        changed = copy.deepcopy(document)
        place = changed
        for parent in parents:
            place = place[parent]
        put(place, last, wrong)
        monkeypatch.setattr(study, "read", lambda path, changed=changed: changed)  # parsing takes longer than the check
        try:
            check("params.yaml")
        except ParamError as error:
            assert_is_one_line(error, key)
            count += 1
    return count


KEYS = [".".join(key) for key in keys_of(parsed(ROOT / "params.yaml"))]
OF_EACH_KIND = [  # a key of each kind of value and of block
    *(
        "name",
        "up",
        "threads",
        "compute",
        "compute.device",
        "seeds",
        "data",
        "data.template",
        "data.source",
        "data.sets",
    ),
    *("data.controls", "data.sets.letters", "data.sets.letters.train", "model.arch", "base_model.seeds", "starts"),
    *("train", "train.lr", "train.betas", "train.optimizer", "train.attack.eps", "train.attack.random_start", "method"),
    *("methods", "methods.tecoa", "methods.tecoa.section", "methods.fare.train", "methods.comp_tga.non_class_template"),
    *("methods.pmg_aft.logit_scale", "evaluate.protocol", "evaluate.workers", "protocols", "attacks", "attacks.cw"),
    *("attacks.pgd.success", "attacks.autoattack.version", "eps_sweep.pgd.eps", "attention.things.attack", "tables"),
]


def shared_out(keys: Sequence[str], thorough: Collection[str]) -> list:
    """Parameters (key, values): all values for some keys; for the others two in turn, and all of them with -m slow."""
    found = [pytest.param(key, WRONG, id=key) for key in thorough]
    for turn, key in enumerate(key for key in keys if key not in thorough):
        found.append(pytest.param(key, ({"x": 1}, *WRONG[turn % 10 :: 10]), id=f"{key}-some"))
        found.append(pytest.param(key, WRONG, id=key, marks=pytest.mark.slow))
    return found


@pytest.mark.parametrize("key, values", shared_out(KEYS, OF_EACH_KIND))
def test_any_value_at_any_key_is_taken_or_refused_in_one_line(document, monkeypatch, key, values):
    assert refused(document, key, values, monkeypatch) >= max(1, len(values) - 6)


PROTOCOLS = {
    "trusted": {},
    "published": {
        "evaluate": {"batch_size": 256, "precision": "fp16", "counted": "adv"},
        "attacks": {"pgd": {"step_size": "8/255", "precision": "fp16", "reduction": "mean", "success": "last"}},
    },
}


def with_protocols(chosen: str) -> dict:
    document = parsed(ROOT / "params.yaml")
    return document | {"protocols": PROTOCOLS, "evaluate": document["evaluate"] | {"protocol": chosen}}


def test_a_protocol_puts_its_values_in_place_of_others_and_leaves_the_rest():
    document = with_protocols("published")
    plain, changed = under_protocol(with_protocols("trusted")), under_protocol(document)
    before, after = (component(d, "attacks", "pgd") for d in (plain, changed))
    assert after == replace(before, step_size=8 / 255, precision="fp16", reduction="mean", success="last")
    evaluation = block(changed, "evaluate", Evaluation)
    assert (evaluation.batch_size, evaluation.precision, evaluation.counted) == (256, "fp16", "adv")
    assert evaluation.seed == block(plain, "evaluate", Evaluation).seed
    kept = {key: value for key, value in changed.items() if key not in ("evaluate", "attacks")}
    assert kept == {key: plain[key] for key in kept} and document == with_protocols("published")


@pytest.mark.parametrize(
    "key, values",
    shared_out(
        [".".join(("protocols", *key)) for key in keys_of(PROTOCOLS)],
        ["protocols.published", "protocols.published.evaluate.precision", "protocols.published.attacks.pgd.step_size"],
    ),
)
def test_a_mistake_in_a_protocol_is_named_also_where_another_is_chosen(monkeypatch, key, values):
    assert refused(with_protocols("trusted"), key, values, monkeypatch) >= max(1, len(values) - 6)


@pytest.mark.parametrize(
    "protocols, chosen, message",
    [
        (PROTOCOLS, "publishd", r"evaluate.protocol is none of protocols \(trusted, published\): 'publishd'; did you"),
        ({}, "trusted", r"evaluate.protocol is none of protocols \(none\): 'trusted'"),
        ({"trusted": {"attacks": {"pdg": {}}}}, "trusted", r"trusted.attacks.pdg is none of attacks .*mean 'pgd'"),
        ({"trusted": {"train": {}}}, "trusted", r"unknown key 'protocols.trusted.train'"),
        (
            {"trusted": {"attacks": {"pgd": {"success": "any", "precision": "fp16"}}}},
            "trusted",
            r"protocols.trusted: attacks.pgd: success: any needs",
        ),
    ],
)
def test_a_protocol_that_is_not_there_is_refused(monkeypatch, protocols, chosen, message):
    document = with_protocols(chosen) | {"protocols": protocols}
    monkeypatch.setattr(study, "read", lambda path: document)
    with pytest.raises(ParamError, match=message):
        check("params.yaml")


def test_the_check_stage_says_one_line_and_exits_with_1(tmp_path, monkeypatch):
    text = (ROOT / "params.yaml").read_text().replace("lambda_ar: 0.08   #", "lambda_ar: abc   #")
    (tmp_path / "params.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(import_module("stages.check").main, [])
    assert result.exit_code == 1 and not (tmp_path / "data").exists()
    said = "params.yaml: method.lambda_ar must be a number such as 0.1, 1e-3 or 8/255, got 'abc'"
    assert result.output == f"Error: {said}\n"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs the file system /proc of Linux")
@pytest.mark.parametrize("place", ["/proc/x", "file", "file/x", "n" * 300, "loop"])
def test_the_check_stage_refuses_a_folder_of_kept_work_that_cannot_be_written(tmp_path, monkeypatch, place):
    from stages.check import _check_scratch

    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    Path("loop").symlink_to("loop")
    monkeypatch.setenv("ZSR_SCRATCH", place)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(
        StudyError, match=rf"\AZSR_SCRATCH, the folder of kept work: {place[:40]}[^\n]* name another place\Z"
    ):
        _check_scratch()
    for right in ("new/deep", "."):
        monkeypatch.setenv("ZSR_SCRATCH", right)
        _check_scratch()
    assert sorted(tmp_path.rglob("*")) == before

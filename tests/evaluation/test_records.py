"""A record is believed for what it says and for the digest of what it says, never for its place."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from zsr import files
from zsr.evaluation.evaluate import _resumed
from zsr.evaluation.records import Mark, Record, check_alike
from zsr.params import StudyError

CELL = {"method": "tecoa", "attack": "pgd", "set_name": "letters", "seed": 0}
PROTOCOL = "pgd, eps 1/255; noise seed 0; logit scale {}; prompt 'a {{}}'; counts images right"


def record(**changes) -> Record:
    bits = np.arange(11) % 3 > 0
    given = {"fingerprint": "f", "protocol": PROTOCOL.format(100), "ids": np.arange(11), "attacks_run": ("pgd",)}
    given |= {"clean_bits": bits, "adv_bits": bits[::-1], "zero_bits": ~bits, "broken_bits": bits & False}
    return Record(**CELL | given | {"marks": (Mark("a", "b"),)} | changes)


def signed(document: dict) -> dict:
    document.pop("digest", None)
    return document | {"digest": files.json_digest(document)}


DAMAGES = {
    "a bit": lambda d: d | {"adv_bits": f"{int(d['adv_bits'], 16) ^ 1 << 9:04x}"},
    "a count": lambda d: d | {"adv_correct": d["adv_correct"] + 1},
    "a fingerprint": lambda d: d | {"fingerprint": "g"},
    "no digest": lambda d: {key: value for key, value in d.items() if key != "digest"},
    "a list": lambda d: [d],
    "contradicting count": lambda d: signed(d | {"clean_correct": 3}),
    "contradicting n": lambda d: signed(d | {"n": 10}),
    "fewer bits": lambda d: signed(d | {"clean_bits": d["clean_bits"][:2]}),
    "more bits": lambda d: signed(d | {"clean_bits": d["clean_bits"] + "00"}),
    "fewer images": lambda d: signed(d | {"ids": d["ids"][:-1], "n": 10}),
    "an image twice": lambda d: signed(record(ids=[0, *range(10)])._document()),
    "a key less": lambda d: signed({key: value for key, value in d.items() if key != "counted"}),
}


@pytest.mark.parametrize("damage", [*DAMAGES, "empty", "cut", "no file"])
def test_a_damaged_record_is_one_line_with_the_path_and_the_remedy(tmp_path, damage):
    path = tmp_path / "data/records/tecoa-pgd/0/letters.json"
    record().save(path)
    assert Record.load(path, **CELL, counted="both") == record()
    text = path.read_text()
    if damage in DAMAGES:
        path.write_text(json.dumps(DAMAGES[damage](json.loads(text))))
    else:
        path.write_text({"cut": text[:-50]}.get(damage, ""))
    if damage == "no file":
        path.unlink()
    with pytest.raises(StudyError) as caught:
        Record.load(path)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(f"{path} ")
    back = "dvc checkout --force data/records/tecoa-pgd/0/letters.json, or dvc repro -f -s evaluate@tecoa-pgd"
    assert str(caught.value).endswith(f"; run {back}")


TYPES = {"protocol": None, "method": ["tecoa"], "fingerprint": 7, "counted": {}, "forwards": "1", "gradients": 1.5}
TYPES |= {"pixels": -1, "seed": False, "zero_pixels": float("nan"), "marks": [{"name": 7, "reason": "x"}]}


@pytest.mark.parametrize("name", TYPES)
def test_a_record_with_a_value_of_another_type_is_refused_though_its_digest_is_right(tmp_path, name):
    document = record()._document() | {name: TYPES[name]}
    files.write_json(tmp_path / "r.json", document | {"digest": files.json_digest(document)})
    with pytest.raises(StudyError, match=r"r.json is no whole record \(TypeError: \w+ must be"):
        Record.load(tmp_path / "r.json")


@pytest.mark.parametrize(
    "name, other", [*{key: "other" for key in CELL}.items(), ("protocol", "x"), ("counted", "adv")]
)
def test_a_record_of_another_cell_is_refused(tmp_path, name, other):
    record().save(tmp_path / "r.json")
    with pytest.raises(StudyError, match=f"r.json is of the {name} .*, not of '?{other}"):
        Record.load(tmp_path / "r.json", **{name: other})


@pytest.mark.parametrize(
    "change",
    [
        {"counted": "adv"},
        {"protocol": PROTOCOL.format(100).replace("1/255", "2/255")},
        {"attacks_run": ("pgd", "cw")},
        {"ids": np.arange(11) + 1},
    ],
    ids=lambda change: next(iter(change)),
)
def test_two_models_must_have_been_judged_in_one_way(change):
    other = record(method="fare", protocol=PROTOCOL.format(90.5), fingerprint="g")
    check_alike(record(), other, Path("p"))  # the models' own part of a protocol may differ
    with pytest.raises(StudyError, match=f"p cannot stand beside tecoa, seed 0: {next(iter(change))[:3]}"):
        check_alike(record(), replace(other, **change), Path("p"))


@pytest.mark.parametrize("change", [{"fingerprint": "g"}, {"set_name": "x"}, {"protocol": "x"}, {"counted": "adv"}])
def test_kept_work_of_another_task_is_not_continued_and_of_a_namesake_is(tmp_path, change):
    class Images:
        ids = np.arange(20)

    record().save(tmp_path / "r")
    blank = record(**dict.fromkeys(["ids", "clean_bits", "adv_bits", "zero_bits", "broken_bits"], ()), method="equal")
    assert _resumed(tmp_path / "r", blank, Images).n == 11 and _resumed(tmp_path / "r", blank, Images).method == "equal"
    assert _resumed(tmp_path / "r", replace(blank, **change), Images).n == 0


def test_kept_work_that_is_damaged_is_set_aside_and_done_anew(tmp_path, capsys):
    blank = record(ids=(), clean_bits=(), adv_bits=(), zero_bits=(), broken_bits=())
    (tmp_path / "r.json").write_text('{"n": ')
    assert _resumed(tmp_path / "r.json", blank, None) == blank
    assert [path.name for path in tmp_path.iterdir()] == ["r.json.damaged"]
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{tmp_path / 'r.json'} is damaged") and "r.json.damaged, and is computed anew" in line


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A folder with the records of two methods, and names beside them that the project does not know."""
    monkeypatch.chdir(tmp_path)
    for method in ("tecoa", "fare"):
        files.write_atomic(Path(f"data/checkpoints/{method}/0.safetensors"), b"")
        record(method=method).save(Path(f"data/records/{method}-pgd/0/letters.json"))
    for stray in (
        ".DS_Store",
        "0.bak.safetensors",
        "x.lock",
        "._0.safetensors",
        ".0.safetensors.1-a.tmp",
        "00.safetensors",
    ):
        Path(f"data/checkpoints/fare/{stray}").write_text("")
    Path("data/records/fare-pgd/1.bak").mkdir()
    return tmp_path


SWAPS = {
    "": lambda path: None,
    "of the method 'tecoa', not of 'fare'": lambda path: record().save(path),
    "counted is 'adv' here": lambda path: record(method="fare", counted="adv").save(path),
    "is not there": lambda path: path.unlink(),
    "holds no model": lambda path: Path("data/checkpoints/fare/0.safetensors").unlink(),
}


@pytest.mark.parametrize("reason", SWAPS)
def test_collect_believes_no_record_for_its_place_and_passes_over_names_that_it_does_not_know(study, reason):
    from stages import collect

    def collected() -> dict:
        cells = [(method, "pgd", "letters") for method in ("tecoa", "fare")]
        loaded = {cell: collect._records(*cell) for cell in cells}
        collect._compare(loaded)
        return loaded

    SWAPS[reason](Path("data/records/fare-pgd/0/letters.json"))
    if not reason:
        assert [len(seeds) for seeds in collected().values()] == [1, 1]
        return
    with pytest.raises(StudyError, match=f"^data/.*{reason}") as caught:
        collected()
    assert "; run dvc checkout --force data/" in str(caught.value)


RATES = {
    "of other columns": "a,b\n1,2\n",
    "of no seed": "method,lr,seed,held_out_clean,chosen\nfare,0.1,x,50.0,1\n",
    "of no rate": "method,lr,seed,held_out_clean,chosen\nfare,,0,50.0,1\n",
    "of no choice": "method,lr,seed,held_out_clean,chosen\nfare,0.1,0,50.0,0\n",
    "empty": "",
}


@pytest.mark.parametrize("kind", RATES)
def test_collect_refuses_rates_that_no_training_has_written(study, kind):
    from stages import collect

    path = Path("data/checkpoints/fare/rates.csv")
    collect._check_rates(["tecoa", "fare"])
    path.write_text("method,lr,seed,held_out_clean,chosen\nfare,0.1,0,50.0,1\nfare,0.2,0,,0\n")
    collect._check_rates(["tecoa", "fare"])
    path.write_text(RATES[kind])
    with pytest.raises(StudyError, match="^data/checkpoints/fare/rates.csv (has|is)"):
        collect._check_rates(["tecoa", "fare"])

"""What the files of metrics/ may not say, since no stage writes it."""

import re

import pytest

from tests.checkout import ROOT
from zsr import files
from zsr.params import StudyError
from zsr.reports import charts, reading

CURVES = {
    "of another kind": ("<html>\n", "begins with other columns than step, lr, loss"),
    "of no number": ("step,lr,loss\n0,0.1,high\n", "is damaged"),
    "of an infinite number": ("step,lr,loss\n0,0.1,nan\n", "has a number that is not finite"),
    "without a step": ("step,lr,loss\n,0.1,1.0\n", "has a blank in row 1"),
    "without a loss": ("step,lr,loss,term\n0,0.1,1.0,\n1,0.1,,\n", "has a blank in row 2"),
    "of half a step": ("step,lr,loss\n0.5,0.1,1.0\n", "which is no whole number"),
}


@pytest.mark.parametrize("kind", CURVES)
def test_a_curve_is_refused(tmp_path, kind):
    path, (text, said) = tmp_path / "curve.csv", CURVES[kind]
    path.write_text(text)
    with pytest.raises(StudyError, match=said):
        reading.curve(path)


def test_a_curve_of_a_row_that_does_not_train_is_empty(tmp_path):
    (tmp_path / "curve.csv").write_text("step,lr,loss\n")
    assert reading.curve(tmp_path / "curve.csv") == []


@pytest.mark.parametrize("content", [[], {"methods": {}, "attacks": {}}, {"task": "study", "content": {}}])
def test_another_file_in_the_place_of_the_names_is_refused(tmp_path, content):
    files.write_json(tmp_path / "study.json", content)
    with pytest.raises(StudyError, match="study.json has no "):
        reading.study(tmp_path / "study.json")


FORMS = {
    "arch": (7, "arch must be text, got 7"),
    "bases": (True, "bases must be a whole number, got True"),
    "methods.clip": ("", "methods.clip must hold keys and values, got ''"),
    "attacks.pgd": (None, "attacks.pgd must be text, got None"),
    "attacks.cw": ("x/y", "has 'x/y' as eps of cw, which must be a fraction such as 8/255"),
    "groups.source": (True, "groups.source must be a list, got True"),
    "groups.all": ([{}], "groups.all[0] must be text, got {}"),
    "groups": ({"all": []}, "lacks one of the groups of sets, all and source"),
    "judged": ([[]], "judged[0] must be text, got []"),
    "classes.shapes": (0, "classes.shapes must be at least 1, got 0"),
    "absent": ({"food101": 1}, "absent.food101 must be text, got 1"),
}


@pytest.mark.parametrize("key", FORMS)
def test_names_of_another_form_are_refused(tmp_path, key):
    value, said = FORMS[key]
    content, (*parents, last) = files.read_json(ROOT / "metrics/results/study.json"), key.split(".")
    (content[parents[0]] if parents else content)[last] = value
    files.write_json(tmp_path / "study.json", content)
    with pytest.raises(files.Unusable, match=re.escape(said)):
        reading.study(tmp_path / "study.json")


def test_an_attack_that_the_study_does_not_have_is_refused(results):
    path = results("accuracy", lambda rows: rows)
    study = files.read_json(path.with_name("study.json"))
    files.write_json(path.with_name("study.json"), study | {"attacks": {"pgd": "8/255"}})
    with pytest.raises(files.Unusable, match="has 'autoattack' as attack, which is none of the study beside it"):
        reading.results(path)


def test_a_measurement_of_a_row_that_the_study_does_not_have_is_refused(tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results/study.json").write_bytes((ROOT / "metrics/results/study.json").read_bytes())
    for name in ("attention/things.csv", "eps_sweep/pgd.csv"):
        rows = files.read_rows(ROOT / "metrics" / name)
        files.write_rows(tmp_path / name, rows)
        assert reading.results(tmp_path / name) == rows
        files.write_rows(tmp_path / name, [row | {"method": row["method"].replace("clip", "klip")} for row in rows])
        with pytest.raises(files.Unusable, match="has 'klip' as method, which is none of the study"):
            reading.results(tmp_path / name)


def test_differences_of_several_rows_are_not_empty(results):
    with pytest.raises(files.Unusable, match="pairs.csv has no rows"):
        reading.results(results("pairs", lambda rows: []))


ORDERINGS = {"here": "perhaps", "paper": "inf", "first": "klip", "attack": "fab"}


@pytest.mark.parametrize("column", ORDERINGS)
def test_an_ordering_that_no_stage_writes_is_refused(tmp_path, column):
    source, pairs = ROOT / "tables/orderings.csv", reading.results(ROOT / "metrics/results/pairs.csv")
    rows = reading.orderings(source, pairs, charts.VERDICTS)
    assert len(rows) > 10
    for changed in (rows[1] | {column: ORDERINGS[column]}, {"x" + k: v for k, v in rows[1].items()}):
        files.write_rows(tmp_path / "orderings.csv", [changed])
        with pytest.raises(
            files.Unusable, match="orderings.csv has another row 1 than the stage tables wrote; run dvc"
        ):
            reading.orderings(tmp_path / "orderings.csv", pairs, charts.VERDICTS)


EDITS = {  # of a CSV file as the stage collect wrote it: its rows -> other rows
    "a row less": (lambda rows: rows[:-1], "has no row of"),
    "a row twice": (lambda rows: [*rows, rows[-1]], "has two rows of"),
    "another name": (lambda rows: [rows[0] | {"method": "other"}, *rows[1:]], "has no row of"),
    "another name throughout": (
        lambda rows: [row | {"method": row["method"].replace("clip", "other")} for row in rows],
        "has 'other' as method, which is none of the study beside it",
    ),
    "an attack less": (lambda rows: [row for row in rows if row["attack"] != "cw"], "has no attack 'cw', one of the"),
    "a column less": (lambda rows: [{k: v for k, v in row.items() if k != "low"} for row in rows], "has no column low"),
    "no rows": (lambda rows: [], "has no rows"),
    "a blank": (lambda rows: [rows[0] | {"low": ""}, *rows[1:]], "has '' as low in row 1"),
    "text": (lambda rows: [rows[0] | {"high": "text"}, *rows[1:]], "is damaged"),
    "a NUL": (lambda rows: [rows[0] | {"marks": "a\0b"}, *rows[1:]], r"has 'a\\x00b' as marks in row 1, which must be"),
    "no finite number": (lambda rows: [rows[0] | {"high": "nan"}, *rows[1:]], "has 'nan' as high in row 1"),
}
COUNTS = {"counted": "", "n": "0", "correct": "-1", "seed": "x"} | {"clean_correct": "1.5", "attack": " "}


@pytest.fixture
def results(tmp_path):
    """(name of a table, function of its rows) -> the file with other rows, beside the catalogue of the root's study."""

    def write(name, edit):
        source = ROOT / "metrics/results" / f"{name}.csv"
        path = tmp_path / source.name
        (tmp_path / "study.json").write_bytes((ROOT / "metrics/results/study.json").read_bytes())
        rows = files.read_rows(source)
        files.write_rows(path, edit(rows), header=list(rows[0]))
        return path

    return write


@pytest.mark.parametrize("name", ["accuracy", "averages"])
@pytest.mark.parametrize("edit", EDITS)
def test_a_table_that_no_stage_writes_is_refused(results, name, edit):
    assert len(reading.results(results(name, lambda rows: rows))) > 100
    change, said = EDITS[edit]
    with pytest.raises(StudyError, match=said):
        reading.results(results(name, change))


@pytest.mark.parametrize("column", COUNTS)
def test_a_count_that_is_none_is_refused(results, column):
    with pytest.raises(StudyError, match=f"accuracy.csv has '{COUNTS[column]}' as {column} in row 2, which must"):
        reading.results(results("accuracy", lambda rows: [rows[0], rows[1] | {column: COUNTS[column]}, *rows[2:]]))


def test_more_right_images_than_images_are_refused(results):
    with pytest.raises(StudyError, match="has 101 correct of 100 in row 1"):
        reading.results(results("accuracy", lambda rows: [rows[0] | {"correct": "101"}, *rows[1:]]))


@pytest.mark.parametrize("folder", ["metrics", *(f"studies/{name}/metrics" for name in ("transfer", "embedded-3"))])
def test_every_table_that_a_study_has_is_taken(folder):
    kinds = ("results", "eps_sweep", "attention", "likeness")
    found = [path for kind in kinds for path in (ROOT / folder / kind).glob("*.csv")]
    assert len(found) >= 7 and all(reading.results(path) is not None for path in found)


@pytest.mark.parametrize("content", [b"", bytes(300), b"<html>\n"])
def test_a_file_that_is_no_table_is_no_empty_table(tmp_path, content):
    for name in reading.TABLES:
        (tmp_path / f"{name}.csv").write_bytes(content)
        with pytest.raises(StudyError, match=f"{name}.csv (has no rows|is damaged)"):
            reading.results(tmp_path / f"{name}.csv")


def test_averages_may_say_that_a_set_is_left_out(tmp_path):
    rows = files.read_rows(ROOT / "metrics/results/averages.csv")
    files.write_rows(tmp_path / "averages.csv", [row | {"sets": "15 of 16"} for row in rows])
    assert reading.results(tmp_path / "averages.csv")[0]["sets"] == "15 of 16"
    files.write_rows(tmp_path / "averages.csv", [row | {"sets": "0 of 16"} for row in rows])
    with pytest.raises(StudyError, match="has '0 of 16' as sets in row 1"):
        reading.results(tmp_path / "averages.csv")

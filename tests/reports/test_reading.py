"""What the files of metrics/ may not say, since no stage writes it."""

import pytest

from zsr import files
from zsr.params import StudyError
from zsr.reports import reading

CURVES = {
    "of another kind": ("<html>\n", "begins with other columns than step, lr, loss"),
    "of no number": ("step,lr,loss\n0,0.1,high\n", "is damaged"),
    "of an infinite number": ("step,lr,loss\n0,0.1,nan\n", "has a number that is not finite"),
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


def test_a_blank_in_the_place_of_what_was_counted_is_refused(tmp_path):
    (tmp_path / "accuracy.csv").write_text("method,counted,accuracy\na,both,1.0\nb,,2.0\n")
    with pytest.raises(StudyError, match="as `counted` in row 2"):
        reading.results(tmp_path / "accuracy.csv")

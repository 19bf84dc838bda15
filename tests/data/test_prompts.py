"""Class names and prompts: the stored official ones follow the authors' rules, and are alike where theirs are."""

import ast
import re
from collections import Counter
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from zsr.data import prompts
from zsr.data.registry import entries, entry
from zsr.params import ParamError, StudyError

SETS = list(entries())
CARS = [
    "audi s4 sedan",
    "bentley continental gt coupe",
    "dodge caliber wagon",
    "dodge durango suv",
    "ford f 150 regular cab",
    "honda odyssey minivan",
    "volkswagen golf hatchback",
]
ALIKE = {
    "stanford_cars": [f"A photo of a {name}." for name in CARS],
    "imagenet": [f"This is a photo of a {name}" for name in ("cardigan", "crane", "maillot")],
}


def installed(package: str, path: str) -> Path:
    return Path(find_spec(package).origin).parent / path


def alike(texts) -> dict[str, int]:
    return {text: n for text, n in Counter(texts).items() if n > 1}


def keys(name: str) -> list[str]:
    return [row.raw_key for row in prompts.rows(name)]


@pytest.mark.parametrize("name", SETS)
def test_stored_official_names_and_prompts_follow_the_rules(name):
    for row in prompts.rows(name):
        assert prompts.official(name, row.raw_key, row.lemmas) == (row.name_official, row.prompt_official)


@pytest.mark.parametrize("name", SETS)
def test_a_file_has_all_labels_in_order_and_every_key_once(name):
    found = prompts.rows(name)
    assert [row.index for row in found] == list(range(entry(name).num_classes))
    assert len({row.raw_key for row in found}) == len(found)
    assert prompts.text(*prompts.parsed(content := (prompts.FOLDER / f"{name}.tsv").read_text())) == content


@pytest.mark.parametrize("name", SETS)
def test_official_prompts_are_alike_exactly_where_the_authors_are_and_clean_ones_never(name):
    assert alike(row.prompt_official for row in prompts.rows(name)) == dict.fromkeys(ALIKE.get(name, ()), 2)
    assert not alike(row.prompt_clean for row in prompts.rows(name))


@pytest.mark.parametrize("name", SETS)
def test_clean_names_differ_only_where_a_note_says_why(name):
    for row in prompts.rows(name):
        assert row.prompt_clean == prompts.template(name).format(row.name_clean)
        assert row.name_clean == row.name_clean.strip()
        year = row.raw_key[-5:] if name == "stanford_cars" else ""
        assert row.note or (row.name_clean, row.prompt_official.replace(row.name_official, row.name_clean)) == (
            row.name_official + year,
            row.prompt_clean,
        )


def test_labels_follow_the_order_on_disk():
    for name in ("tiny_imagenet", "cifar100", "sun397", "food101", "dtd", "eurosat", "imagenet", "caltech256"):
        assert keys(name) == sorted(keys(name))
    assert keys("caltech101")[:5] == ["Faces", "Faces_easy", "Leopards", "Motorbikes", "accordion"]
    assert keys("oxford_pets") == sorted(keys("oxford_pets"), key=str.lower)
    assert keys("stanford_cars")[1:6:4] == ["Acura RL Sedan 2012", "Acura Integra Type R 2001"]
    assert [key[:4] for key in keys("caltech256")] == [f"{number:03d}." for number in range(1, 258)]


RULES = {
    ("cifar100", "aquarium_fish"): "This is a photo of a aquarium fish",
    ("sun397", "/a/apartment_building/outdoor"): "This is a photo of a apartment building outdoor",
    ("caltech101", "Faces_easy"): "This is a photo of a faces easy",
    ("caltech256", "252.car-side-101"): "A photo of a car side.",
    ("food101", "fish_and_chips"): "A photo of fish and chips, a type of food.",
    ("oxford_pets", "Egyptian_Mau"): "A photo of a egyptian mau, a type of pet.",
    ("flowers102", "globe-flower"): "A photo of a globe flower, a type of flower.",
    ("flowers102", "cyclamen"): "A photo of a cyclamen , a type of flower.",
    ("flowers102", "colt's foot"): "A photo of a colts foot, a type of flower.",
    ("dtd", "polka-dotted"): "A surface with a polka dotted texture.",
    ("eurosat", "Highway"): "A centered satellite photo of a highway or a road.",
    ("fgvc_aircraft", "707-320"): "A photo of a boeing 707-320, a type of aircraft.",
    ("fgvc_aircraft", "F/A-18"): "A photo of a f/a-18, a type of aircraft.",
    ("stanford_cars", "Ram C/V Cargo Van Minivan 2012"): "A photo of a ram c/v cargo van minivan.",
    ("stanford_cars", "Mercedes-Benz C-Class Sedan 2012"): "A photo of a mercedes benz c class sedan.",
    ("pcam", "0"): "Tthis is a photo of healthy lymph node tissue.",
    ("pcam", "1"): "This is a photo of lymph node tumor tissue.",
}


@pytest.mark.parametrize("of", RULES, ids=":".join)
def test_hyphens_slashes_years_and_errors_are_treated_as_by_the_authors(of):
    assert prompts.official(*of)[1] == RULES[of]
    assert of[1] in keys(of[0])


def test_a_wnid_has_the_name_of_its_first_lemma():
    lemmas = dict(line.split("\t") for line in installed("timm", "data/_info/imagenet_synset_to_lemma.txt").open())
    wnids = installed("timm", "data/_info/imagenet_synsets.txt").read_text().split()
    assert keys("imagenet") == wnids and set(keys("tiny_imagenet")) <= set(wnids)
    assert prompts.official("imagenet", "n03444034", "go-kart, kart")[0] == "go kart"
    for row in (*prompts.rows("imagenet"), *prompts.rows("tiny_imagenet")):
        assert row.lemmas == lemmas[row.raw_key].strip()


def test_open_clips_names_stand_at_the_same_wnids():
    spec = spec_from_file_location("metadata", installed("open_clip", "zero_shot_metadata.py"))
    metadata = module_from_spec(spec)
    spec.loader.exec_module(metadata)
    of = dict(zip(keys("imagenet"), metadata.IMAGENET_CLASSNAMES, strict=True))
    for name, differ in {"imagenet": 293, "tiny_imagenet": 41}.items():
        assert [row.name_openclip for row in prompts.rows(name)] == [of[key] for key in keys(name)]
        names = [prompts.official("cifar10", row.name_openclip)[0] for row in prompts.rows(name)]
        assert sum(a != row.name_official for a, row in zip(names, prompts.rows(name))) == differ
    assert alike(of.values()) == {"missile": 2, "sunglasses": 2}


def test_tiny_imagenets_names_are_those_of_imagenet():
    of = {row.raw_key: row for row in prompts.rows("imagenet")}
    assert all(row.name_official == of[row.raw_key].name_official for row in prompts.rows("tiny_imagenet"))


def test_three_flowers_are_called_otherwise_by_torchvision():
    source = installed("torchvision", "datasets/flowers102.py").read_text()
    theirs = ast.literal_eval(re.search(r"classes = (\[.*?\])", source, re.S).group(1))
    assert keys("flowers102") == theirs
    said = [row.name_official for row in prompts.rows("flowers102")]
    assert [i for i, (a, b) in enumerate(zip(said, theirs)) if a != b.replace("-", " ")] == [11, 87, 90]


def test_joined_on_the_key_whatever_the_part_of_the_set():
    assert prompts.join("dtd", keys("dtd")) == prompts.rows("dtd")
    some = ["banded", "polka-dotted"]
    assert [row.raw_key for row in prompts.join("dtd", some, complete=False)] == some
    assert prompts.prompts("dtd", some)[1] == "A surface with a polka dotted texture."


@pytest.mark.parametrize(
    "given, message",
    [
        (lambda known: known[1:], "missing: 'airplane'"),
        (lambda known: [*known, "kitten"], "unexpected: 'kitten'"),
        (lambda known: [known[0], *known], "twice: 'airplane'"),
        (lambda known: [known[1], known[0], *known[2:]], "out of order: 'airplane'"),
        (lambda known: [], r"missing: 'airplane', 'automobile', 'bird' and 7 more"),
    ],
)
def test_classes_that_are_not_the_sets_are_named(given, message):
    with pytest.raises(StudyError, match=f"cifar10: the classes on disk .*{message}"):
        prompts.join("cifar10", given(keys("cifar10")))


def test_prompt_sets_of_one_class():
    assert [prompts.prompts("pcam", ["0"], of)[0][:5] for of in ("official", "clean")] == ["Tthis", "This "]
    lighthouse = [prompts.prompts("tiny_imagenet", ["n02814860"], of)[0] for of in prompts.PROMPT_SETS]
    assert lighthouse == [f"This is a photo of a {name}" for name in ("beacon", "beacon", "lighthouse")]
    with pytest.raises(ParamError, match="dtd has no prompts called 'openclip'.*known: official, clean"):
        prompts.prompts("dtd", ["banded"], "openclip")


def test_a_class_without_a_name_is_named():
    with pytest.raises(StudyError, match="eurosat: the class 'Desert' has no official name .known: AnnualCrop, Forest"):
        prompts.official("eurosat", "Desert")
    with pytest.raises(StudyError, match="imagenet: the class 'n02012849' has no official name .its lemmas"):
        prompts.official("imagenet", "n02012849")


def test_a_file_changed_by_hand_is_refused(tmp_path, monkeypatch):
    for name, change in {"dtd": ("banded texture", "banded cloth"), "stl10": ("\n9\ttruck", "\n8\ttruck")}.items():
        content = (prompts.FOLDER / f"{name}.tsv").read_text()
        (tmp_path / f"{name}.tsv").write_text(content.replace(*change, 1))
    monkeypatch.setattr(prompts, "FOLDER", tmp_path)
    prompts.rows.cache_clear()
    for name in ("dtd", "stl10"):
        with pytest.raises(StudyError, match=f"{name}.tsv is not what its first lines say.*stages.classnames"):
            prompts.rows(name)
    prompts.rows.cache_clear()


def test_what_follows_from_rules_is_made_anew():
    found = prompts.rows("flowers102")
    assert prompts.regenerated("flowers102", found) == found


@pytest.mark.parametrize(
    "change",
    [
        lambda content: b"# \n" + content,
        lambda content: content.replace(b"\n0\t", b"\nzero\t"),
        lambda content: content + b"47\n",
        lambda content: content.replace(b"\n0\t", b"\n\n0\t"),
    ],
)
def test_a_file_of_another_form_is_one_line(tmp_path, monkeypatch, change):
    content = (prompts.FOLDER / "dtd.tsv").read_bytes()
    (tmp_path / "dtd.tsv").write_bytes(change(content))
    monkeypatch.setattr(prompts, "FOLDER", tmp_path)
    prompts.rows.cache_clear()
    with pytest.raises(StudyError, match=r"\A[^\n]*dtd.tsv has a line that is neither[^\n]*\Z"):
        prompts.rows("dtd")
    (tmp_path / "dtd.tsv").write_bytes(b"\xef\xbb\xbf" + content)  # a byte order mark changes nothing
    assert len(prompts.rows("dtd")) == 47
    prompts.rows.cache_clear()

"""README.md and docs/ against the project: the generated table, links, and the commands that they show."""

import csv
import itertools
import os
import re
import shlex
import subprocess
from fnmatch import filter as matching
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks import readme_table
from tests.checkout import ROOT, files, versions
from tests.conftest import parsed

PAGES = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
RESULTS = ("tables", "figures", "metrics")  # folders of a study that its run fills


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(text.splitlines()))


def row(method: str, group: str, attack: str, mean: float, sd: str = "", marks: str = "") -> dict[str, str]:
    numbers = {"mean": f"{mean}", "low": f"{mean - 1}", "high": f"{mean + 2}", "sd": sd}
    return {"method": method, "group": group, "attack": attack, "marks": marks} | numbers


def test_the_table_of_the_readme_is_that_of_the_metrics():
    readme = readme_table.README.read_text()
    averages = versions(str(readme_table.AVERAGES.relative_to(ROOT)))
    published = [row for name in readme_table.PAPERS for row in rows_of((readme_table.PUBLISHED / name).read_text())]
    made = [readme_table.with_table(readme, rows_of(text), published) for text in averages]
    assert readme in (made or [readme_table.with_table(readme, [], [])]), "run python -m benchmarks.readme_table"


def paper(method: str, attack: str, value: str, table: str = "first") -> dict[str, str]:
    return {"table": table, "dataset": "average", "method": method, "attack": attack, "top1_percent": value}


def test_the_table_has_the_highest_worst_case_first_the_best_in_bold_and_the_papers_numbers_beside():
    averages = [row("b", "unseen", attack, 50, sd="0.5") for attack in readme_table.COLUMNS]
    averages += [row("a", "unseen", attack, 60, sd="0.7", marks="underflow") for attack in readme_table.COLUMNS]
    averages += [row("c", "unseen", attack, 20, sd="0.5") for attack in readme_table.COLUMNS]
    published = [paper("a", "none", "77.77"), paper("a", "none", "1", "later"), paper("c", "pgd100", "3.21")]
    lines = readme_table.table([*averages, row("d", "all", "clean", 0)], published).splitlines()
    cells = [[" ".join(cell.split()) for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["method", "clean", "paper", "PGD", "paper", "AutoAttack", "paper", "worst case"]
    ours, best, last = "60.0 ± 0.7 †", "**50.0 ± 0.5**", "20.0 ± 0.5"  # the first is marked
    assert cells[2:] == [
        ["a", ours, "77.8", ours, "", ours, "", ours],
        ["b", best, "", best, "", best, "", best],
        ["c", last, "", last, "3.2", last, "", last],
    ]


def test_what_stands_around_the_table_stays():
    averages = [row("a", "unseen", attack, 50) for attack in readme_table.COLUMNS]
    before, after = "# t\n\n<!-- table -->\n", "<!-- end table -->\n\nmore\n"
    once = readme_table.with_table(before + after, averages, [])
    assert once == before + readme_table.table(averages, []) + "\n" + after
    assert readme_table.with_table(once, averages, []) == once
    assert readme_table.with_table(once, [], []) == before + after
    with pytest.raises(SystemExit, match="has no place for the table"):
        readme_table.with_table("# t\n", averages, [])


def test_the_readme_is_about_three_screens_of_short_sentences():
    text = (ROOT / "README.md").read_text()
    assert 6000 <= len(text.encode()) <= 8000
    assert text.count("\n![") == 1 and len(re.findall(r"^\|[-|]+\|$", text, re.MULTILINE)) == 1
    prose = re.sub(r"```.*?```|^[|!].*?$|<!--.*?-->", "\n\n", text, flags=re.DOTALL | re.MULTILINE)
    prose = re.sub(r"\]\([^)]*\)", "]", prose)  # the addresses of links
    sentences = [line for part in re.split(r"\n\n+|\n(?=- )", prose) for line in re.split(r"(?<=[.!?])\**\s", part)]
    long = [sentence for sentence in sentences if len(sentence.split()) > 30]
    assert len(sentences) > 40 and not long


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_file_of_the_project(page):
    there = set(files())
    folders = {str(parent) for name in there for parent in Path(name).parents}
    targets = re.findall(r"\]\((?!https?:)([^)#\s]+)[^)]*\)", (ROOT / page).read_text())
    links = {os.path.normpath(Path(page).parent / target) for target in targets}
    missing = {link for link in links if link not in there | folders and not awaited(link, there)}
    assert not missing


@pytest.mark.parametrize("page", PAGES)
def test_every_anchor_is_a_heading_of_its_page(page):
    found = re.findall(r"\]\((?!https?:)([^)#\s]*)#([^)\s]+)\)", (ROOT / page).read_text())
    missing = {f"{name}#{anchor}" for name, anchor in found if anchor not in anchors((ROOT / page).parent / name, page)}
    assert not missing


def anchors(path: Path, page: str) -> set[str]:
    """The anchors that GitHub gives to the headings of a page. A path that is no file: the page itself."""
    text = re.sub(r"```.*?```", "", (path if path.is_file() else ROOT / page).read_text(), flags=re.DOTALL)
    headings = [re.sub(r"\]\([^)]*\)", "]", line) for line in re.findall(r"^#+ (.*)$", text, re.MULTILINE)]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def awaited(link: str, there: set[str]) -> bool:
    """Is it a result of a study that has not been run yet, so has no dvc.lock in git?"""
    study = Path(*Path(link).parts[:2]) if link.startswith("studies/") else Path()
    return Path(link).relative_to(study).parts[0] in RESULTS and str(study / "dvc.lock") not in there


@pytest.mark.parametrize("page", [page for page in PAGES if "```console" in (ROOT / page).read_text()])
def test_every_command_shown_can_be_run(page):
    known = {"dvc": check_dvc, "make": check_make, "python": check_python, "zsr": check_zsr}
    found = [(folder, words) for folder, words in commands((ROOT / page).read_text()) if words[0] in known]
    assert found
    for folder, words in found:
        known[words[0]](folder, words[1:])


def commands(page: str):
    """Every command of the console blocks: (folder that it runs in, its words). A prompt keeps the folder it is in.

    A clone of the project is the project's own folder.
    """
    for block in re.findall(r"```console\n(.*?)```", page, re.DOTALL):
        folders: dict[str, str] = {}
        clone = ""
        for prompt, line in re.findall(r"^(\w+ \d)?\$ (.+)$", block.replace("\\\n", " "), re.MULTILINE):
            lexer = shlex.shlex(line, posix=True, punctuation_chars="&;|")
            lexer.whitespace_split = True
            for end, words in itertools.groupby(lexer, lambda word: set(word) <= set("&;|")):
                words = list(itertools.dropwhile(lambda word: re.match(r"[A-Z_]+=", word), words))
                if words[:2] == ["git", "clone"]:
                    clone = words[-1]
                elif words[:1] == ["cd"] and words[1] == clone:
                    folders[prompt] = ""
                elif words[:1] == ["cd"]:
                    folders[prompt] = os.path.normpath(Path(folders.get(prompt, ""), words[1]))
                elif words and not end:
                    yield folders.get(prompt, ""), words


def check_dvc(folder: str, words: list[str]) -> None:
    """DVC knows the command and its options; its stages and the keys that it sets are those of the folder's study."""
    from dvc.cli.parser import get_main_parser

    given = get_main_parser().parse_args(words)
    if given.cmd in ("repro", "run"):
        for target in given.targets:
            assert matching(stages(folder), target), f"{target} is no stage of '{folder}'"
    for change in getattr(given, "set_param", None) or []:
        *parents, last = change.partition("=")[0].lstrip("+").split(".")
        block = at(parsed(ROOT / folder / "params.yaml"), parents)
        assert (last in block) != change.startswith("+"), f"-S {change}, in '{folder}'"


def check_zsr(folder: str, words: list[str]) -> None:
    """The command is there, and has the options."""
    from zsr.cli.main import main

    command = main.get_command(None, words[0])
    assert command, words
    command.make_context(words[0], list(words[1:]), resilient_parsing=True)


def stages(folder: str) -> list[str]:
    """The names of the stages of a study, and of their cells."""
    params = parsed(ROOT / folder / "params.yaml")
    names = []
    for name, stage in parsed(ROOT / folder / "dvc.yaml")["stages"].items():
        over = stage.get("matrix", {}).values() if "matrix" in stage else [stage.get("foreach")]
        keys = [list(at(params, block.strip("${}").split("."))) for block in over if block]
        names += [name, *(f"{name}@{'-'.join(cell)}" for cell in itertools.product(*keys) if cell)]
    return names


def at(document: dict, parts: list[str]) -> dict:
    for part in parts:
        document = document[part]
    return document


def check_make(folder: str, words: list[str]) -> None:
    done = subprocess.run(["make", "--dry-run", *words], cwd=ROOT / folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def check_python(folder: str, words: list[str]) -> None:
    module = words[words.index("-m") + 1]
    assert find_spec(module), f"there is no module {module}"

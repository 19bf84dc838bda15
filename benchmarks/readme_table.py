"""The table of results in README.md, from the study on three base models: python -m benchmarks.readme_table"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from zsr import files
from zsr.reports import markdown, tables
from zsr.reports.ranking import by_worst_case

ROOT = Path(__file__).parents[1]
README, AVERAGES = ROOT / "README.md", ROOT / "studies/embedded-3/metrics/results/averages.csv"
BLOCK = re.compile(r"(?<=<!-- table -->\n).*?(?=<!-- end table -->)", re.DOTALL)
PUBLISHED = ROOT / "published"
PAPERS = ("tga_zsr_tables.csv", "comp_tga_readme.csv")  # a number of an earlier file wins
GROUP = "unseen"
COLUMNS = {"clean": "clean", "pgd": "PGD", "autoattack": "AutoAttack", "worst_case": "worst case"}  # attack -> heading
PAPER = "paper"
Row = Mapping[str, str]


def main() -> None:
    published = [row for name in PAPERS for row in files.read_rows(PUBLISHED / name)]
    text = with_table(README.read_text(), files.read_rows(AVERAGES), published)
    files.write_atomic(README, text.encode())


def with_table(readme: str, averages: Sequence[Row], published: Sequence[Row]) -> str:
    """The text of README.md with the table of these averages between its two markers; without averages, with none."""
    if not BLOCK.search(readme):
        raise SystemExit("README.md has no place for the table: <!-- table -->, <!-- end table -->")
    made = f"{table(averages, published)}\n" if averages else ""
    return BLOCK.sub(lambda _: made, readme)


def table(averages: Sequence[Row], published: Sequence[Row]) -> str:
    """One line for each method, the highest worst case first. The paper's averages stand beside ours.

    averages: rows of metrics/results/averages.csv. published: rows of published/*.csv.
    """
    cells = {(row["method"], row["attack"]): _cell(row) for row in averages if row["group"] == GROUP}
    paper: dict[tuple[str, str], str] = {}
    for row in published:
        if row["dataset"] == "average":
            paper.setdefault((row["method"], row["attack"]), f"{float(row['top1_percent']):.1f}")
    header, body = ["method"], [[method] for method in by_worst_case(averages, GROUP)]
    for attack, heading in COLUMNS.items():
        in_papers = tables.PUBLISHED.get(attack)
        header += [heading] + ([PAPER] if in_papers else [])
        for line in body:
            line += [cells[line[0], attack]] + ([paper.get((line[0], in_papers), "")] if in_papers else [])
    return markdown.table(header, _bold(header, body))


def _bold(header: Sequence[str], body: Sequence[list[str]]) -> list[list[str]]:
    """The lines with our best numbers in bold, and those of the paper as they are."""
    best = markdown.bold_best(body)
    return [
        [old if name == PAPER else new for name, old, new in zip(header, *lines)]
        for lines in zip(body, best, strict=True)
    ]


def _cell(row: Row) -> str:
    return tables.shown(row) + (f" {tables.DAGGER}" if row["marks"] else "")


if __name__ == "__main__":
    main()

"""The table of results in README.md, from the study on three base models: python -m benchmarks.readme_table"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from zsr import files
from zsr.files import distinct
from zsr.reports.tables import DAGGER, markdown, shown

ROOT = Path(__file__).parents[1]
README, AVERAGES = ROOT / "README.md", ROOT / "studies/embedded-3/metrics/results/averages.csv"
BLOCK = re.compile(r"(?<=<!-- table -->\n).*?(?=<!-- end table -->)", re.DOTALL)
COLUMNS = {  # group of sets, attack -> heading
    ("unseen", "clean"): "clean",
    ("unseen", "pgd"): "PGD",
    ("unseen", "cw"): "CW",
    ("unseen", "autoattack"): "AutoAttack",
    ("source", "clean"): "clean, source",
    ("source", "autoattack"): "AutoAttack, source",
}
Row = Mapping[str, str]


def main() -> None:
    text = with_table(README.read_text(encoding="utf-8"), files.read_rows(AVERAGES))
    files.write_atomic(README, text.encode())


def with_table(readme: str, averages: Sequence[Row]) -> str:
    """The text of README.md with the table of these averages between its two markers; without averages, with none."""
    if not BLOCK.search(readme):
        raise SystemExit("README.md has no place for the table: <!-- table -->, <!-- end table -->")
    made = f"{table(averages)}\n" if averages else ""
    return BLOCK.sub(lambda _: made, readme)


def table(averages: Sequence[Row]) -> str:
    """One line for each method. averages: rows of metrics/results/averages.csv."""
    cells = {(row["method"], row["group"], row["attack"]): _cell(row) for row in averages}
    body = [[method, *(cells[(method, *column)] for column in COLUMNS)] for method in distinct(averages, "method")]
    return markdown(["method", *COLUMNS.values()], body)


def _cell(row: Row) -> str:
    return shown(row) + (f" {DAGGER}" if row["marks"] else "")


if __name__ == "__main__":
    main()

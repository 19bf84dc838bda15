"""The measured numbers on the page docs/test_time_defences.md: python -m benchmarks.defences_page"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from zsr import files
from zsr.reports import defences, markdown
from zsr.reports.tables import Part

ROOT = Path(__file__).parents[1]
PAGE, TABLE = ROOT / "docs/test_time_defences.md", ROOT / "studies/defences/tables/defences.csv"
BLOCK = re.compile(r"(?<=<!-- measured: )(\w+)( -->\n).*?(?=<!-- end measured -->)", re.DOTALL)
Row = Mapping[str, str]


def main() -> None:
    files.write_atomic(PAGE, with_numbers(PAGE.read_text(encoding="utf-8"), files.read_rows(TABLE)).encode())


def with_numbers(page: str, rows: Sequence[Row]) -> str:
    """The page with the numbers of these rows between its markers; without rows, with none.

    rows: of tables/defences.csv.
    """
    if not BLOCK.search(page):
        raise SystemExit(f"{PAGE.name} has no place for numbers: <!-- measured: NAME -->, <!-- end measured -->")
    averages = defences.means(rows)

    def block(found: re.Match) -> str:
        return found[1] + found[2] + (f"{NUMBERS[found[1]](averages)}\n" if averages else "")

    return BLOCK.sub(block, page)


def _drawn(part: Part) -> str:
    return markdown.table(part.header, part.body, part.keys)


def findings(averages: Sequence[Row]) -> str:
    """What the numbers say, as a list of sentences."""
    gaps = sorted(averages, key=lambda row: float(row["worst"]) - float(row["oblivious"]))
    above = [row for row in averages if float(row["oblivious"]) > float(row["clean"])]
    dear, best = min(averages, key=lambda row: float(row["clean"]) - float(row["undefended_clean"])), averages[0]
    texts = [
        f"The highest worst case is that of {_told(best)}: {defences.worst(best)} %.",
        f"The largest gap between the columns is that of {_told(gaps[0])}: {float(gaps[0]['oblivious']):.1f} % under "
        f"oblivious attacks, {float(gaps[0]['worst']):.1f} % in the worst case.",
        "Higher under oblivious attacks than without an attack: " + (", ".join(map(_reversed, above)) or "none") + ".",
        f"The largest loss without an attack is that of {_told(dear)}: {float(dear['undefended_clean']):.1f} % of the "
        f"tower alone, {float(dear['clean']):.1f} % with the defence.",
        "With a mark: " + (", ".join(map(_told, (row for row in averages if row["marks"]))) or "none") + ".",
    ]
    return "\n".join(markdown.item(text) for text in texts)


def _told(row: Row) -> str:
    return f"`{defences.name_of(row)}` on `{row['method']}`"


def _reversed(row: Row) -> str:
    return f"{_told(row)} ({float(row['oblivious']):.1f} % against {float(row['clean']):.1f} %)"


NUMBERS: dict[str, Callable[[Sequence[Row]], str]] = {
    "findings": findings,
    "accuracies": lambda averages: _drawn(defences.accuracies(averages)),
    "intervals": lambda averages: _drawn(defences.intervals(averages)),
    "costs": lambda averages: _drawn(defences.costs(averages)),
    "medians": lambda averages: _drawn(defences.medians_of_decisions(averages)),
}


if __name__ == "__main__":
    main()

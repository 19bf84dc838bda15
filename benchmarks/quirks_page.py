"""The measured effects on the page docs/quirks.md, from the ablation's table: python -m benchmarks.quirks_page"""

import re
from pathlib import Path

from zsr import files

ROOT = Path(__file__).parents[1]
PAGE, TABLE = ROOT / "docs/quirks.md", ROOT / "studies/ablation/tables/quirks.md"
EFFECT = re.compile(r"`(\w+)`: clean ([^;|]+?), PGD ([^;|]+?)(?=;| \|)")


def main() -> None:
    text = with_effects(PAGE.read_text(encoding="utf-8"), effects(TABLE.read_text(encoding="utf-8")))
    files.write_atomic(PAGE, text.encode())


def effects(table: str) -> dict[str, tuple[str, str]]:
    """Row -> its effects without an attack and under PGD, as tables/quirks.md writes them, without daggers."""
    table = table.replace("\N{NO-BREAK SPACE}", " ")
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line[:1] == "|"]
    clean, pgd = (lines[0].index(name) for name in ("clean", "pgd"))
    return {cells[1]: (cells[clean].partition(" †")[0], cells[pgd].partition(" †")[0]) for cells in lines[2:]}


def with_effects(page: str, measured: dict[str, tuple[str, str]]) -> str:
    """The page, with the measured effects of each row that the page names."""

    def effect(said: re.Match) -> str:
        clean, pgd = measured[said[1]]
        return f"`{said[1]}`: clean {clean}, PGD {pgd}"

    return EFFECT.sub(effect, page)


if __name__ == "__main__":
    main()

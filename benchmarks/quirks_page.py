"""The measured effects on the page docs/quirks.md, from the tables of two studies: python -m benchmarks.quirks_page"""

import re
from pathlib import Path

from zsr import files

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/quirks.md"
TABLES = tuple(f"studies/{study}/tables/quirks.md" for study in ("ablation", "frontier"))
EFFECT = re.compile(r"`(\w+)`: clean ([^;|]+?), PGD ([^;|]+?)(?=;| \|)")


def main() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for table in filter(Path.is_file, (ROOT / name for name in TABLES)):
        page = with_effects(page, effects(table.read_text(encoding="utf-8")))
    files.write_atomic(PAGE, page.encode())


def effects(table: str) -> dict[str, tuple[str, str]]:
    """Row -> its effects without an attack and under PGD, as tables/quirks.md writes them, without daggers.

    The file has several tables where one would be too wide, and each has a header of its own.
    """
    found: dict[str, dict[str, str]] = {}
    header: list[str] = []
    for line in table.replace("\N{NO-BREAK SPACE}", " ").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            header = []
        elif not header:
            header = cells
        elif not set(line) <= set("|-: "):
            row = dict(zip(header, cells, strict=True))
            found.setdefault(row["row"], {}).update({name: cell.partition(" †")[0] for name, cell in row.items()})
    return {name: (row["clean"], row["pgd"]) for name, row in found.items()}


def with_effects(page: str, measured: dict[str, tuple[str, str]]) -> str:
    """The page, with the measured effects of each row that the page names and the table has."""

    def effect(said: re.Match) -> str:
        clean, pgd = measured.get(said[1], said.groups()[1:])
        return f"`{said[1]}`: clean {clean}, PGD {pgd}"

    return EFFECT.sub(effect, page)


if __name__ == "__main__":
    main()

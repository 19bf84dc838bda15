"""Markdown, LaTeX and CSV tables, from files in git alone: a clone without models or images can edit and rerun this."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from stages.command import CURVES, METRICS, PUBLISHED, RESULTS, stage
from zsr import files
from zsr.params import Count, Positive, block
from zsr.reports import comparison, rates_tables, tables, transfer_tables
from zsr.reports.rates_tables import chosen, twins_and_controls, with_rates
from zsr.reports.transfer_tables import Facts

OUT = Path("tables")
PAPERS = ("tga_zsr_tables.csv", "comp_tga_readme.csv")  # the first that has a number counts


@dataclass(frozen=True)
class Measured:
    """The rows that the stage `collect` has left, each read when a table asks for it."""

    document: Mapping

    def __getattr__(self, name: str) -> list[dict[str, str]]:
        return files.read_rows(RESULTS / f"{name}.csv")

    @cached_property
    def study(self) -> dict:
        """The catalogue of the study, with the classes of every set."""
        return files.read_json(RESULTS / "study.json")

    @cached_property
    def paper(self) -> list[dict[str, str]]:
        """The numbers of the papers."""
        return [row for name in PAPERS for row in files.read_rows(PUBLISHED / name)]

    @property
    def title(self) -> str:
        return block(self.document, "name", str)

    @cached_property
    def alike(self) -> list[dict[str, str]]:
        """What was measured of the likeness of models."""
        return [row for path in sorted((METRICS / "likeness").glob("*.csv")) for row in files.read_rows(path)]

    @cached_property
    def transfer(self) -> tuple[list[dict], Facts]:
        """Rows of the transfer study, and what stands below its tables."""
        notes = transfer_tables.notes(block(self.document, "caution", str), self.accuracy, self.marks)
        (source,) = self.study["groups"]["source"]
        facts = Facts(self.title, notes, tuple(self.study["attacks"].values()), self.study["classes"][source])
        return transfer_tables.rows_of_cells(self.accuracy, self.study), facts


def _rates(of: Measured) -> None:
    held_out, pairs = block(of.document, "grid.held_out", Count), twins_and_controls(of.study["methods"])
    rates_tables.study(OUT, of.averages, of.pairs, pairs, of.rates, of.marks, held_out, of.title)


def _effective_rate(of: Measured) -> None:
    shown = str(block(of.document, "grid.shown_lr", Positive))
    curves = with_rates(CURVES, of.rates)
    rates_tables.effective_rates(OUT, curves, chosen(of.rates), shown, f"Effective rates, {of.title}")


def _transfer(of: Measured) -> None:
    rows, facts = of.transfer
    transfer_tables.accuracy(OUT, rows, facts, transfer_tables.flags(of.alike, facts.classes))


def _differences(of: Measured) -> None:
    rows, facts = of.transfer
    transfer_tables.differences(OUT, transfer_tables.difference_rows(rows, facts), facts)


TABLES: dict[str, Callable[[Measured], None]] = {
    "accuracy": lambda of: tables.accuracy(OUT, of.accuracy, of.averages, f"Accuracy, {of.title}", of.marks),
    "attacks": lambda of: tables.attacks(
        OUT, of.averages, of.attacks, "all", f"Attacks side by side, {of.title}", of.marks
    ),
    "audit": lambda of: tables.audit(OUT, of.marks, of.checks, f"Audit, {of.title}"),
    "orderings": lambda of: tables.orderings(
        OUT, of.pairs, of.paper, "all", f"Orderings of the paper, {of.title}", of.marks
    ),
    "published": lambda of: comparison.write(
        OUT, of.accuracy, of.averages, of.paper, f"Beside the published numbers, {of.title}", of.marks
    ),
    "ablation": lambda of: tables.ablation(OUT, of.averages, of.title, of.marks),
    "quirks": lambda of: tables.quirks(
        OUT, of.pairs, of.document["quirks"], f"Effects of quirks, {of.title}", of.marks
    ),
    "rates": _rates,
    "effective_rate": _effective_rate,
    "elsewhere": lambda of: rates_tables.elsewhere(
        OUT, files.read_rows(PUBLISHED / "autolora_table2.csv"), "TWINS elsewhere"
    ),
    "transfer": _transfer,
    "differences": _differences,
    "likeness": lambda of: transfer_tables.likeness(OUT, of.alike, ", ".join(of.document["likeness"]), of.transfer[1]),
}


@stage("tables")
def main(document: Mapping, code: str) -> None:
    measured = Measured(document)
    for name in document["tables"]:
        TABLES[name](measured)


if __name__ == "__main__":
    main()

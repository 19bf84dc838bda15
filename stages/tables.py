"""Markdown, LaTeX and CSV tables, from files in git alone: a clone without models or images can edit and rerun this."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import click

from stages.command import CURVES, METRICS, PUBLISHED, RESULTS, stage
from zsr import files
from zsr.params import Count, Positive, block
from zsr.reports import comparison, defences, leaderboard, reading, tables
from zsr.reports.ranking import under_study
from zsr.scratch import ROOT

OUT = Path("tables")
ENTRIES = ROOT / "leaderboard"
PAPERS = ("tga_zsr_tables.csv", "comp_tga_readme.csv")  # a number of an earlier file wins


@dataclass(frozen=True)
class Measured:
    """The CSV files of the stage `collect`. A file is read when a table uses it."""

    document: Mapping

    def __getattr__(self, name: str) -> list[dict[str, str]]:
        return reading.results(RESULTS / f"{name}.csv")

    @cached_property
    def study(self) -> dict:
        """The catalogue of the study, with the classes of every set."""
        return reading.study(RESULTS / "study.json")

    @cached_property
    def paper(self) -> list[dict[str, str]]:
        """The numbers of the papers."""
        return [row for name in PAPERS for row in files.read_rows(PUBLISHED / name)]

    @property
    def title(self) -> str:
        return reading.titled(block(self.document, "name", str), self.study)

    @cached_property
    def alike(self) -> list[dict[str, str]]:
        """The rows of all likeness measurements."""
        paths = reading.of_names(METRICS / "likeness", self.document["likeness"])
        return [row for path in paths for row in reading.results(path)]

    @cached_property
    def defended(self) -> list[dict[str, str]]:
        """The rows of all defences at test time."""
        return reading.defended(METRICS / "defended", self.document["defences"])

    @cached_property
    def transfer(self) -> tuple[list[dict], tables.Facts]:
        """The rows of the transfer study, and the facts below its tables."""
        notes = tables.transfer_notes(block(self.document, "caution", str), self.accuracy, self.marks)
        (source,) = self.study["groups"]["source"]
        facts = tables.Facts(self.title, notes, tuple(self.study["attacks"].values()), self.study["classes"][source])
        return tables.rows_of_cells(self.accuracy, self.study), facts


def _rates(measured: Measured) -> None:
    held_out = block(measured.document, "grid.held_out", Count)
    compared = tables.twins_and_controls(measured.study["methods"])
    tables.rates(
        OUT, measured.averages, measured.pairs, compared, measured.rates, measured.marks, held_out, measured.title
    )


def _effective_rate(measured: Measured) -> None:
    shown = str(block(measured.document, "grid.shown_lr", Positive))
    curves = tables.with_rates(CURVES, measured.rates)
    tables.effective_rate(OUT, curves, tables.chosen(measured.rates), shown, f"Effective rates, {measured.title}")


def _transfer(measured: Measured) -> None:
    rows, facts = measured.transfer
    tables.transfer(OUT, rows, facts, tables.flags(measured.alike, facts.classes))


def _differences(measured: Measured) -> None:
    rows, facts = measured.transfer
    tables.differences(OUT, tables.difference_rows(rows, facts), facts)


def _vs(measured: Measured) -> None:
    subject = under_study(measured.study["methods"])
    tables.vs(OUT, measured.pairs, subject, f"Every method minus {subject}, {measured.title}", measured.marks)


def _leaderboard(measured: Measured) -> None:
    rows = leaderboard.measured(measured.study, measured.averages, measured.accuracy, measured.title)
    rows += leaderboard.defended(measured.study, measured.defended, measured.title)
    text = leaderboard.table(leaderboard.read(ENTRIES) + rows)
    files.write_atomic(OUT / "leaderboard.md", text.encode())


TABLES: dict[str, Callable[[Measured], None]] = {
    "accuracy": lambda measured: tables.accuracy(
        OUT,
        measured.accuracy,
        measured.averages,
        f"Accuracy, {measured.title}",
        measured.marks,
        measured.study["bases"],
    ),
    "vs": _vs,
    "attacks": lambda measured: tables.attacks(
        OUT, measured.averages, measured.attacks, "all", f"Attacks side by side, {measured.title}", measured.marks
    ),
    "audit": lambda measured: tables.audit(OUT, measured.marks, measured.checks, f"Audit, {measured.title}"),
    "orderings": lambda measured: tables.orderings(
        OUT, measured.pairs, measured.paper, "all", f"Orderings of the paper, {measured.title}", measured.marks
    ),
    "published": lambda measured: comparison.write(
        OUT,
        measured.accuracy,
        measured.averages,
        measured.paper,
        f"Beside the published numbers, {measured.title}",
        measured.marks,
    ),
    "ablation": lambda measured: tables.ablation(OUT, measured.averages, measured.title, measured.marks),
    "quirks": lambda measured: tables.quirks(
        OUT, measured.pairs, measured.document["quirks"], f"Effects of quirks, {measured.title}", measured.marks
    ),
    "defences": lambda measured: defences.table(OUT, measured.defended, f"Defences at test time, {measured.title}"),
    "leaderboard": _leaderboard,
    "rates": _rates,
    "effective_rate": _effective_rate,
    "elsewhere": lambda measured: tables.elsewhere(
        OUT, files.read_rows(PUBLISHED / "autolora_table2.csv"), "TWINS elsewhere"
    ),
    "transfer": _transfer,
    "differences": _differences,
    "likeness": lambda measured: tables.likeness(
        OUT, measured.alike, ", ".join(measured.document["likeness"]), measured.transfer[1]
    ),
}


@stage("tables")
def main(document: Mapping, code: str) -> None:
    measured = Measured(document)
    for name in document["tables"]:
        TABLES[name](measured)
    click.echo(f"{OUT}: {', '.join(sorted(path.name for path in OUT.glob('*.md')))}")


if __name__ == "__main__":
    main()

"""The report of a study, one page for a browser, from files in git alone."""

import platform
from collections.abc import Mapping
from pathlib import Path

from stages.command import CODE, METRICS, RESULTS, stage
from zsr import files
from zsr.params import read
from zsr.reports import charts, reading, report
from zsr.scratch import ROOT

OUT, TABLES = Path("report.html"), Path("tables")


def source(document: Mapping) -> report.Source:
    """What the files of the study say. A table that the study does not write is empty."""
    names = ("accuracy", "averages", "pairs", "attacks", "marks", "checks", "rates")
    results, tables = {name: reading.results(RESULTS / f"{name}.csv") for name in names}, document["tables"]
    differences = files.read_rows(TABLES / "differences.csv") if "differences" in tables else ()
    orderings: report.Rows = ()
    if "orderings" in tables:
        orderings = reading.orderings(TABLES / "orderings.csv", results["pairs"], charts.VERDICTS)
    maps = METRICS / "attention"
    return report.Source(
        document=document,
        study=reading.study(RESULTS / "study.json"),
        **results,
        orderings=orderings,
        differences=differences,
        sweeps={name: reading.results(METRICS / f"eps_sweep/{name}.csv") for name in document["eps_sweep"]},
        attention={
            name: ((maps / f"{name}.png").read_bytes(), reading.results(maps / f"{name}.csv"))
            for name in document["attention"]
        },
        likeness={name: reading.results(METRICS / f"likeness/{name}.csv") for name in document["likeness"]},
        defended=reading.defended(METRICS / "defended", document["defences"]),
        libraries=read(CODE)["libraries"],
        python=".".join(platform.python_version_tuple()[:2]),
        citation=read(ROOT / "CITATION.cff"),
    )


@stage("report")
def main(document: Mapping, code: str) -> None:
    import vl_convert

    files.write_atomic(OUT, report.page(source(document), vl_convert.javascript_bundle()).encode())


if __name__ == "__main__":
    main()

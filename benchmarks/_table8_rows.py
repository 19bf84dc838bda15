"""Rows of the tables that benchmarks.table8 prints, the published numbers beside ours. No GPU, no model."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks._study_hours import Rates
from zsr import files

PUBLISHED = Path("published/tga_zsr_cost.csv")
PUBLISHED_BATCH = 128


def beside(rows: Sequence[Mapping], published: Path = PUBLISHED) -> list[dict]:
    """The rows with the ratio of their seconds to TeCoA's of the same batch, and at the paper's batch its numbers."""
    of_paper = {row["method"]: row for row in files.read_rows(published)}
    tecoa = {row["batch"]: row["seconds"] for row in rows if row["method"] == "tecoa"}
    first, found = float(of_paper["tecoa"]["train_s_per_batch"]), []
    for row in rows:
        own = of_paper.get(row["method"], {}) if row["batch"] == PUBLISHED_BATCH else {}
        seconds = float(own["train_s_per_batch"]) if own else None
        found.append(
            dict(row)
            | {
                "to_tecoa": row["seconds"] / tecoa[row["batch"]] if row["batch"] in tecoa else None,
                "paper_seconds": seconds,
                "paper_mb": float(own["train_memory_mb"]) if own else None,
                "paper_to_tecoa": None if seconds is None else seconds / first,
            }
        )
    return found


def extrapolated(few: Sequence[int], values: Sequence[float], n: int) -> float:
    """What grows by the same with every iteration, from its values at two numbers of them, at a third.

    At least in proportion to the larger of the two where noise makes the growth look smaller than nothing.
    """
    (low, high), (before, after) = few, values
    growth = (after - before) / (high - low)
    return after + growth * (n - high) if growth > 0 else after * n / high


def rates(steps: Sequence[Mapping], evaluations: Sequence[Mapping]) -> Rates:
    """Images a second by method or attack, and batch size."""
    found: dict[str, dict[int, float]] = {}
    for key, rows in (("method", steps), ("attack", evaluations)):
        for row in rows:
            found.setdefault(row[key], {})[row["batch"]] = row["images_per_second"]
    return found


def matmul_rates(rows: Sequence[Mapping]) -> dict[str, float]:
    return {name: rate for row in rows for name, rate in row["matmul_tflops"].items()}


def step_cells(row: Mapping) -> dict[str, str]:
    """A row of the printed table; what the paper does not have is empty."""

    def shown(key: str, form: str) -> str:
        return "" if row[key] is None else format(row[key], form)

    return {
        "method": row["method"],
        "batch": str(row["batch"]),
        "attack": row["attack"],
        "optimiser": row["optimizer"],
        "s / step": f"{row['seconds']:.3g}",
        "images / s": f"{row['images_per_second']:.4g}",
        "peak MB": f"{row['peak_mb']:.0f}",
        "share": f"{row['share']:.0%}",
        "/ TeCoA": shown("to_tecoa", ".2f"),
        "paper s": shown("paper_seconds", "g"),
        "paper MB": shown("paper_mb", ".0f"),
        "paper / TeCoA": shown("paper_to_tecoa", ".2f"),
    }


def speed_cells(row: Mapping) -> dict[str, str]:
    """A row of the printed table."""
    iterations = f"{row['n_iter']}" if row["n_iter"] else ""
    return {"attack": row["attack"], "iterations": iterations, "batch": str(row["batch"])} | {
        "images / s": f"{row['images_per_second']:.4g}",
        "gradients an image": f"{row['gradients']:.0f}",
        "kept": f"{row['kept']:.0%}",
    }

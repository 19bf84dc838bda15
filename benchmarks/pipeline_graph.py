"""The picture of the graph in docs/pipeline.md, from dvc.yaml: python -m benchmarks.pipeline_graph"""

import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path

import networkx

from zsr import files
from zsr.params import read

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/pipeline.md"
BLOCK = re.compile(r"(?<=<!-- graph -->\n).*?(?=<!-- end graph -->)", re.DOTALL)


def main() -> None:
    files.write_atomic(PAGE, with_picture(PAGE.read_text(encoding="utf-8"), read(ROOT / "dvc.yaml")["stages"]).encode())


def with_picture(page: str, stages: Mapping[str, Mapping]) -> str:
    """The text of the page with the picture of these stages between its two markers."""
    if not BLOCK.search(page):
        raise SystemExit(f"{PAGE.name} has no place for the picture: <!-- graph -->, <!-- end graph -->")
    return BLOCK.sub(lambda _: picture(stages), page)


def picture(stages: Mapping[str, Mapping]) -> str:
    """A Mermaid flowchart: an arrow from each stage to those that need it, unless a longer way leads there.

    A stage that runs once for each entry of a block has a double frame.
    """
    nodes = [f"  {name}[[{name}]]" if {"do", "matrix"} & set(stage) else f"  {name}" for name, stage in stages.items()]
    needs = networkx.DiGraph()
    needs.add_nodes_from(stages)
    needs.add_edges_from(_needs(stages))
    arrows = [f"  {first} --> {second}" for first, second in networkx.transitive_reduction(needs).edges]
    return "\n".join(["```mermaid", "flowchart TB", *nodes, *sorted(arrows), "```", ""])


def _needs(stages: Mapping[str, Mapping]) -> Iterator[tuple[str, str]]:
    """Pairs of stages: the second one reads what the first one writes."""
    written = {name: list(_paths(stage, "outs", "metrics", "plots")) for name, stage in stages.items()}
    for second, stage in stages.items():
        for path in _paths(stage, "deps", "params"):
            yield from ((first, second) for first, outs in written.items() if any(_meet(path, out) for out in outs))


def _paths(stage: Mapping, *kinds: str) -> Iterator[tuple[str, ...]]:
    """The folders and file names of the paths of a stage. "*" stands for what is filled in."""
    for kind in kinds:
        for entry in stage.get("do", stage).get(kind, []):
            if kind != "params" or isinstance(entry, Mapping):  # other params are in params.yaml
                path = entry if isinstance(entry, str) else next(iter(entry))
                yield tuple(re.sub(r"\$\{[^}]*\}", "*", path).split("/"))


def _meet(first: tuple[str, ...], second: tuple[str, ...]) -> bool:
    """May one path be the other path, or be inside of it?"""
    return all(fnmatch(a, b) or fnmatch(b, a) for a, b in zip(first, second))


if __name__ == "__main__":
    main()

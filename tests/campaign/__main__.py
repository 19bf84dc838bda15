"""The fuzzing campaign: random damage to every input, through the public commands, and a table of what came of it.

    python -m tests.campaign --seed 1 --cases 500 --minutes 15
    python -m tests.campaign --seed 1 --only images/17         (one case again; its folder is kept)

A case is made from the seed, its group and its number alone. Every case runs in a fork of this process, which has the
libraries, and compares what it gets with what an undisturbed run makes. docs/reliability.md has the table of the last
run; `--write` puts it there.
"""

import json
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import date
from pathlib import Path

import click

from tests.campaign import fetched, forks, kills, own, params, pictures, verdicts, weights, world
from tests.campaign.verdicts import FATAL, GROUPS, TAKEN, Finding
from tests.checkout import ROOT

CASES: dict[str, Callable[[random.Random, world.World, Path], Finding]] = {
    "params": params.params,
    "images": pictures.images,
    "archives": fetched.archives,
    "mirrors": fetched.mirrors,
    "weights": weights.weights,
    "disk": own.disk,
    "own": own.own,
    "late": params.late,
    "kills": kills.kills,
}
WAITING = ("mirrors",)  # cases that wait more than they compute run beside the others
PAGE = ROOT / "docs" / "reliability.md"
Numbered = tuple[str, int]


@click.command(help=__doc__)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--cases", type=click.IntRange(1), default=500, show_default=True, help="Number of cases.")
@click.option("--minutes", type=float, default=0, help="Begin no case after so many minutes; 0: no limit.")
@click.option("--only", multiple=True, help="A case, as GROUP/NUMBER, or a whole GROUP.")
@click.option("--lanes", type=click.IntRange(1), default=os.cpu_count() or 1, help="Cases at the same time.")
@click.option("--verbose", is_flag=True, help="Tell every case, also those that are as they should be.")
@click.option("--write", is_flag=True, help="Put the table into docs/reliability.md.")
def main(seed: int, cases: int, minutes: float, only: tuple[str, ...], lanes: int, verbose: bool, write: bool) -> None:
    warnings.simplefilter("ignore")  # of libraries that make damaged inputs
    began, base = time.monotonic(), Path(tempfile.mkdtemp(prefix="campaign-"))
    chosen = [case for case in numbered(cases) if not only or {case[0], "/".join(map(str, case))} & set(only)]
    chosen += [(group, int(number)) for group, number in (one.split("/") for one in only if "/" in one)]
    chosen = list(dict.fromkeys(chosen))
    forks.warm()
    made = world.built(base / "world")
    click.echo(f"{len(chosen)} cases, seed {seed}; ready after {time.monotonic() - began:.0f} s", err=True)
    found, until = [], began + 60 * minutes if minutes else float("inf")
    keep = bool(only) and len(chosen) <= 3
    for case, finding in _all(chosen, seed, made, base / "cases", lanes, until, keep):
        found.append((case, finding))
        if verbose or not finding.fine or keep:
            click.echo(f"{case[0]}/{case[1]}: {finding.kind}: {finding.label}: {finding.note}", err=True)
    order = {case: place for place, case in enumerate(chosen)}
    found.sort(key=lambda item: order[item[0]])
    counted = [(group, finding) for (group, _), finding in found]
    took = (time.monotonic() - began) / 60
    text = verdicts.report(counted, date.today().isoformat(), seed, took, len(chosen) - len(found))
    click.echo(f"\n{text}\n\n{listed(found, seed)}")
    changed = made.unchanged()
    if write:
        verdicts.write_block(PAGE, text)
    if keep:
        click.echo(f"The folders of the cases are kept: {base / 'cases'}", err=True)
    else:
        shutil.rmtree(base, ignore_errors=True)
    if changed:
        raise click.ClickException(f"cases have changed the inputs of others: {', '.join(changed[:5])}")
    sys.exit(int(any(failed(group, finding) for group, finding in counted)))


def failed(group: str, finding: Finding) -> bool:
    """Does the campaign fail because of this case?"""
    return finding.kind in FATAL or (group == "kills" and finding.kind != TAKEN)


def numbered(cases: int) -> list[Numbered]:
    """So many cases, the groups by their shares and evenly mixed, so that a run that is cut short has of all."""
    share = sum(share for _, share in GROUPS.values())
    counts = {group: max(round(cases * part / share), 1) for group, (_, part) in GROUPS.items()}
    places = [((k + 0.5) / n, group, k) for group, n in counts.items() for k in range(n)]
    return [(group, k) for _, group, k in sorted(places)]


def listed(found: list[tuple[Numbered, Finding]], seed: int) -> str:
    """Every case that is not fine, and how to repeat it."""
    worst = {kind: place for place, kind in enumerate((*FATAL[1:2], *FATAL[:1], *FATAL[2:]))}
    odd = sorted((item for item in found if not item[1].fine), key=lambda item: worst.get(item[1].kind, len(worst)))
    lines = [f"{f.kind}: {f.label}: {f.note}\n  --seed {seed} --only {group}/{number}" for (group, number), f in odd]
    return "\n".join([*lines, f"{len(odd)} of {len(found)} cases are not as they should be."])


def _all(
    cases: list[Numbered], seed: int, made: world.World, base: Path, lanes: int, until: float, keep: bool
) -> Iterator[tuple[Numbered, Finding]]:
    """Run the cases, several at a time. Those that wait have lanes of their own."""
    base.mkdir()
    queues = {True: [c for c in cases if c[0] in WAITING][::-1], False: [c for c in cases if c[0] not in WAITING][::-1]}
    running: dict[int, tuple[Numbered, Path]] = {}
    while any(queues.values()) or running:
        for waits, queue in queues.items():
            busy = sum((case[0] in WAITING) == waits for case, _ in running.values())
            if queue and busy < (4 if waits else lanes):
                if time.monotonic() > until:
                    queue.clear()
                    continue
                case = queue.pop()
                folder = base / f"{case[0]}_{case[1]}"
                running[_forked(case, seed, made, folder)] = case, folder
        if not running:
            continue
        pid, _ = os.waitpid(-1, os.WNOHANG)
        if not pid:
            time.sleep(0.01)
        elif pid in running:
            case, folder = running.pop(pid)
            yield case, _read(folder)
            if not keep:
                shutil.rmtree(folder, ignore_errors=True)


def _forked(case: Numbered, seed: int, made: world.World, folder: Path) -> int:
    """A fork that runs one case and leaves its finding in the folder."""
    folder.mkdir()
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    try:
        group, number = case
        (folder / "work").mkdir()
        finding = CASES[group](random.Random(f"{seed}/{group}/{number}"), made, folder / "work")
        (folder / "finding.json").write_text(json.dumps(asdict(finding)))
    except BaseException:
        (folder / "failed.txt").write_text(traceback.format_exc())
    finally:
        os._exit(0)


def _read(folder: Path) -> Finding:
    path = folder / "finding.json"
    if path.exists():
        return Finding(**json.loads(path.read_text()))
    said = (folder / "failed.txt").read_text() if (folder / "failed.txt").exists() else "no finding"
    raise click.ClickException(f"the campaign itself failed in {folder}:\n{said}")


if __name__ == "__main__":
    main()

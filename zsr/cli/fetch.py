"""The public sets, downloaded or imported below the data root and checked; sets by name, or `all` of them."""

import json
import sys
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import click

from zsr.cli.command import EXISTING, WRITTEN, Measure, check_written
from zsr.cli.running import OneLine
from zsr.data import plan
from zsr.data.fetching import hub
from zsr.data.fetching.download import Patience
from zsr.data.fetching.fetch import Wish, fetch_all
from zsr.data.registry import entries, entry
from zsr.params import Interval, StudyError, line_of

Seconds = Annotated[float, Interval(0.1, ceiling=86_400)]  # sockets take no more than their clock holds
Rate = Annotated[float, Interval(0, ceiling=1e12)]  # bytes a second


@click.command(cls=OneLine)
@click.argument("sets", nargs=-1)
@click.option("--root", type=WRITTEN, envvar="DATA_ROOT", default="downloads", show_default=True, help="Or DATA_ROOT.")
@click.option("--split", type=click.Choice(["test", "train"]), default="test", show_default=True)
@click.option("--from", "given", type=EXISTING, help="Import files from this folder instead of downloading them.")
@click.option("--accept-imagenet-terms", "accepted", is_flag=True, help="You have accepted them at image-net.org.")
@click.option("--timeout", type=Measure(Seconds), default=30, show_default=True, help="Seconds without a byte.")
@click.option(
    "--least-rate",
    type=Measure(Rate),
    default=1000,
    show_default=True,
    help="Bytes a second, over a minute, below which a mirror is left; 0: none.",
)
@click.option("--plan", "only", flag_value="plan", help="Print what there is to get, without a network.")
@click.option("--check", "only", flag_value="check", help="Ask all sources whether they answer.")
@click.option("--lock", "only", flag_value="lock", help="Ask the Hub for commits and hashes; write the lock file.")
@click.option("--json", "as_json", is_flag=True, help="Print the plan or the check as JSON.")
def fetch(
    sets: tuple[str, ...],
    root: Path,
    split: Any,
    given: Path | None,
    accepted: bool,
    timeout: float,
    least_rate: float,
    only: str | None,
    as_json: bool,
) -> None:
    """Download public SETS, or `all`, below the data root, and check them.

    \b
    zsr fetch cifar10 stl10
    zsr fetch all --plan
    """
    names = (
        [name for name, set_entry in entries().items() if split in set_entry.splits] if "all" in sets else list(sets)
    )
    chosen = [entry(name) for name in names]
    if only == "lock":
        check_written(hub.LOCK)
        click.echo(f"{hub.write_lock(_warn)} repositories are in {hub.LOCK.name}")
        return
    if not names:
        raise StudyError(f"no set is named: give some of {', '.join(entries())}, or all")
    if only == "plan":
        _show(plan.plan(chosen, split), as_json)
    elif only == "check":
        rows = list(plan.check(chosen))
        _show(rows, as_json)
        _fail([row["url"] for row in rows if not row["ok"] and row["status"] != "dead"], "do not answer as they should")
    else:
        check_written(root, folder=True)
        with closing(_Bars()) as bars:
            wish = Wish(
                root=root, split=split, given=given, accepted=accepted, watch=bars, warn=bars.warn,
                patience=Patience(timeout=timeout, rate=least_rate),
            )  # fmt: skip
            outcomes = list(fetch_all(names, wish))
        _show([{"set": o.set, "source": o.source, "GB": f"{o.bytes / 1e9:.2f}", "state": o.state} for o in outcomes])
        _fail([o.fault for o in outcomes if o.fault], "failed")


def _show(rows: list[dict], as_json: bool = False) -> None:
    from tabulate import tabulate

    cells = [{k: "\n".join(v) if isinstance(v, tuple) else v for k, v in row.items()} for row in rows]
    click.echo(json.dumps(rows, indent=1) if as_json else tabulate(cells, headers="keys", disable_numparse=True))


def _warn(line: str) -> None:
    click.echo(f"Warning: {line}", err=True)


def _fail(faults: list[str], what: str) -> None:
    """Exit with 1 where there are faults, one on each line."""
    if len(faults) == 1:
        raise StudyError(faults[0])
    if faults:
        lines = [line_of(StudyError(fault)) for fault in faults]
        raise click.ClickException("\n".join([f"{len(faults)} {what}:", *lines]))


class _Bars:
    """A progress bar for each file. A line of text never stands behind a bar: the bars are closed first."""

    def __init__(self) -> None:
        self._bars: dict[str, Any] = {}

    def __call__(self, name: str, have: int, total: int) -> None:
        from tqdm import tqdm

        if name not in self._bars:
            often = 0.2 if sys.stderr.isatty() else 10  # seconds between updates; a log gets few lines
            self._bars[name] = tqdm(
                total=total or None, desc=name, unit="B", unit_scale=True, initial=have, mininterval=often
            )
        self._bars[name].update(have - self._bars[name].n)
        if have == total:
            self._bars.pop(name).close()

    def warn(self, line: str) -> None:
        self.close()
        _warn(line)

    def close(self) -> None:
        while self._bars:
            self._bars.popitem()[1].close()

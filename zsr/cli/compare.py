"""Two models image by image: B minus A, with the interval of a paired difference."""

from pathlib import Path

import click

from zsr.cli.command import EXISTING
from zsr.cli.running import OneLine


@click.command(cls=OneLine)
@click.argument("a", type=EXISTING)
@click.argument("b", type=EXISTING)
def compare(a: Path, b: Path) -> None:
    """Compare the records of two folders (or files) of `zsr evaluate`: the accuracy of B minus that of A.

    \b
    zsr compare zsr-results/tecoa zsr-results/mine

    The difference is paired: both models must have seen the same images under the same attacks. Its 95 % interval is
    narrower than those of the two accuracies.
    """
    from tabulate import tabulate

    first, second = _records(a), _records(b)
    rows = [row for key in first if key in second for row in _rows(key, first[key], second[key])]
    if not rows:
        from zsr.params import StudyError

        raise StudyError(f"{a} and {b} have no set and attack in common")
    rows += _means(rows, first, second)
    click.echo(tabulate(rows, headers="keys", disable_numparse=True))


def _records(path: Path) -> dict:
    """(folder of the record, set) -> the record."""
    from zsr.evaluation.records import Record
    from zsr.params import StudyError

    files = [path] if path.is_file() else sorted(file for file in path.rglob("*.json") if not file.name.startswith("."))
    found = {}
    for file in files:
        try:
            record = Record.load(file)
        except (ValueError, KeyError, TypeError):
            raise StudyError(f"{file} is no record of zsr") from None
        where = file.parent.relative_to(path).as_posix() if path.is_dir() else record.attack
        found[where, record.set_name] = record
    if not found:
        raise StudyError(f"{path} has no records")
    return found


def _rows(key: tuple[str, str], first, second) -> list[dict[str, str]]:
    """Without and with the attack."""
    import numpy as np

    from zsr.params import StudyError

    attack, set_name = key
    if not np.array_equal(first.ids, second.ids):
        raise StudyError(f"{set_name} under {attack}: the two have seen other images, so nothing can be paired")
    if first.protocol.partition(";")[0] != second.protocol.partition(";")[0]:
        raise StudyError(f"{set_name}: the attacks differ: {first.protocol} and {second.protocol}")
    pairs = {"clean": (first.clean_bits, second.clean_bits), attack: (first.hits, second.hits)}
    return [_row(set_name, name, [bits]) for name, bits in pairs.items()]


def _means(rows: list[dict[str, str]], first: dict, second: dict) -> list[dict[str, str]]:
    """The mean over sets of each attack, where there are several sets."""
    means = []
    for attack in dict.fromkeys(attack for attack, _ in first):
        keys = [key for key in first if key[0] == attack and key in second]
        if len(keys) > 1:
            bits = [(first[key].hits, second[key].hits) for key in keys]
            means.append(_row("mean", attack, bits))
    return means


def _row(set_name: str, attack: str, pairs: list) -> dict[str, str]:
    from zsr.evaluation.results import Sample, difference

    samples = [Sample.of((b.astype(float) - a.astype(float))[None]) for a, b in pairs]
    found = difference(samples)
    a, b = (100 * sum(float(pair[side].mean()) for pair in pairs) / len(pairs) for side in (0, 1))
    return {
        "set": set_name,
        "attack": attack,
        "n": str(sum(len(pair[0]) for pair in pairs)),
        "A": f"{a:.1f}",
        "B": f"{b:.1f}",
        "B - A": f"{found['mean']:+.1f} [{found['low']:+.1f}, {found['high']:+.1f}]",
    }

"""What came of a case, the table of the counts, and the place of the table in docs/reliability.md."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.campaign.forks import BAR, Ended, is_at_work

# The kinds of outcome, in the order of the table.
KINDS = (
    "one clear line",
    "unclear",
    "traceback",
    "SILENT WRONG",
    "hang",
    "signal",
    "late or harmless",
    "rightly taken",
)
CLEAR, UNCLEAR, TRACEBACK, WRONG, HANG, SIGNAL, LATE, TAKEN = KINDS
FATAL = (TRACEBACK, WRONG, HANG, SIGNAL)  # no campaign may have one
FINE = (CLEAR, LATE, TAKEN)
# Other pixels in a raw file, which has no checksum and no form. They can be told only by the published hash,
# and the campaign's small sets are not the published ones: then a warning that names the file is all that can be asked.
UNTOLD = "raw pixels are others, and a warning says that the file is not the published one"
GROUPS = {  # group -> its title in the table, its share of the cases in percent
    "params": ("params", 18),
    "images": ("images, class lists, shards", 17),
    "archives": ("archives, CIFAR pickles", 12),
    "mirrors": ("HTTP mirrors", 10),
    "weights": ("checkpoints, base files", 15),
    "disk": ("full disk, rights", 5),
    "own": ("own files: records, kept work, inputs, collect", 12),
    "late": ("late numbers", 3),
    "kills": ("kills", 8),
}
START, END = "<!-- campaign: begin -->", "<!-- campaign: end -->"


@dataclass(frozen=True)
class Finding:
    """The outcome of one case. label: what was done. note: what is not as it should be, or what was said."""

    kind: str
    label: str
    note: str = ""

    @property
    def fine(self) -> bool:
        return self.kind in FINE


def lines_of(text: str) -> list[str]:
    """What a command says besides progress bars, warnings (also of libraries) and click's lines on usage."""
    lines = [line.strip() for line in re.split(r"[\r\n]+", text)]
    plain = [line for line in lines if line and not (BAR.search(line) and "Error:" not in line)]
    return [line for line in plain if not line.startswith(("Warning:", "WARNING:", "Usage:", "Try '"))]


def refused(ended: Ended, names: Iterable[str]) -> tuple[str, str]:
    """The kind of outcome of a command that did not exit with 0, and what it said.

    names: one line is clear if it has one of them: the file, its folder, or the key that is at fault.
    """
    lines = lines_of(ended.err)
    said = " / ".join(lines)[:300]
    if ended.hung:
        return HANG, said
    if ended.status < 0:
        return SIGNAL, f"signal {-ended.status} {said}"
    if "Traceback (most recent call last)" in ended.err:
        return TRACEBACK, lines[-1][:300] if lines else ""
    if len(lines) != 1:
        return UNCLEAR, f"{len(lines)} lines: {said}"
    if BAR.search(lines[0]):
        return UNCLEAR, f"glued to a progress bar: {said}"
    if "\x1b" in lines[0]:
        return UNCLEAR, f"control characters are printed raw: {said!r}"
    named = any(name and name.lower() in lines[0].lower() for name in names)
    return (CLEAR, said) if named else (UNCLEAR, f"names no file or key: {said}")


def refusal(ended: Ended, names: Iterable[str], label: str, left: Sequence[str] = ()) -> Finding:
    """The finding of a command that did not exit with 0. left: temporary files that it should have deleted."""
    kind, said = refused(ended, names)
    if left:
        said = f"{', '.join(left[:3])} stays; {said}"
    return Finding(UNCLEAR if left and kind == CLEAR else kind, label, said)


def working(ended: Ended) -> bool:
    """Was a command that we ended at work, with a progress bar or a line of progress to be seen?"""
    return ended.hung and is_at_work(ended.err)


def table(found: Sequence[tuple[str, Finding]]) -> str:
    """The table of the counts in Markdown. found: (group, finding) of every case."""
    head = ["", "n", *(kind.lower() for kind in KINDS)]
    rows = [[title, *_counts([f for g, f in found if g == group])] for group, (title, _) in GROUPS.items()]
    rows.append(["**all**", *(f"**{count}**" for count in _counts([finding for _, finding in found]))])
    lines = ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines)


def _counts(findings: Sequence[Finding]) -> list[str]:
    counted = Counter(finding.kind for finding in findings)
    return [str(len(findings)), *(str(counted[kind]) for kind in KINDS)]


def report(found: Sequence[tuple[str, Finding]], when: str, seed: int, minutes: float, skipped: int = 0) -> str:
    """The table with the date, the seed and the number of kills, for docs/reliability.md."""
    kills = [finding for group, finding in found if group == "kills"]
    equal = sum(finding.kind == TAKEN for finding in kills)
    untold = sum(finding.note == UNTOLD for _, finding in found)
    left = f" {skipped} more cases were left out, since the time was up." if skipped else ""
    head = f"{when}, seed {seed}, {len(found)} cases in {minutes:.0f} minutes.{left}"
    tail = f"Kills that ended in the bytes of an undisturbed run: {equal} of {len(kills)}."
    noise = f"Rightly taken with a warning alone, since nobody can tell raw pixels from others: {untold}."
    return f"{head}\n\n{table(found)}\n\n{noise}\n{tail}"


def write_block(page: Path, text: str) -> None:
    """Put the text between the markers of a page, in place of what was there."""
    content = page.read_text(encoding="utf-8")
    before, start, rest = content.partition(START)
    _, end, after = rest.partition(END)
    if not (start and end):
        raise ValueError(f"{page} lacks the lines {START} and {END}")
    page.write_text(f"{before}{START}\n{text}\n{END}{after}", encoding="utf-8")

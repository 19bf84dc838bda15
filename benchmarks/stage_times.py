"""Where the time of a study goes, by group of stages: python -m benchmarks.stage_times python -m stages.repro

Any command that runs `dvc repro` will do. Seconds of lanes that run side by side are added up, so their sum is more
than the time on the clock, which is the last line.
"""

import os
import re
import subprocess
import sys
import time
from collections import Counter

from tabulate import tabulate

from stages.repro import EVERY_LINE

LINE = re.compile(r"(?:(\d+)\| )?(?:Running stage '([^@']+)|Updating lock file|(Use `dvc push`))")


class Times:
    """Seconds and numbers of stages, by group.

    Attributes:
        seconds: seconds of each group of stages, and of DVC itself.
        stages: number of stages that ran, of each group.
    """

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.stages: Counter[str] = Counter()
        self._open: dict[str, tuple[str, float]] = {"": ("dvc, before", 0.0)}  # lane -> its group, and since when

    def line(self, text: str, now: float) -> None:
        """Take in a line of output that came `now` seconds after the start."""
        found = LINE.match(text)
        if not found:
            return
        lane, stage = found.group(1) or "", found.group(2)
        for other in [name for name in self._open if (name == "") != (lane == "")]:
            self._close(other, now)  # lanes begin, or have ended
        self._close(lane, now)
        if lane and found.group(3):
            return  # the last line of a lane
        self._open[lane] = (stage or "dvc, between stages", now)
        self.stages[self._open[lane][0]] += 1

    def end(self, now: float) -> None:
        """The command has ended."""
        for lane in list(self._open):
            self._close(lane, now)

    def _close(self, lane: str, now: float) -> None:
        if lane in self._open:
            group, since = self._open.pop(lane)
            self.seconds[group] += now - since


def main() -> int:
    times, start = Times(), time.monotonic()
    process = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE, text=True, env=os.environ | {EVERY_LINE: "1"})
    for line in process.stdout or ():
        print(line, end="", flush=True)
        times.line(line, time.monotonic() - start)
    status = process.wait()
    clock = time.monotonic() - start
    times.end(clock)
    rows = [[name, times.stages[name] or "", f"{spent:.1f}"] for name, spent in times.seconds.most_common()]
    print(tabulate([*rows, ["on the clock", "", f"{clock:.1f}"]], ["", "stages", "seconds"], "github"))
    return status


if __name__ == "__main__":
    sys.exit(main())

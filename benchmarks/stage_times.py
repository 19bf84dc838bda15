"""Where the time of a DVC command goes, by group of stages: python -m benchmarks.stage_times dvc repro"""

import re
import subprocess
import sys
import time
from collections import Counter

from tabulate import tabulate


def main() -> int:
    seconds, stages = Counter(), Counter()
    group, start = "dvc, before", time.monotonic()
    process = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        print(line, end="", flush=True)
        # A stage's time ends where DVC begins to write its lock; what follows is DVC's own.
        begun, ended = re.match(r"Running stage '([^@']+)", line), line.startswith("Updating lock file")
        if begun or ended:
            seconds[group] += time.monotonic() - start
            group, start = begun.group(1) if begun else "dvc, between stages", time.monotonic()
            stages[group] += 1
    seconds[group] += time.monotonic() - start
    rows = [[name, stages[name] or "", f"{spent:.1f}"] for name, spent in seconds.most_common()]
    print(tabulate([*rows, ["total", "", f"{seconds.total():.1f}"]], ["", "stages", "seconds"], "github"))
    return process.wait()


if __name__ == "__main__":
    sys.exit(main())

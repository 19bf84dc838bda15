"""Run one stage: python -m stages NAME CELL...

Where the environment variable ZSR_WARM is set, the stage is a fork of a process that has imported the libraries.
"""

import os
import runpy
import sys

from stages.warm import VARIABLE, asked


def main() -> None:
    name, *arguments = sys.argv[1:]
    try:
        status = asked([name, *arguments]) if VARIABLE in os.environ else None
    except KeyboardInterrupt:  # the fork ends with this process
        sys.exit(130)
    if status is None:
        del sys.modules["stages.warm"]  # no stage's digest knows this module
        sys.argv = [f"stages.{name}", *arguments]
        runpy.run_module(f"stages.{name}", run_name="__main__", alter_sys=True)
    else:
        sys.exit(status)


if __name__ == "__main__":
    main()

"""Run one stage: python -m stages NAME CELL...

Where the environment variable ZSR_WARM is set, the stage is a fork of a process that has imported the libraries. Where
DVC runs the stage and the variable is not set, the first stage starts such a process; ZSR_WARM= starts none.

The environment variable ZSR_DVC tells the stage, and every process of it, which `dvc` runs it; see
`stages.command.end_with_dvc`.
"""

import os
import runpy
import sys
from contextlib import suppress

from stages.warm import VARIABLE, asked, beside
from zsr import rounding


def _dvc() -> str:
    """The number of the process of DVC that runs this one, through a shell or not; "" where none does."""
    import psutil

    for process in psutil.Process().parents():
        with suppress(psutil.Error):
            if any(os.path.basename(word) in ("dvc", "dvc.exe", "stages.fast_dvc") for word in process.cmdline()[:4]):
                return str(process.pid)
    return ""


def main() -> None:
    name, *arguments = sys.argv[1:] or [""]
    if not name.isidentifier() or not os.path.isfile(os.path.join(os.path.dirname(__file__), f"{name}.py")):
        sys.exit(f"Error: python -m stages must get the name of a stage, such as check, got {name!a}")
    os.environ.update(rounding.variables())
    os.environ["ZSR_DVC"] = dvc = _dvc()
    if dvc and VARIABLE not in os.environ:
        os.environ[VARIABLE] = beside(dvc)
    try:
        status = asked([name, *arguments]) if os.environ.get(VARIABLE) else None
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

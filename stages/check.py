"""Check params.yaml before anything is computed, and write what the study consists of: the names in its tables.

The one output never changes, so an edit of params.yaml reruns only what it affects.
"""

from collections.abc import Mapping
from pathlib import Path

from stages.command import CATALOGUE, stage
from zsr import files, study


@stage("check")
def main(document: Mapping, code: str) -> None:
    checked = study.check(Path("params.yaml"))
    files.write_atomic(CATALOGUE.with_name("params.ok"), b"params.yaml is valid\n")
    files.write_json(CATALOGUE, study.catalogue(checked, document))


if __name__ == "__main__":
    main()

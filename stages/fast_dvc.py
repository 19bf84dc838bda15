"""DVC, which reads dvc.lock by the fast parser also before it writes the file anew, after every stage.

DVC takes a parser in pure Python for that, which keeps comments. dvc.lock has none, so it gets the same bytes.
"""

import sys
from typing import Any

from dvc.cli import main
from dvc.utils.serialize import _yaml

_thorough = _yaml.parse_yaml_for_update


def _parsed(text: str, path: str) -> Any:
    return (_yaml.parse_yaml if str(path).endswith("dvc.lock") else _thorough)(text, path)


if __name__ == "__main__":
    _yaml.parse_yaml_for_update = _parsed
    sys.exit(main())

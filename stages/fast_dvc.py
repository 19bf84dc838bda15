"""DVC, which spends less time on YAML: it reads and writes dvc.lock by the fast library, and reads an equal text once.

After every stage DVC writes dvc.lock anew, by a reader and a writer in pure Python that keep comments. dvc.lock has
none, so it gets the same bytes. Before and after every stage DVC reads params.yaml and dvc.lock several times.
"""

import io
import pickle
import re
import sys
from collections import OrderedDict
from functools import lru_cache
from typing import Any, TextIO

from dvc.cli import main
from dvc.utils import strictyaml
from dvc.utils.serialize import _yaml
from ruamel.yaml import YAML
from ruamel.yaml.representer import SafeRepresenter

WIDTH = 80  # DVC folds longer lines, in a way of its own
SIMPLE = re.compile(r"[ -!#-&(-\[\]-~]*")  # ASCII without quotes, backslashes and line breaks

SafeRepresenter.add_representer(OrderedDict, SafeRepresenter.represent_dict)
_parse, _parse_with_comments, _dump = _yaml.parse_yaml, _yaml.parse_yaml_for_update, _yaml._dump


@lru_cache(maxsize=64)
def _pickled(text: str, path: str) -> bytes:
    return pickle.dumps(_parse(text, path))


def parsed(text: str, path: Any, typ: str = "safe") -> Any:
    """What DVC's reader gives; each call gives a copy of its own."""
    return pickle.loads(_pickled(text, str(path))) if typ == "safe" else _parse(text, path, typ)


def parsed_for_update(text: str, path: Any) -> Any:
    """What DVC's reader gives before it writes a file anew. Of dvc.lock it is plain data."""
    return parsed(text, path) if str(path).endswith("dvc.lock") else _parse_with_comments(text, path)


def dump(data: Any, stream: TextIO) -> None:
    """Write what DVC's writer writes: by the fast writer where it is sure to write the same."""
    text = _quickly(data) if type(data) is dict and not _has_long_command(data) and _is_simple(data) else ""
    if text and all(len(line) <= WIDTH for line in text.splitlines()):
        stream.write(text)
    else:
        _dump(data, stream)


def _has_long_command(data: dict) -> bool:
    return any(len(f"    cmd: {stage.get('cmd', '')}") > WIDTH for stage in data.get("stages", {}).values())


def _is_simple(data: Any) -> bool:
    """Are there only numbers and texts in it that both writers write alike?"""
    if isinstance(data, dict):
        return all(map(_is_simple, data)) and all(map(_is_simple, data.values()))
    if isinstance(data, list):
        return all(map(_is_simple, data))
    return type(data) in (bool, int, float) or (type(data) is str and bool(SIMPLE.fullmatch(data)))


def _quickly(data: dict) -> str:
    yaml, stream = YAML(typ="safe"), io.StringIO()
    yaml.default_flow_style, yaml.sort_base_mapping_type_on_output, yaml.width = False, False, 10 * WIDTH
    yaml.representer.ignore_aliases = lambda _: True
    yaml.dump(data, stream)
    return stream.getvalue()


if __name__ == "__main__":
    _yaml.parse_yaml = strictyaml.parse_yaml = parsed
    _yaml.parse_yaml_for_update, _yaml._dump = parsed_for_update, dump
    sys.exit(main())

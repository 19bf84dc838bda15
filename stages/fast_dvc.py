"""DVC, which spends less time between stages: on YAML, and on what an experiment gives to git.

After every stage DVC writes dvc.lock anew, by a reader and a writer in pure Python that keep comments. dvc.lock has
none, so it gets the same bytes from the fast library, which here writes and reads an equal text once. After every stage
of an experiment DVC builds its graph anew and gives the files of the stage to git. Here git gets the files of all
stages after the last one, so the commit of the experiment is the same.

A DVC that was killed holds no file: see `let_go_of_the_killed`.
"""

import io
import pickle
import re
import sys
from collections import OrderedDict
from textwrap import indent
from types import SimpleNamespace
from typing import Any, TextIO

import psutil
from dvc import rwlock
from dvc.cli import main
from dvc.utils import strictyaml
from dvc.utils.serialize import _yaml
from ruamel.yaml import YAML
from ruamel.yaml.representer import SafeRepresenter

WIDTH = 80  # DVC folds longer lines, in a way of its own
SIMPLE = re.compile(r"[ -!#-&(-\[\]-~]*")  # ASCII without quotes, backslashes and line breaks

SafeRepresenter.add_representer(OrderedDict, SafeRepresenter.represent_dict)
_parse, _parse_with_comments, _dump = _yaml.parse_yaml, _yaml.parse_yaml_for_update, _yaml._dump


_read: dict[str, bytes] = {}  # a text that was read or written -> its data, pickled
_written: dict[str, str] = {}  # a block of dvc.lock, as Python writes it -> as YAML


def parsed(text: str, path: Any, typ: str = "safe") -> Any:
    """What DVC's reader gives; each call gives a copy of its own."""
    if typ != "safe":
        return _parse(text, path, typ)
    if text not in _read:
        _read[text] = pickle.dumps(_parse(text, path))
    return pickle.loads(_read[text])


def parsed_for_update(text: str, path: Any) -> Any:
    """What DVC's reader gives before it writes a file anew. Of dvc.lock it is plain data."""
    return parsed(text, path) if str(path).endswith("dvc.lock") else _parse_with_comments(text, path)


def dump(data: Any, stream: TextIO) -> None:
    """Write what DVC's writer writes: by the fast writer where it is sure to write the same."""
    text = _quickly(data) if type(data) is dict and not _has_long_command(data) and _is_simple(data) else ""
    if text and all(len(line) <= WIDTH for line in text.splitlines()):
        stream.write(text)
        _read[text] = pickle.dumps(_plain(data))
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


def _plain(data: Any) -> Any:
    """The data as a reader gives them."""
    if isinstance(data, dict):
        return {name: _plain(part) for name, part in data.items()}
    return list(map(_plain, data)) if isinstance(data, list) else data


def _quickly(data: dict) -> str:
    """The text of a dict. Of dvc.lock a stage is written once, and not again while the stage stays what it is."""
    if list(data) != ["schema", "stages"] or not data["stages"]:
        return _yaml_of(data)
    stages = "".join(_kept({name: stage}) for name, stage in data["stages"].items())
    return f"{_kept({'schema': data['schema']})}stages:\n{indent(stages, '  ')}"


def _kept(data: dict) -> str:
    key = repr(data)
    if key not in _written:
        _written[key] = _yaml_of(data)
    return _written[key]


def _yaml_of(data: dict) -> str:
    yaml, stream = YAML(typ="safe"), io.StringIO()
    yaml.default_flow_style, yaml.sort_base_mapping_type_on_output, yaml.width = False, False, 10 * WIDTH
    yaml.representer.ignore_aliases = lambda _: True
    yaml.dump(data, stream)
    return stream.getvalue()


def give_to_git_at_the_end() -> None:
    """Let an experiment give the files of its stages to git after the last stage."""
    from dvc.repo.experiments.executor.base import BaseExecutor
    from dvc.repo.reproduce import _reproduce_stage
    from dvc.stage.utils import _get_stage_files

    looked_at: list[Any] = []
    at_top = BaseExecutor._get_top_level_paths  # asked for when all stages have run

    def reproduced(stage: Any, **options: Any) -> Any:
        if not options.get("dry"):
            looked_at.append(stage)
        return _reproduce_stage(stage, **options)

    def of_all_stages(repo: Any) -> list[str]:
        return list(dict.fromkeys([*at_top(repo), *(path for stage in looked_at for path in _get_stage_files(stage))]))

    BaseExecutor._repro_and_track = staticmethod(reproduced)
    BaseExecutor._get_top_level_paths = staticmethod(of_all_stages)


def let_go_of_the_killed() -> None:
    """Let DVC take the files of a process that was killed, also where the system still lists the process.

    The system does so until the parent of the process has asked for its end. In a container the first process is the
    parent, and may ask late or never; DVC then says that the files are busy.
    """
    rwlock.psutil = SimpleNamespace(pid_exists=_is_alive)


def _is_alive(process: int) -> bool:
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


if __name__ == "__main__":
    let_go_of_the_killed()
    _yaml.parse_yaml = strictyaml.parse_yaml = parsed
    _yaml.parse_yaml_for_update, _yaml._dump = parsed_for_update, dump
    if sys.argv[1:2] == ["exp"]:
        give_to_git_at_the_end()
    sys.exit(main())

"""Names and lists from outside: hidden names are no data, lists are read in one way, names in messages are one line."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from unicodedata import category

from zsr.params import StudyError, require_plain

HIDDEN = (  # what file browsers, file systems and servers leave behind without a dot
    *("__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "@eadir", "#recycle", "$recycle.bin"),
    *("system volume information", "lost+found", "__pycache__"),
)
LIST_BYTES = 64 * 2**20  # the largest list of the public sets has 8 MB
SHOWN = 1000  # characters of a name that a message shows


def printable(name: object) -> str:
    """A name for a message: characters that cannot be shown, such as line ends, are escaped; a long name is cut."""
    text = str(name)
    text = text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def words(error: BaseException) -> str:
    """What an error says, where our code raised it; else the name of its type, since libraries advise what is wrong."""
    place = error.__traceback__
    while place and place.tb_next:
        place = place.tb_next
    ours = place is not None and place.tb_frame.f_globals.get("__name__", "").startswith("zsr.")
    said = str(error).strip().splitlines() if ours else []
    return printable(said[0]) if said else type(error).__name__


def hidden(name: str) -> bool:
    """Is a file or folder of this name made by a file browser or a notebook? Such a file is never data."""
    return name.startswith(".") or name.lower() in HIDDEN


def visible(folder: Path) -> list[Path]:
    """The files and folders in a folder, sorted, without hidden ones."""
    return sorted(path for path in folder.iterdir() if not hidden(path.name))


def class_folders(folder: Path) -> list[Path]:
    """The visible folders in a folder, sorted, each for a class. Raises StudyError where a link makes two of one."""
    found: dict[Path, Path] = {}
    for path in visible(folder):
        if path.is_dir() and found.setdefault(path.resolve(), path) is not path:
            said = f"{printable(path)} and {printable(found[path.resolve()])} are one folder"
            raise StudyError(f"{said}, so that its images would be of two classes: remove the link")
    return list(found.values())


def visible_files(folder: Path, endings: Sequence[str]) -> list[Path]:
    """The files of a folder and of the folders in it, sorted, without hidden ones.

    endings: in lower case. Raises StudyError where a folder has the name of such a file, or is met twice, as by a link
    to a folder above; OSError where a folder cannot be listed.
    """
    found, met = [], set()
    for place, folders, names in os.walk(folder, onerror=_raise, followlinks=True):
        status = os.stat(place)
        if (status.st_dev, status.st_ino) in met:
            raise StudyError(f"{printable(place)} is a folder that is met twice: remove the link that leads to it")
        met.add((status.st_dev, status.st_ino))
        folders[:] = [name for name in folders if not hidden(name)]
        strange = [name for name in folders if name.lower().endswith(tuple(endings))]
        if strange:
            raise StudyError(f"{printable(Path(place, strange[0]))} is a folder, and must be a picture: put it back")
        found += [Path(place, name) for name in names if not hidden(name) and name.lower().endswith(tuple(endings))]
    return sorted(found)


def _raise(error: OSError) -> None:
    raise error


def read_text(path: Path, most: int = LIST_BYTES) -> str:
    """The text of a file in UTF-8, without a byte order mark.

    most: largest number of bytes. Raises StudyError: there is no such file, it is larger, or it is no UTF-8.
    """
    require_plain(path)
    try:
        with path.open("rb") as file:
            content = file.read(most + 1)
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise StudyError(f"{printable(path)} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise StudyError(
            f"{printable(path)} is no text in UTF-8 (byte {error.start + 1}): write it anew in UTF-8"
        ) from None
    if len(content) > most:
        raise StudyError(f"{printable(path)} has more than {most} bytes: it is not the list that is expected here")
    return text


def read_lines(path: Path, most: int = LIST_BYTES) -> list[str]:
    """The lines of a list in UTF-8 that are not empty, without blanks around them; any end of line is taken.

    Raises StudyError as `read_text` does, and for a control character in a line.
    """
    return [line for _, line in numbered_lines(path, most)]


def numbered_lines(path: Path, most: int = LIST_BYTES) -> Iterator[tuple[int, str]]:
    """As `read_lines`, with the number of each line in the file."""
    for number, line in enumerate(read_text(path, most).replace("\r\n", "\n").replace("\r", "\n").split("\n"), 1):
        if line.strip():
            if any(category(c) == "Cc" and c != "\t" for c in line):
                raise StudyError(f"{printable(path)}: line {number} has a control character: '{printable(line)}'")
            yield number, line.strip()

"""What a user asks of fetching, and how far a set is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from zsr.data.fetching.download import Patience, Watch, unwatched


@dataclass(frozen=True, kw_only=True)
class Wish:
    """The request of a user.

    Attributes:
        root: the data root.
        split: the split of the sets.
        given: a folder that has the files already; None: the files are downloaded.
        accepted: are the terms of gated sets accepted?
        patience: the limits after which a mirror is given up.
        watch: called with the progress of each file and, where a source has several files, of the whole set.
        warn: called with one line for everything that could not be checked.
    """

    root: Path
    split: Literal["train", "test"] = "test"
    given: Path | None = None
    accepted: bool = False
    patience: Patience = Patience()
    watch: Watch = unwatched
    warn: Callable[[str], None] = lambda line: None


class SetWatch:
    """A Watch of one file of a set, which also tells how far the whole set is.

    Attributes:
        key: the key of the set, under which its progress is told.
        watch: the Watch that is told.
        have: the bytes that are here, by name of the file.
        sizes: the size of each file by name; 0 where unknown.
    """

    def __init__(self, key: str, watch: Watch, sizes: Mapping[str, int], folder: Path) -> None:
        """folder: where the files lie. Those that are there are not downloaded again."""
        self.key, self.watch, self.sizes = key, watch, dict(sizes)
        self.have = {name: size for name, size in sizes.items() if (folder / name).exists()}

    def of(self, name: str) -> Watch:
        """The Watch of one file, by its name among `sizes`."""

        def tell(shown: str, have: int, total: int) -> None:
            self.watch(shown, have, total)
            self.have[name], self.sizes[name] = have, self.sizes[name] or total
            known = all(self.sizes.values())
            if len(self.sizes) > 1:
                self.watch(self.key, sum(self.have.values()), sum(self.sizes.values()) if known else 0)

        return tell

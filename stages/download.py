"""The files of one set: downloaded unless they are there, verified, unpacked. The output says what was verified.

The files lie outside DVC, below DATA_ROOT, else in `downloads` at the root of the repository. A download that was
killed goes on from the bytes that it has. A drawn set has no files.
"""

from collections.abc import Mapping

from stages.command import DOWNLOADS, data_root, stage
from stages.progress import Files, tell
from zsr import files
from zsr.data import downloads
from zsr.data.config import SetSize
from zsr.params import StudyError, block


@stage("download", "name", beside=[downloads.FETCHING])
def main(document: Mapping, code: str, name: str) -> None:
    size, out = block(document, f"data.sets.{name}", SetSize), DOWNLOADS / f"{name}.json"
    try:
        manifest = downloads.ensure(name, size.splits, data_root(), watch=Files(), warn=files.say)
    except StudyError as error:
        if size.if_missing == "fail":
            raise StudyError(f"{error}. To do without, set data.sets.{name}.if_missing to skip") from None
        manifest = downloads.left_out(name)
        tell(f"{name} is left out: {error}. When its files are here, run {downloads.take_in(name)}")
    files.write_kept(out, f"download of {name}", manifest)
    assert out.stat().st_size < 1000, f"{out} is no short list"


if __name__ == "__main__":
    main()

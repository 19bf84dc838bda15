"""Archives to be unpacked, and what came out."""

import io
import tarfile
import zipfile


def tar(path, files, mode="w", **changes):
    """A tar archive; changes: of the entry of a name, attributes of its TarInfo."""
    with tarfile.open(path, mode) as archive:
        for name, content in files if isinstance(files, list) else files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for attribute, value in changes.get(name, {}).items():
                setattr(info, attribute, value)
            archive.addfile(info, io.BytesIO(content))
    return path


def zipped(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files if isinstance(files, list) else files.items():
            archive.writestr(name, content)
    return path


def contents(folder) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

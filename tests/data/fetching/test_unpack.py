"""Archives come out whole and inside their folder, or not at all."""

import gzip
import shutil
import stat
import tarfile
import zipfile
from types import SimpleNamespace

import pytest

from tests.archives import contents, tar, zipped
from zsr.data.fetching.unpack import FLOOR, Unpacked, extract
from zsr.params import StudyError

FILES = {"set/a.txt": b"one", "set/deep/b.bin": bytes(range(256)) * 300, "set/empty": b""}


def refused(archive, kind, match, **limits):
    """The archive is refused in one line that names it, and nothing of it is left, in its folder or elsewhere."""
    before = sorted(archive.parent.rglob("*"))
    with pytest.raises(StudyError, match=match) as error:
        extract(archive, archive.parent / "out", kind, **limits)
    assert "\n" not in str(error.value) and str(archive) in str(error.value)
    assert sorted(archive.parent.rglob("*")) == before


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_a_tar_comes_out_whole_however_it_is_compressed(tmp_path, mode):
    archive = tar(tmp_path / "a.tar", FILES, mode)
    found = extract(archive, tmp_path / "not" / "made", "tar")
    assert contents(tmp_path / "not" / "made") == FILES
    assert found == Unpacked(files=3, bytes=sum(map(len, FILES.values())))
    assert [path.name for path in (tmp_path / "not").iterdir()] == ["made"]


def test_a_zip_and_a_gz_come_out_whole(tmp_path):
    archive = zipped(tmp_path / "a.zip", FILES | {"set/folder/": b""})
    assert extract(archive, tmp_path / "zip", "zip").files == 3
    assert contents(tmp_path / "zip") == FILES and (tmp_path / "zip" / "set" / "folder").is_dir()
    (tmp_path / "x.h5.gz").write_bytes(gzip.compress(b"content"))
    assert extract(tmp_path / "x.h5.gz", tmp_path / "gz", "gz") == Unpacked(files=1, bytes=7)
    assert contents(tmp_path / "gz") == {"x.h5": b"content"}


def test_folders_may_be_listed_twice_and_names_begin_with_a_dot(tmp_path):
    archive = tmp_path / "a.tar"
    with tarfile.open(archive, "w") as file:
        for name in ("./set", "set/", "./set"):
            info = tarfile.TarInfo(name)
            info.type = tarfile.DIRTYPE
            file.addfile(info)
        file.addfile(tarfile.TarInfo("./set/a.txt"))
    assert extract(archive, tmp_path / "out", "tar").files == 1
    assert contents(tmp_path / "out") == {"set/a.txt": b""}


OUTSIDE = ["../evil", "set/../../evil", "/evil", "set/../a", "C:/evil", "..\\evil", "//evil"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_no_member_leaves_the_folder(tmp_path, name):
    files = {"set/good": b"good", name: b"evil"}
    refused(tar(tmp_path / "a.tar", files), "tar", "leads out of its folder")
    refused(zipped(tmp_path / "a.zip", files), "zip", "leads out of its folder")


LINKS = [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]


@pytest.mark.parametrize("kind", LINKS)
@pytest.mark.parametrize("target", ["/etc", "../..", "set/good"])
def test_no_link_or_device_comes_out_wherever_it_leads(tmp_path, kind, target):
    archive = tar(
        tmp_path / "a.tar", {"set/good": b"", "set/bad": b""}, **{"set/bad": {"type": kind, "linkname": target}}
    )
    refused(archive, "tar", "'set/bad', a link or special file")


def test_no_link_and_no_encrypted_file_comes_out_of_a_zip(tmp_path):
    link = zipfile.ZipInfo("set/bad")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(link, "/etc")
    refused(tmp_path / "a.zip", "zip", "'set/bad', a link or special file")
    content = bytearray(zipped(tmp_path / "b.zip", {"set/bad": b"x"}).read_bytes())
    content[6] |= 1
    content[content.index(b"PK\1\2") + 8] |= 1
    (tmp_path / "b.zip").write_bytes(content)
    refused(tmp_path / "b.zip", "zip", "'set/bad', an encrypted file")


@pytest.mark.parametrize("twin", ["set/a", "./set/a", "set//a"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_no_name_comes_twice(tmp_path, twin):
    files = [("set/a", b"1"), (twin, b"2")]
    refused(tar(tmp_path / "a.tar", files), "tar", "twice: it is refused")
    refused(zipped(tmp_path / "a.zip", files), "zip", "twice: it is refused")


def test_a_file_is_no_folder_of_another(tmp_path):
    refused(tar(tmp_path / "a.tar", [("set", b"1"), ("set/a", b"2")]), "tar", "cannot be unpacked")


def test_no_more_comes_out_than_allowed(tmp_path):
    size = sum(map(len, FILES.values()))
    for kind, archive in {"tar": tar(tmp_path / "a.tar", FILES), "zip": zipped(tmp_path / "a.zip", FILES)}.items():
        refused(archive, kind, "unpacks to more than .* 'set/deep/b.bin'", limit=size - 1)
        assert extract(archive, tmp_path / kind, kind, limit=size).bytes == size
        refused(archive, kind, "more than 2 members", members=2)
    (tmp_path / "b.gz").write_bytes(gzip.compress(bytes(1001)))
    refused(tmp_path / "b.gz", "gz", "unpacks to more", limit=1000)


def test_a_bomb_is_refused_without_being_told_a_limit(tmp_path):
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(bytes(FLOOR + 1), 1))
    refused(tmp_path / "bomb.gz", "gz", "archive bomb")
    archive = zipped(tmp_path / "bomb.zip", {"set/zeros": bytes(FLOOR + 1)})
    refused(archive, "zip", "archive bomb")


def test_sizes_that_an_archive_announces_are_not_believed(tmp_path):
    archive = zipped(tmp_path / "a.zip", {"set/zeros": bytes(100_000)})
    content = bytearray(archive.read_bytes())
    entry = content.index(b"PK\1\2")
    content[entry + 24 : entry + 28] = (10).to_bytes(4, "little")
    archive.write_bytes(content)
    refused(archive, "zip", "set/zeros|CRC", limit=1000)


def test_what_the_disk_has_free_is_a_limit(tmp_path, monkeypatch):
    archive = tar(tmp_path / "a.tar", FILES)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    refused(archive, "tar", "allowed or free")


@pytest.mark.parametrize("kind", ["tar", "zip", "gz"])
def test_a_broken_archive_is_one_line(tmp_path, kind):
    whole = {
        "tar": lambda path: tar(path, FILES, "w:gz"),
        "zip": lambda path: zipped(path, FILES),
        "gz": lambda path: path.write_bytes(gzip.compress(FILES["set/deep/b.bin"] * 9)) and path,
    }[kind](tmp_path / "a.archive")
    whole.write_bytes(whole.read_bytes()[:-50])
    refused(whole, kind, "cannot be unpacked as|cut short")
    whole.write_bytes(b"<html>not found</html>")
    refused(whole, kind, f"cannot be unpacked as {kind}")


def test_an_interrupt_leaves_nothing(tmp_path, monkeypatch):
    archive = tar(tmp_path / "a.tar", FILES)
    monkeypatch.setattr("zsr.data.fetching.unpack._copy", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        extract(archive, tmp_path / "out", "tar")
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]


def test_a_folder_that_is_there_is_not_touched(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(StudyError, match="out is there already"):
        extract(tar(tmp_path / "a.tar", FILES), tmp_path / "out", "tar")
    assert list((tmp_path / "out").iterdir()) == []

"""Archives come out whole and inside their folder, or not at all."""

import gzip
import io
import random
import resource
import shutil
import stat
import tarfile
import zipfile
from types import SimpleNamespace

import pytest

from tests.archives import contents, tar, zipped
from zsr.data import tars
from zsr.data.fetching.unpack import FLOOR, Unpacked, extract
from zsr.data.tars import BadArchive
from zsr.params import StudyError

FILES = {"set/a.txt": b"one", "set/deep/b.bin": bytes(range(256)) * 300, "set/empty": b""}


def refused(archive, kind, match, **limits):
    """The archive is refused in one line that names it, and nothing of it is left, in its folder or elsewhere."""
    before = sorted(archive.parent.rglob("*"))
    with pytest.raises(StudyError, match=match) as error:
        extract(archive, archive.parent / "out", kind, **limits)
    assert str(error.value).isprintable() and str(archive) in str(error.value)
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


@pytest.mark.parametrize(
    "names", [("set", "set/a"), ("set/a", "set"), ("set/a/b/c", "set/a"), ("x/", "x"), ("x", "x/")]
)
def test_a_file_is_no_folder_of_another(tmp_path, names):
    files = [(name, b"") for name in names]
    folders = {name: {"type": tarfile.DIRTYPE} for name in names if name.endswith("/")}
    said = f"holds '{names[1]}', and a file in the place of a folder: it is refused"
    refused(tar(tmp_path / "a.tar", files, **folders), "tar", said.replace("/'", "/?'"))
    refused(zipped(tmp_path / "a.zip", files), "zip", said)


def test_a_name_that_no_file_system_takes_is_told_and_not_the_want_of_room(tmp_path):
    for name in ("set/" + "n" * 256, "set/" + "\u00fc" * 128 + "/a"):
        refused(tar(tmp_path / "a.tar", {name: b"1"}), "tar", "a name that no file system takes: it is refused")
    assert extract(tar(tmp_path / "b.tar", {"n" * 255: b"1"}), tmp_path / "out", "tar").files == 1


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
    refused(archive, "tar", r"unpacking .* needs .* are free")


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_a_flipped_bit_is_refused_or_changes_nothing(tmp_path, mode):
    """The checksum of a compressed file stands behind all bytes, also behind the mark of the archive's end."""
    whole, refusals = tar(tmp_path / "whole", FILES, mode).read_bytes(), 0
    for place in range(0, len(whole), 5):
        archive, out = tmp_path / "a.tar", tmp_path / "out"
        archive.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        try:
            extract(archive, out, "tar")
        except StudyError:
            refusals += 1
        else:
            assert contents(out) == FILES, place
            shutil.rmtree(out)
    assert refusals > len(whole) / 5 * 0.8


def test_what_follows_the_end_of_a_tar_is_bounded(tmp_path, monkeypatch):
    archive = tar(tmp_path / "a.tar", FILES, "w")
    archive.write_bytes(archive.read_bytes() + bytes(3 * 2**20))
    monkeypatch.setattr(tars, "PADDING_BYTES", 2**20)
    refused(archive, "tar", "goes on for 1048576 bytes after its end")


def test_zeros_in_the_place_of_a_header_are_not_the_end(tmp_path):
    archive = tar(tmp_path / "a.tar", FILES, "w")
    content = archive.read_bytes()
    second = content.index(b"set/deep/b.bin")
    archive.write_bytes(content[:second] + bytes(512) + content[second + 512 :])
    refused(archive, "tar", "members follow the mark of its end")


@pytest.mark.parametrize("kind", ["tar", "zip", "gz"])
def test_a_broken_archive_is_one_line(tmp_path, kind):
    whole = {
        "tar": lambda path: tar(path, FILES, "w:gz"),
        "zip": lambda path: zipped(path, FILES),
        "gz": lambda path: path.write_bytes(gzip.compress(FILES["set/deep/b.bin"] * 9)) and path,
    }[kind](tmp_path / "a.archive")
    whole.write_bytes(whole.read_bytes()[:-50])
    refused(whole, kind, "cannot be unpacked as|cut short|is damaged at")
    whole.write_bytes(b"<html>not found</html>")
    refused(whole, kind, f"cannot be unpacked as {kind}|is damaged at")


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


def with_header(path, kind, size, content=b"", name="header"):
    """A tar whose first member has a header that states a size."""
    with tarfile.open(path, "w:gz") as archive:
        info = tarfile.TarInfo(name)
        info.type = kind
        info.size = size
        archive.fileobj.write(info.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % 512))
        archive.addfile(tarfile.TarInfo("set/a.txt"))
    return path


HEADERS = [tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE]


@pytest.mark.parametrize("kind", HEADERS)
@pytest.mark.parametrize("size", [2**20, 2**33, -512])
def test_a_header_of_any_stated_size_takes_no_memory(tmp_path, kind, size, monkeypatch):
    archive = with_header(tmp_path / "a.tar.gz", kind, size, bytes(2**20))
    read = gzip.GzipFile.read

    def bounded(self, n=-1):
        assert 0 <= n <= 2**17, "a header is read whole"
        return read(self, n)

    monkeypatch.setattr(gzip.GzipFile, "read", bounded)
    refused(archive, "tar", f"states a header of {size} bytes at 'header'")


def test_many_small_headers_are_bounded_in_all(tmp_path, monkeypatch):
    monkeypatch.setattr("zsr.data.tars.HEADERS_BYTES", 1000)
    files = {f"set/{'x' * 200}{k}": b"" for k in range(9)}  # each has a header of its long name
    refused(tar(tmp_path / "a.tar", files), "tar", "in all, where .* are read at most")


ELSEWHERE = {
    "a link or special file": {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"},
    "its size is below 0": {"size": "-512"},
}


@pytest.mark.parametrize("said", ELSEWHERE)
def test_facts_that_send_the_reader_elsewhere_are_refused(tmp_path, said):
    """A list of holes is read as long as it goes on; a negative size leads back to where it stands, for ever."""
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("set/bad")
        info.pax_headers = ELSEWHERE[said]
        info.size = 512
        archive.addfile(info, io.BytesIO(b"999999\n" * 256))
    refused(tmp_path / "a.tar", "tar", f"'set/bad'.* {said}")


def test_a_sparse_file_is_refused_before_its_list_of_holes_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(tarfile.TarInfo, "_proc_sparse", pytest.fail)
    refused(with_header(tmp_path / "a.tar.gz", tarfile.GNUTYPE_SPARSE, 512), "tar", "'header', a link or special file")


def test_a_damaged_member_header_is_not_the_end(tmp_path):
    archive = tar(tmp_path / "a.tar", FILES)
    content = bytearray(archive.read_bytes())
    content[content.index(b"set/empty")] = 0xFF
    archive.write_bytes(content)
    refused(archive, "tar", "is damaged after 'set/deep/b.bin'")


@pytest.mark.parametrize("name", ["set/a\nb", "set/\x1b[31mred", "set/\u202etxt", "set/" + "x" * 2000])
def test_a_name_that_cannot_be_shown_is_refused_and_shown_in_ascii(tmp_path, name):
    refused(tar(tmp_path / "a.tar", {name: b""}), "tar", "a name that cannot be shown")
    refused(zipped(tmp_path / "a.zip", {name: b""}), "zip", "a name that cannot be shown")


def test_a_zip_in_a_compression_without_bounds_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("set/a", bytes(2**20))
    refused(tmp_path / "a.zip", "zip", "'set/a', a file in a compression")


def test_a_disk_that_fills_up_is_no_fault_of_the_archive(tmp_path, monkeypatch):
    archive = tar(tmp_path / "a.tar", FILES)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(StudyError, match=r"b.bin cannot be written .*needs 0.08 MB, and .* are free") as error:
            extract(archive, tmp_path / "out", "tar")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not isinstance(error.value, BadArchive) and [path.name for path in tmp_path.iterdir()] == ["a.tar"]


def test_bytes_changed_at_random_are_unpacked_or_make_one_line(tmp_path):
    rng = random.Random(0)
    made = {
        "tar": tar(tmp_path / "a", {"set/a": b"x" * 90}, "w:gz"),
        "zip": zipped(tmp_path / "b", {"set/a": b"x" * 90}),
    }
    made["gz"] = tmp_path / "c.gz"
    made["gz"].write_bytes(gzip.compress(b"x" * 90))
    made["plain"] = tar(tmp_path / "d", {"set/a": b"x" * 90})
    for kind, archive in made.items():
        whole = archive.read_bytes()
        for _ in range(40):
            content = bytearray(whole)
            for _ in range(3):
                content[rng.randrange(min(len(content), 512))] = rng.randrange(256)
            archive.write_bytes(content)
            try:
                extract(archive, tmp_path / "out", "tar" if kind == "plain" else kind)
                shutil.rmtree(tmp_path / "out")
            except StudyError as error:
                assert str(error).isprintable() and str(archive) in str(error)

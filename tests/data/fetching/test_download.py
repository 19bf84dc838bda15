"""The fetcher's transfers: what is right arrives, each byte once; what is wrong never gets the file's name."""

import hashlib
import os
import random
import resource
import shutil
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Thread
from types import SimpleNamespace

import pytest

from tests.mirror import PAGE, mirror
from zsr.data.fetching.download import Expected, Patience, _announced, download
from zsr.files import require_space
from zsr.params import StudyError

CONTENT = random.Random(0).randbytes(300_000)
RIGHT = Expected(size=len(CONTENT), sha256=hashlib.sha256(CONTENT).hexdigest())
HASH_ALONE = Expected(sha256=RIGHT.sha256)
QUICK = Patience(timeout=1, tries=3, pause=0)


@pytest.fixture
def web():
    """A server of each test's own: what a client hung up on may be counted after its test is over."""
    with mirror() as server:
        server.files = {"a": CONTENT, "b": CONTENT}
        yield server


def get(web, target, names="a", expected=RIGHT, patience=QUICK, **more):
    return download([web.url(name) for name in names], target, expected, patience, **more)


def leftovers(folder) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.endswith(".lock")}


def test_a_file_arrives_with_its_size_and_hashes_and_leaves_nothing_else(web, tmp_path):
    arrived = get(web, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT and leftovers(tmp_path) == {"file"}
    assert arrived.url == web.url("a") and arrived.size == len(CONTENT) and arrived.sha256 == RIGHT.sha256
    assert arrived.md5 == hashlib.md5(CONTENT).hexdigest()


def test_broken_connections_are_resumed_and_no_byte_is_sent_twice(web, tmp_path):
    web.faults["a"] = [("drop", 100_000), ("drop", 0), ("drop", 50_000)]
    get(web, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert web.ranges() == ["", "bytes=100000-", "bytes=100000-", "bytes=150000-"]
    assert web.sent["a"] == len(CONTENT)


def test_tries_are_counted_between_bytes_not_over_the_whole_file(web, tmp_path):
    web.faults["a"] = [("drop", 20_000)] * 10
    get(web, tmp_path / "file")
    assert web.sent["a"] == len(CONTENT)


@pytest.mark.parametrize("fault", [500, 503, 429, ("drop", 0)])
def test_a_mirror_that_brings_nothing_is_left_after_its_tries(web, tmp_path, fault):
    web.faults["a"] = [fault] * 3
    assert get(web, tmp_path / "file", "ab").url == web.url("b")
    assert [path for _, path, _ in web.seen] == ["a", "a", "a", "b"]


@pytest.mark.parametrize("status", [403, 404, 410])
def test_a_mirror_that_refuses_is_asked_once(web, tmp_path, status):
    web.faults["a"] = [status]
    assert get(web, tmp_path / "file", "ab").url == web.url("b")
    assert [path for _, path, _ in web.seen] == ["a", "b"]


def test_the_next_mirror_continues_where_the_first_stopped(web, tmp_path):
    web.faults["a"] = [("drop", 120_000), 404]
    assert get(web, tmp_path / "file", "ab").url == web.url("b")
    assert web.sent["b"] == len(CONTENT) - 120_000


def test_a_server_that_ignores_range_starts_the_file_anew(web, tmp_path):
    web.faults["a"] = [("drop", 100_000), "whole"]
    get(web, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT and web.sent["a"] == 100_000 + len(CONTENT)


def test_bytes_that_were_not_asked_for_start_the_file_anew(web, tmp_path):
    web.faults["a"] = [("drop", 100_000), "early"]
    get(web, tmp_path / "file")
    assert web.ranges() == ["", "bytes=100000-", ""] and (tmp_path / "file").read_bytes() == CONTENT


def test_a_stall_is_cut_and_what_came_before_it_is_kept(web, tmp_path):
    web.faults["a"] = [("stall", 70_000)]
    get(web, tmp_path / "file")
    assert web.ranges() == ["", "bytes=70000-"] and web.sent["a"] == len(CONTENT)


def test_a_wrong_hash_is_deleted_and_the_next_mirror_starts_at_zero(web, tmp_path):
    web.files["a"] = CONTENT[:-1] + b"?"
    assert get(web, tmp_path / "file", "ab").url == web.url("b")
    assert web.ranges() == ["", ""] and (tmp_path / "file").read_bytes() == CONTENT


def test_md5_is_checked_where_it_is_all_that_is_known(web, tmp_path):
    with pytest.raises(StudyError, match="wrong md5"):
        get(web, tmp_path / "file", expected=Expected(size=len(CONTENT), md5="0" * 32))
    assert leftovers(tmp_path) == {"file.refused", "file.refused.json"}


def test_a_whole_file_of_a_wrong_hash_is_kept_and_its_mirror_is_not_asked_again(web, tmp_path):
    """A registry with a wrong hash would else cost the whole file at every try, in silence."""
    web.files["a"] = wrong = CONTENT[:-1] + b"?"
    with pytest.raises(StudyError, match="a: wrong sha256, .*; what came is kept as .*file.refused"):
        get(web, tmp_path / "file")
    assert (tmp_path / "file.refused").read_bytes() == wrong
    for _ in range(2):
        with pytest.raises(StudyError, match="a: sent a file of the wrong sha256, .*file.refused: delete it to ask"):
            get(web, tmp_path / "file")
    assert web.sent["a"] == len(CONTENT) and len(web.seen) == 1
    web.faults["b"] = [404]
    with pytest.raises(StudyError, match="delete it to ask again; .*b: HTTP 404"):
        get(web, tmp_path / "file", "ab")
    (tmp_path / "file.refused").unlink()
    web.files["a"] = CONTENT
    assert get(web, tmp_path / "file").url == web.url("a") and leftovers(tmp_path) == {"file"}


def test_a_refused_file_is_taken_without_a_request_once_the_registry_is_right(web, tmp_path):
    mistaken = Expected(size=len(CONTENT), sha256="0" * 64)
    with pytest.raises(StudyError, match="wrong sha256"):
        get(web, tmp_path / "file", "ab", expected=mistaken)
    assert len(web.seen) == 2
    assert get(web, tmp_path / "file").sha256 == RIGHT.sha256
    assert len(web.seen) == 2 and leftovers(tmp_path) == {"file"} and (tmp_path / "file").read_bytes() == CONTENT


DEEP = "[" * 100_000


@pytest.mark.parametrize("notes", ["", "[]", "{", '{"x": 1}', DEEP])
def test_damaged_notes_of_refused_files_are_no_obstacle(web, tmp_path, notes):
    (tmp_path / "file.refused").write_bytes(b"?")
    (tmp_path / "file.refused.json").write_text(notes)
    assert get(web, tmp_path / "file").url == web.url("a") and leftovers(tmp_path) == {"file"}


def test_the_hash_of_git_is_checked(web, tmp_path):
    git = hashlib.sha1(b"blob 300000\0" + CONTENT).hexdigest()
    get(web, tmp_path / "file", expected=Expected(git=git))
    with pytest.raises(StudyError, match="wrong git, "):
        get(web, tmp_path / "other", expected=Expected(git="0" * 40))


def test_a_token_goes_to_the_mirror_and_not_where_the_mirror_leads_on(web, tmp_path):
    with mirror() as gate:
        gate.leads["a"] = web.url("a")
        assert download([gate.url("a")], tmp_path / "file", RIGHT, QUICK, token="secret").size == len(CONTENT)
        assert gate.tokens == ["Bearer secret"] and web.tokens == [""]
        gate.faults["b"] = [401]
        with pytest.raises(StudyError, match="HTTP 401, no access: .*HF_TOKEN"):
            download([gate.url("b")], tmp_path / "other", RIGHT, QUICK)


def test_a_wrong_size_is_refused_from_the_header(web, tmp_path):
    web.files["a"] = CONTENT + b"?"
    with pytest.raises(StudyError, match=f"wrong size, {len(CONTENT) + 1} bytes where {len(CONTENT)} are expected"):
        get(web, tmp_path / "file")
    assert leftovers(tmp_path) == {"file.refused"}


def test_a_mirror_of_another_size_spoils_nothing_of_what_came_before(web, tmp_path):
    web.faults["a"], web.files["b"] = [("drop", 100_000), 404], CONTENT + b"?"
    get(web, tmp_path / "file", "aba")
    assert web.ranges() == ["", *["bytes=100000-"] * 3] and web.sent["a"] == len(CONTENT)


def test_a_body_longer_than_expected_is_cut_where_no_length_was_announced(web, tmp_path):
    web.files["a"], web.faults["a"] = CONTENT + b"?" * 2**20, ["endless"]
    with pytest.raises(StudyError, match="wrong size, more than"):
        get(web, tmp_path / "file")
    assert not (tmp_path / "file").exists()


def test_a_part_of_an_earlier_run_is_continued(web, tmp_path):
    (tmp_path / "file.part").write_bytes(CONTENT[:200_000])
    get(web, tmp_path / "file")
    assert web.ranges() == ["bytes=200000-"] and web.sent["a"] == 100_000


def test_a_whole_part_of_an_earlier_run_needs_no_request(web, tmp_path):
    (tmp_path / "file.part").write_bytes(CONTENT)
    get(web, tmp_path / "file")
    assert not web.seen and (tmp_path / "file").exists()


@pytest.mark.parametrize("stale", [b"?" * 1000, b"?" * len(CONTENT), b"?" * (len(CONTENT) + 7)])
def test_a_part_of_another_file_is_blamed_before_the_mirror(web, tmp_path, stale):
    (tmp_path / "file.part").write_bytes(stale)
    get(web, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT


@pytest.mark.parametrize("had", [CONTENT, CONTENT + b"?"])
def test_past_the_end_is_the_end_or_a_reason_to_start_anew(web, tmp_path, had):
    (tmp_path / "file.part").write_bytes(had)
    get(web, tmp_path / "file", expected=HASH_ALONE)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert web.ranges() == ([f"bytes={len(CONTENT)}-"] if had == CONTENT else [f"bytes={len(CONTENT) + 1}-", ""])


def test_an_interrupted_run_is_resumed_by_the_next(web, tmp_path):
    def interrupt(name, have, total):
        if have > 100_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        get(web, tmp_path / "file", watch=interrupt)
    have = (tmp_path / "file.part").stat().st_size
    assert not (tmp_path / "file").exists() and have > 100_000
    get(web, tmp_path / "file")
    assert web.ranges() == ["", f"bytes={have}-"] and (tmp_path / "file").read_bytes() == CONTENT


def test_what_is_here_is_checked_without_a_request(web, tmp_path):
    (tmp_path / "file").write_bytes(CONTENT)
    assert get(web, tmp_path / "file").url == "" and not web.seen
    (tmp_path / "file").write_bytes(CONTENT[:-1] + b"?")
    with pytest.raises(StudyError, match="file has the wrong sha256"):
        get(web, tmp_path / "file")
    assert (tmp_path / "file").exists(), "a user's file is not deleted"


def test_the_error_names_the_file_and_every_mirror_in_one_line(web, tmp_path):
    web.faults.update(a=[404], b=[500] * 3)
    with pytest.raises(StudyError) as error:
        get(web, tmp_path / "file", "ab")
    message = str(error.value)
    assert "\n" not in message and "file could not be downloaded" in message and "--from" in message
    assert f"{web.url('a')}: HTTP 404" in message and f"{web.url('b')}: HTTP 500, 3 times in a row" in message


def test_progress_counts_from_what_is_here_to_the_whole(web, tmp_path):
    (tmp_path / "file.part").write_bytes(CONTENT[:200_000])
    seen = []
    get(web, tmp_path / "file", watch=lambda *of: seen.append(of))
    assert seen[0] == ("file", 200_000, len(CONTENT)) and seen[-1] == ("file", len(CONTENT), len(CONTENT))


def test_pauses_grow(monkeypatch):
    pauses = []
    monkeypatch.setattr("zsr.data.fetching.download.time.sleep", pauses.append)
    for idle in range(4):
        Patience().wait(idle)
    assert pauses == [0, 1, 2, 4]


def test_a_full_disk_is_known_before_the_first_byte(web, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=len(CONTENT) - 1))
    with pytest.raises(StudyError, match="file needs .* are free"):
        get(web, tmp_path / "file")
    assert not web.seen
    require_space(tmp_path / "not" / "made" / "yet", 0, "it")


def test_two_that_want_one_file_wait_for_each_other(web, tmp_path):
    web.faults["a"] = [("stall", 10_000)]  # the first is still at it when the second comes
    with ThreadPoolExecutor() as pool:  # the lock is one of open files, so it holds between threads as well
        both = [pool.submit(get, web, tmp_path / "file") for _ in range(2)]
    assert sorted(one.result().url for one in both) == ["", web.url("a")]
    assert web.sent["a"] == len(CONTENT) and (tmp_path / "file").read_bytes() == CONTENT


def test_a_mirror_that_trickles_is_left_for_the_next(web, tmp_path):
    web.faults["a"] = [("trickle", 0.02)]
    patience = Patience(timeout=5, tries=1, pause=0, rate=1000, window=0.3)
    assert get(web, tmp_path / "file", "ab", patience=patience).url == web.url("b")
    assert (tmp_path / "file").read_bytes() == CONTENT
    web.faults["a"] = [("trickle", 0.02)]
    with pytest.raises(StudyError, match="under 1000 bytes a second over 0.3 seconds"):
        get(web, tmp_path / "other", "a", patience=patience)


@pytest.mark.parametrize("total", ["1e999", "NaN", "null", "9" * 5000, DEEP])
def test_damaged_notes_of_a_part_are_no_obstacle(web, tmp_path, total):
    (tmp_path / "file.part").write_bytes(CONTENT[:1000])
    (tmp_path / "file.part.json").write_text(f'{{"url": "{web.url("a")}", "version": "", "total": {total}}}')
    assert get(web, tmp_path / "file").sha256 == RIGHT.sha256 and leftovers(tmp_path) == {"file"}


@pytest.mark.parametrize("name", ["file", "file.part", "file.refused"])
def test_a_pipe_in_the_place_of_a_file_is_one_line(web, tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(StudyError, match=f"{name} is a device or a pipe"):
        get(web, tmp_path / "file")


@pytest.mark.parametrize("name", ["file.part.json", "file.refused.json"])
def test_a_pipe_in_the_place_of_notes_is_no_obstacle(web, tmp_path, name):
    (tmp_path / "file.part").write_bytes(CONTENT[:1000])
    os.mkfifo(tmp_path / name)
    assert get(web, tmp_path / "file").sha256 == RIGHT.sha256


@pytest.mark.parametrize("place", ["http://[::1/file", f"http://{'a' * 70}/file", "http://a..b/file"])
def test_an_address_that_leads_nowhere_is_a_fault_of_the_mirror(web, tmp_path, place):
    web.leads["a"] = place
    assert get(web, tmp_path / "file", "ab").url == web.url("b")


@pytest.mark.parametrize(
    "header", ["Content-Length: " + "9" * 5000, "Content-Range: bytes 0-9/" + "9" * 5000, "Content-Length: \xb2"]
)
def test_a_size_of_thousands_of_digits_is_no_size(header):
    name, _, value = header.partition(": ")
    response = SimpleNamespace(status=206 if "Range" in name else 200, headers={name: value})
    assert _announced(response) == (0, 0)


def test_a_mirror_that_trickles_its_headers_is_left(tmp_path):
    """Each byte comes in time, and the answer never does."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def trickle():
            client, _ = server.accept()
            with client, suppress(OSError):
                for byte in b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200:
                    client.send(bytes([byte]))
                    time.sleep(0.02)

        Thread(target=trickle, daemon=True).start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        with pytest.raises(StudyError, match="under 1000 bytes a second"):
            download([url], tmp_path / "file", RIGHT, Patience(timeout=5, tries=1, pause=0, rate=1000, window=0.3))


def test_a_slow_start_is_forgiven_and_any_rate_may_be_allowed(web, tmp_path):
    web.files["a"], web.faults["a"] = CONTENT[:30], [("trickle", 0.01)]
    few = Expected(size=30, sha256=hashlib.sha256(CONTENT[:30]).hexdigest())
    get(web, tmp_path / "file", expected=few, patience=Patience(timeout=5, tries=1, pause=0, rate=0, window=0.1))
    assert (tmp_path / "file").read_bytes() == CONTENT[:30]


@pytest.mark.parametrize("expected", [RIGHT, HASH_ALONE, Expected(size=len(CONTENT)), Expected()])
def test_a_page_in_place_of_the_file_is_kept_aside_and_named(web, tmp_path, expected):
    web.faults["a"] = ["page"]
    with pytest.raises(StudyError, match="an HTML page in place of the file; what came is kept as .*file.refused"):
        get(web, tmp_path / "file", expected=expected)
    assert (tmp_path / "file.refused").read_bytes() == PAGE and leftovers(tmp_path) == {"file.refused"}
    get(web, tmp_path / "file", expected=expected)
    assert (tmp_path / "file").read_bytes() == CONTENT and leftovers(tmp_path) == {"file"}


@pytest.mark.parametrize("expected", [RIGHT, HASH_ALONE, Expected()])
def test_a_page_that_does_not_say_so_is_known_by_its_content(web, tmp_path, expected):
    web.files["a"] = PAGE
    with pytest.raises(StudyError, match="HTML page|wrong size"):
        get(web, tmp_path / "file", expected=expected)
    assert leftovers(tmp_path) == {"file.refused"}


def test_a_page_does_not_spoil_what_came_before(web, tmp_path):
    web.faults["a"] = [("drop", 100_000), "page"]
    assert get(web, tmp_path / "file", "ab").url == web.url("b")
    assert web.sent["b"] == len(CONTENT) - 100_000


@pytest.mark.parametrize("expected", [RIGHT, Expected(size=len(CONTENT)), Expected()])
def test_bytes_of_two_versions_are_never_mixed(web, tmp_path, expected):
    web.versions["a"], web.faults["a"] = '"1"', [("drop", 100_000), 404]
    with pytest.raises(StudyError):
        get(web, tmp_path / "file", expected=expected)
    web.files["a"], web.versions["a"] = bytes(100) + CONTENT[100:], '"2"'
    if expected.sha256:
        with pytest.raises(StudyError, match="wrong sha256"):
            get(web, tmp_path / "file", expected=expected)
    else:
        get(web, tmp_path / "file", expected=expected)
        assert (tmp_path / "file").read_bytes() == web.files["a"]
        assert web.sent["a"] == 100_000 + len(CONTENT)


@pytest.mark.parametrize("other", [bytes(100) + CONTENT[100:], CONTENT + b"?"])
def test_a_server_that_continues_with_another_version_is_asked_anew(web, tmp_path, other):
    web.versions["a"], web.faults["a"] = '"1"', [("drop", 100_000), 404]
    with pytest.raises(StudyError):
        get(web, tmp_path / "file", expected=Expected())
    web.files["a"], web.versions["a"], web.faults["a"] = (
        other,
        '"1"' if len(other) > len(CONTENT) else '"2"',
        ["ranged"],
    )
    get(web, tmp_path / "file", expected=Expected())
    assert (tmp_path / "file").read_bytes() == other


def test_without_a_hash_another_mirror_starts_anew(web, tmp_path):
    web.faults["a"], web.files["b"] = [("drop", 100_000), 404], CONTENT[::-1]
    get(web, tmp_path / "file", "ab", expected=Expected(size=len(CONTENT)))
    assert (tmp_path / "file").read_bytes() == CONTENT[::-1]


def test_a_disk_that_fills_up_is_not_blamed_on_the_mirror(web, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(StudyError, match=r"file.part cannot be written .*it needs 0.30 MB, and .* are free"):
            get(web, tmp_path / "file", "ab")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {path for _, path, _ in web.seen} == {"a"}


def test_no_link_is_followed_to_write(web, tmp_path):
    (tmp_path / "file.part").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StudyError, match="file.part cannot be written"):
        get(web, tmp_path / "file")
    assert not (tmp_path / "elsewhere").exists()

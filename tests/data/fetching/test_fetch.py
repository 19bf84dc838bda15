"""A set is fetched whole, from the first source that gives it, once; what fails says in one line what to do."""

import gzip
import hashlib
import json
import os
import shutil
import socket

import pytest
from click.testing import CliRunner

from tests.archives import contents, tar, zipped
from tests.mirror import mirror
from zsr.cli.fetch import fetch as main
from zsr.data import downloads, registry
from zsr.data.fetching.download import Patience
from zsr.data.fetching.fetch import Wish, candidates, fetch, fetch_all
from zsr.data.registry import entry, parsed
from zsr.params import ParamError, StudyError

COMMON = {"title": "T", "splits": {"test": 4}, "num_classes": 2, "transform_group": "small", "citation": "C"}
FILES = {"one/a.jpg": b"a", "two/b.jpg": b"b"}


@pytest.fixture(scope="module")
def server():
    with mirror() as running:
        yield running


@pytest.fixture
def web(server, tmp_path):
    """A mirror of two archives, a plain file and an archive within one."""
    server.faults, server.sent = {}, {}
    server.seen.clear()
    made = tmp_path / "made"
    made.mkdir()
    tar(made / "images.tgz", {f"images/{name}": content for name, content in FILES.items()}, "w:gz")
    zipped(made / "notes.zip", {"notes/test.txt": b"a b"})
    (made / "y.gz").write_bytes(gzip.compress(b"labels"))
    (made / "plain.mat").write_bytes(b"matrix")
    tar(made / "inner.tgz", {"objects/a.jpg": b"a"}, "w:gz")
    zipped(made / "outer.zip", {"outer/inner.tgz": (made / "inner.tgz").read_bytes(), "outer/other.m": b"unwanted"})
    server.files = {path.name: path.read_bytes() for path in made.iterdir()}
    return server


def file(web, name, unpack, into="set", address=None, **more) -> dict:
    content = web.files[name]
    known = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    return {"name": name, "urls": [web.url(address or name)], "unpack": unpack, "into": into} | known | more


def source(*files, **more) -> dict:
    return {"kind": "archive", "files": list(files)} | more


def made(*sources, key="set", **more):
    return parsed({key: COMMON | {"layout_root": key, "sources": list(sources)} | more})[key]


@pytest.fixture
def of(web):
    """A set in four files, each of another kind."""
    kinds = {"images.tgz": "tar", "notes.zip": "zip", "y.gz": "gz", "plain.mat": "none"}
    return made(source(*(file(web, name, unpack) for name, unpack in kinds.items())))


def wish(tmp_path, root="root", **more) -> Wish:
    return Wish(root=tmp_path / root, patience=Patience(timeout=5, tries=2, pause=0), **more)


LAID_OUT = {f"images/{name}": content for name, content in FILES.items()} | {
    "notes/test.txt": b"a b",
    "y": b"labels",
    "plain.mat": b"matrix",
}


def test_all_files_of_a_set_come_together_in_its_folder(web, of, tmp_path):
    outcome = fetch(of, wish(tmp_path))
    assert contents(tmp_path / "root" / "set") == LAID_OUT
    assert outcome.state == "fetched" and outcome.bytes == sum(file.size for file in of.sources[0].files)
    assert sorted(path.name for path in (tmp_path / "root").iterdir()) == [
        ".staging", "archives", "locks", "receipts", "set",
    ]  # fmt: skip
    assert not list((tmp_path / "root" / ".staging").iterdir())


def test_a_link_to_nothing_in_the_place_of_a_set_is_named(web, of, tmp_path):
    """Such as a link to a disk that is not mounted."""
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "set").symlink_to(tmp_path / "not mounted")
    with pytest.raises(StudyError, match="root/set is in the way of a folder: move it away"):
        fetch(of, wish(tmp_path))
    assert not (tmp_path / "not mounted").exists()


def test_a_second_run_asks_for_nothing_and_changes_nothing(web, of, tmp_path):
    fetch(of, wish(tmp_path))
    receipt = tmp_path / "root" / "receipts" / "set.json"
    before, stamp = receipt.read_bytes(), (tmp_path / "root" / "set" / "y").stat().st_mtime_ns
    web.seen.clear()
    assert fetch(of, wish(tmp_path)).state == "here before"
    assert not web.seen and receipt.read_bytes() == before
    assert (tmp_path / "root" / "set" / "y").stat().st_mtime_ns == stamp


def test_receipts_tell_sources_and_hashes_and_are_the_same_bytes_everywhere(web, of, tmp_path):
    for root in ("root", "other"):
        fetch(of, wish(tmp_path, root))
    receipts = [(tmp_path / root / "receipts" / "set.json").read_bytes() for root in ("root", "other")]
    assert receipts[0] == receipts[1] and str(tmp_path).encode() not in receipts[0]
    said = json.loads(receipts[0])["test"]["source"]
    assert [(f["url"], f["sha256"]) for f in said["files"]] == [
        (file.urls[0], file.sha256) for file in of.sources[0].files
    ]
    assert said["unpacked"]["files"] == len(LAID_OUT)


def test_a_set_whose_folder_was_deleted_is_unpacked_again_without_a_request(web, of, tmp_path):
    fetch(of, wish(tmp_path))
    shutil.rmtree(tmp_path / "root" / "set")
    web.seen.clear()
    assert fetch(of, wish(tmp_path)).state == "fetched" and not web.seen
    assert contents(tmp_path / "root" / "set") == LAID_OUT


@pytest.mark.parametrize("step", ["install.place", "fetch.write_json", "install.extract"])
def test_a_kill_at_any_step_is_made_good_by_the_next_run(web, of, tmp_path, monkeypatch, step):
    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(f"zsr.data.fetching.{step}", killed)
        fetch(of, wish(tmp_path))
    web.seen.clear()
    assert fetch(of, wish(tmp_path)).state == "fetched" and not web.seen
    assert contents(tmp_path / "root" / "set") == LAID_OUT


def test_a_users_own_copy_is_left_alone(web, of, tmp_path):
    (tmp_path / "root" / "set").mkdir(parents=True)
    lines = []
    assert fetch(of, wish(tmp_path, warn=lines.append)).state == "own copy"
    assert not web.seen and "not checked" in lines[0] and not list((tmp_path / "root" / "set").iterdir())


def test_the_next_source_serves_where_the_first_fails_and_dead_ones_are_not_asked(web, tmp_path):
    dead = source(file(web, "images.tgz", "tar", address="dead"), status="dead")
    broken = source(file(web, "images.tgz", "tar", address="gone"))
    fetch(made(dead, broken, source(file(web, "notes.zip", "zip"))), wish(tmp_path))
    assert [path for _, path, _ in web.seen] == ["gone", "notes.zip"]
    assert contents(tmp_path / "root" / "set") == {"notes/test.txt": b"a b"}


def test_only_the_inner_archive_of_a_known_hash_is_taken(web, tmp_path):
    inner = {"name": "outer/inner.tgz", "size": len(web.files["inner.tgz"]), "into": "set"}
    right = inner | {"sha256": hashlib.sha256(web.files["inner.tgz"]).hexdigest()}
    fetch(made(source(file(web, "outer.zip", "zip", inner=[right]))), wish(tmp_path))
    assert contents(tmp_path / "root" / "set") == {"objects/a.jpg": b"a"}
    for wrong, match in (
        (inner | {"sha256": "0" * 64}, "wrong sha256"),
        (inner | {"name": "x.tgz"}, "no member 'x.tgz'"),
    ):
        with pytest.raises(StudyError, match=match):
            fetch(made(source(file(web, "outer.zip", "zip", inner=[wrong]))), wish(tmp_path, "other"))
        assert not (tmp_path / "other" / "set").exists()


def test_archives_of_something_else_are_refused(web, tmp_path):
    with pytest.raises(StudyError, match="held no folder elsewhere"):
        fetch(made(source(file(web, "images.tgz", "tar")), layout_root="elsewhere"), wish(tmp_path))
    assert not (tmp_path / "root" / "set").exists()


@pytest.mark.parametrize("other", ["receipts/cifar10.json", "other/a.jpg", "locks/other"])
def test_an_archive_writes_only_below_the_folder_of_its_set(web, tmp_path, other):
    web.files["a.tar"] = tar(tmp_path / "a.tar", {"set/a.jpg": b"a", other: b"{}"}).read_bytes()
    with pytest.raises(StudyError, match=rf"a.tar of T held '{other.split('/')[0]}' beside the set's folder set"):
        fetch(made(source(file(web, "a.tar", "tar", into=""))), wish(tmp_path))
    assert not (tmp_path / "root" / other).exists() and not (tmp_path / "root" / "set").exists()


def test_what_a_file_browser_left_in_an_archive_is_left_there(web, tmp_path):
    files = {"set/a.jpg": b"a", "__MACOSX/set/._a.jpg": b"?", "._set": b"?"}
    web.files["a.tar"] = tar(tmp_path / "a.tar", files).read_bytes()
    fetch(made(source(file(web, "a.tar", "tar", into=""))), wish(tmp_path))
    assert contents(tmp_path / "root" / "set") == {"a.jpg": b"a"} and not (tmp_path / "root" / "__MACOSX").exists()


def test_more_members_than_a_set_can_have_are_refused(web, tmp_path, monkeypatch):
    monkeypatch.setattr("zsr.data.fetching.install.MEMBERS", 0)
    web.files["a.tar"] = tar(tmp_path / "a.tar", {f"set/{k}": b"" for k in range(41)}).read_bytes()
    with pytest.raises(StudyError, match="a.tar holds more than 40 members"):
        fetch(made(source(file(web, "a.tar", "tar", into=""))), wish(tmp_path))


def test_files_are_imported_by_name_and_checked_alike(web, of, tmp_path, monkeypatch):
    monkeypatch.setattr(socket.socket, "connect", pytest.fail)
    given = tmp_path / "made"
    assert fetch(of, wish(tmp_path, given=given)).state == "fetched"
    assert contents(tmp_path / "root" / "set") == LAID_OUT and contents(given).keys() >= {"y.gz"}
    (given / "y.gz").write_bytes(web.files["y.gz"][:-1] + b"?")
    with pytest.raises(StudyError, match="y.gz has the wrong sha256"):
        fetch(of, wish(tmp_path, "other", given=given))
    (given / "y.gz").unlink()
    with pytest.raises(StudyError, match="has nothing of it that is known .*images.tgz and notes.zip and y.gz"):
        fetch(of, wish(tmp_path, "third", given=given))
    assert not (tmp_path / "other" / "set").exists() and not (tmp_path / "third" / "set").exists()


def test_an_import_without_hard_links_is_a_copy(web, of, tmp_path, monkeypatch):
    monkeypatch.setattr("os.link", lambda *_: (_ for _ in ()).throw(OSError))
    fetch(of, wish(tmp_path, given=tmp_path / "made"))
    assert contents(tmp_path / "root" / "set") == LAID_OUT


def test_a_dead_source_still_knows_its_files(web, tmp_path):
    gone = made(source(file(web, "images.tgz", "tar"), status="dead", note="it is gone"))
    with pytest.raises(StudyError, match="it is gone"):
        fetch(gone, wish(tmp_path))
    assert not web.seen and fetch(gone, wish(tmp_path, given=tmp_path / "made")).state == "fetched"


def test_a_split_that_a_set_has_not_is_named(of, tmp_path):
    with pytest.raises(ParamError, match="no split 'train'.*it has: test"):
        fetch(of, wish(tmp_path, split="train"))


def test_one_source_for_both_splits_is_fetched_once(web, tmp_path):
    both = made(source(file(web, "images.tgz", "tar"), splits=["train", "test"]), splits={"train": 2, "test": 2})
    fetch(both, wish(tmp_path))
    web.seen.clear()
    assert fetch(both, wish(tmp_path, split="train")).state == "here before" and not web.seen


def test_gated_sets_tell_what_to_get_from_where_and_under_which_licence(tmp_path):
    with pytest.raises(StudyError) as error:
        fetch(entry("imagenet"), wish(tmp_path))
    message = str(error.value)
    assert "\n" not in message
    for part in ("--accept-imagenet-terms", "image-net.org", "licence:", "non-commercial", "--from", "root/imagenet"):
        assert part in message
    assert candidates(entry("imagenet"), wish(tmp_path)) == []
    accepted = candidates(entry("imagenet"), wish(tmp_path, accepted=True))
    assert [source.repo for source in accepted] == ["clip-benchmark/wds_imagenet1k"]


def test_a_failure_does_not_stop_the_other_sets(web, tmp_path, monkeypatch):
    known = {
        "bad": made(source(file(web, "y.gz", "gz", address="gone")), key="bad"),
        "set": made(source(file(web, "y.gz", "gz"))),
    }
    monkeypatch.setattr(registry, "entries", lambda: known)
    outcomes = list(fetch_all(["bad", "set"], wish(tmp_path)))
    assert [outcome.state for outcome in outcomes] == ["failed", "fetched"]
    assert "HTTP 404" in outcomes[0].fault
    with pytest.raises(ParamError, match="'sett'; did you mean 'set'"):
        list(fetch_all(["set", "sett"], wish(tmp_path)))


@pytest.fixture
def command(monkeypatch):
    def run(known, *words, **more):
        for place in ("zsr.cli.fetch", "zsr.data.registry", "zsr.data.fetching.hub"):
            monkeypatch.setattr(f"{place}.entries", lambda: known)
        return CliRunner().invoke(main, [str(word) for word in words], **more)

    return run


def test_the_command_ends_with_a_table_and_fails_if_one_set_did(web, of, tmp_path, command):
    bad = made({"kind": "manual", "note": "ask the authors"}, key="bad")
    ended = command({"bad": bad, "set": of}, "all", "--root", tmp_path / "root")
    rows = {line.split()[0]: line.split()[-1] for line in ended.stdout.splitlines() if line}
    assert rows["bad"] == "failed" and rows["set"] == "fetched"
    assert ended.exit_code == 1 and "ask the authors" in ended.stderr and "Traceback" not in ended.output
    assert command({"set": of}, "set", env={"DATA_ROOT": str(tmp_path / "root")}).exit_code == 0
    assert command({"set": of}, "sett").exit_code == 1 and command({"set": of}).exit_code == 1


def test_all_means_the_sets_that_have_the_split(web, of, tmp_path, command):
    files = source(file(web, "y.gz", "gz", into="both"), splits=["train", "test"])
    both = made(files, key="both", splits={"train": 1, "test": 1})
    ended = command({"set": of, "both": both}, "all", "--split", "train", "--root", tmp_path / "root")
    assert ended.exit_code == 0 and not (tmp_path / "root" / "set").exists()


def test_the_plan_lists_every_file_without_a_network(web, of, command, monkeypatch):
    monkeypatch.setattr(socket, "socket", pytest.fail)
    ended = command({"set": of}, "set", "--plan", "--json")
    rows = json.loads(ended.stdout)
    assert [(row["file"], row["size"], row["sha256"], row["urls"]) for row in rows] == [
        (file.name, file.size, file.sha256, list(file.urls)) for file in of.sources[0].files
    ]
    table = command({"set": of}, "set", "--plan").stdout
    assert all(row["file"] in table and row["sha256"] in table and row["urls"][0] in table for row in rows)


def test_a_check_asks_for_heads_alone_and_fails_unless_the_dead_are_dead(web, command):
    gone = source(file(web, "y.gz", "gz", address="gone"), status="dead")
    right = made(source(file(web, "y.gz", "gz")), gone)
    ended = command({"set": right}, "set", "--check", "--json")
    assert [row["answer"] for row in json.loads(ended.stdout)] == ["200", "HTTP 404"] and ended.exit_code == 0
    assert {method for method, _, _ in web.seen} == {"HEAD"}
    other = made(source(file(web, "y.gz", "gz", size=7)))
    ended = command({"set": other}, "set", "--check")
    assert ended.exit_code == 1 and "bytes where 7 are expected" in ended.stdout


def test_an_archive_without_a_hash_is_not_met_again_once_refused(web, tmp_path):
    right = web.files["images.tgz"]
    unknown = made(source(file(web, "images.tgz", "tar", size=0, sha256="")))
    web.files["images.tgz"] = b"something else"
    with pytest.raises(StudyError, match="images.tgz cannot be unpacked .*is kept as .*images.tgz.refused"):
        fetch(unknown, wish(tmp_path))
    web.files["images.tgz"] = right
    assert fetch(unknown, wish(tmp_path)).state == "fetched"


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"test": {}}',
        *(f'{{"test": {{"folder": {of}, "source": {{"files": []}}}}}}' for of in (1, '"set"')),
        *(
            f'{{"test": {{"folder": "{of}", "source": {{"kind": "archive", "files": []}}}}}}'
            for of in ("..", "/", "a/../..")
        ),
        "[" * 100_000,
    ],
)
def test_a_damaged_receipt_is_one_line(web, of, tmp_path, content):
    receipt = tmp_path / "root" / "receipts" / "set.json"
    receipt.parent.mkdir(parents=True)
    receipt.write_text(content)
    with pytest.raises(StudyError, match="set.json is damaged: delete it"):
        fetch(of, wish(tmp_path))


def test_a_pipe_in_the_place_of_a_receipt_is_one_line(of, tmp_path):
    receipt = tmp_path / "root" / "receipts" / "set.json"
    receipt.parent.mkdir(parents=True)
    os.mkfifo(receipt)
    with pytest.raises(StudyError, match="set.json is a device or a pipe"):
        fetch(of, wish(tmp_path))


ODD = [None, 7, "text", [], {}, [7], True, -1, float("nan")]


def test_a_receipt_without_a_part_or_with_an_odd_one_is_one_line_or_is_as_good(web, of, tmp_path):
    """The stage download makes its manifest of the receipt. Each part of a receipt that it needs is looked at."""
    fetch(of, wish(tmp_path))
    receipt = tmp_path / "root" / "receipts" / "set.json"
    right, refused = receipt.read_text(), []
    for place in ("test/folder", "test/source", *(f"test/source/{one}" for one in SOURCE), *map(FILE, PARTS)):
        *parents, last = place.split("/")
        for odd in (KeyError, *ODD):
            document = part = json.loads(right)
            for key in parents:
                part = part[int(key) if isinstance(part, list) else key]
            part.pop(last)
            if odd is not KeyError:
                part[last] = odd
            receipt.write_text(json.dumps(document))
            try:
                assert fetch(of, wish(tmp_path)).state in ("here before", "fetched")  # where the folder is another
                assert downloads._verified(of, tmp_path / "root", "test")["backend"] == "archive"
            except StudyError as error:
                assert str(error).startswith(f"{receipt} is damaged: delete it") and "\n" not in str(error)
                refused.append(place)
    assert refused.count("test/source/kind") == 1 + len(ODD)
    assert {refused.count(FILE(part)) for part in PARTS} == {len(ODD)}  # a text is a name, and 7 is a size


SOURCE, PARTS, FILE = ("kind", "files"), ("name", "size", "sha256"), "test/source/files/0/{}".format


def test_an_error_after_a_progress_bar_stands_on_a_line_of_its_own(web, tmp_path, command):
    web.faults["images.tgz"] = [("drop", 50)] + [404]
    ended = command({"set": made(source(file(web, "images.tgz", "tar")))}, "set", "--root", tmp_path / "root")
    assert ended.exit_code == 1 and "images.tgz: " in ended.stderr
    (line,) = [line for line in ended.stderr.replace("\r", "\n").splitlines() if "could not be fetched" in line]
    assert line.startswith("Error: ") and "\nError: " in ended.stderr


def test_the_patience_with_a_mirror_is_an_option(web, of, tmp_path, command, monkeypatch):
    given = []
    monkeypatch.setattr("zsr.cli.fetch.fetch_all", lambda names, request: given.append(request.patience) or [])
    command({"set": of}, "set", "--least-rate", "0", "--timeout", "5")
    assert (given[0].rate, given[0].timeout) == (0, 5)


@pytest.mark.parametrize("option", ["--timeout", "--least-rate"])
@pytest.mark.parametrize("value", ["nan", "inf", "-1", "1e30", "x"])
def test_a_patience_that_no_clock_holds_is_refused_in_one_line(of, command, monkeypatch, option, value):
    monkeypatch.setattr("zsr.cli.fetch.fetch_all", lambda names, request: pytest.fail("a mirror was asked"))
    ended = command({"set": of}, "set", option, value)
    assert ended.exit_code == 2 and f"Error: Invalid value for '{option}': it must be " in ended.stderr


def test_a_set_of_other_hashes_than_the_registrys_gives_way_and_costs_one_request(web, tmp_path):
    """A registry that is corrected must reach those who have the files of before."""
    lines, old = [], made(source(file(web, "notes.zip", "zip"), file(web, "images.tgz", "tar")))
    fetch(old, wish(tmp_path))
    web.files["images.tgz"] = tar(tmp_path / "new.tgz", {"images/new.jpg": b"new"}, "w:gz").read_bytes()
    new = made(source(file(web, "notes.zip", "zip"), file(web, "images.tgz", "tar")))
    web.seen.clear()
    assert fetch(new, wish(tmp_path, warn=lines.append)).state == "fetched"
    assert [path for _, path, _ in web.seen] == ["images.tgz"] and len(lines) == 1 and "set.replaced" in lines[0]
    assert contents(tmp_path / "root" / "set") == {"images/new.jpg": b"new", "notes/test.txt": b"a b"}
    before = {"notes/test.txt", *(f"images/{name}" for name in FILES)}
    assert contents(tmp_path / "root" / "set.replaced").keys() == before
    assert fetch(new, wish(tmp_path)).state == "here before" and len(web.seen) == 1


@pytest.mark.parametrize("change", [{"sha256": ""}, {"name": "other.tgz"}])
def test_a_file_that_the_registry_does_not_contradict_is_as_good_as_before(web, tmp_path, change):
    fetch(made(source(file(web, "images.tgz", "tar"))), wish(tmp_path))
    web.seen.clear()
    assert fetch(made(source(file(web, "images.tgz", "tar") | change)), wish(tmp_path)).state == "here before"
    second = source(file(web, "images.tgz", "tar", sha256="0" * 64))
    assert fetch(made(second, source(file(web, "images.tgz", "tar"))), wish(tmp_path)).state == "here before"
    assert not web.seen


@pytest.mark.parametrize("step", ["fetch.put_aside", "fetch.write_json", "fetch.download", "install.extract"])
def test_a_kill_while_files_give_way_is_made_good(web, tmp_path, monkeypatch, step):
    fetch(made(source(file(web, "images.tgz", "tar"))), wish(tmp_path))
    web.files["images.tgz"] = tar(tmp_path / "new.tgz", {"images/new.jpg": b"new"}, "w:gz").read_bytes()
    new = made(source(file(web, "images.tgz", "tar")))
    web.seen.clear()

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(f"zsr.data.fetching.{step}", killed)
        fetch(new, wish(tmp_path))
    assert fetch(new, wish(tmp_path)).state == "fetched" and len(web.seen) == 1
    assert contents(tmp_path / "root" / "set") == {"images/new.jpg": b"new"}

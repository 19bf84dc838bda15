"""Shards come from the Hub pinned and checked, whatever its client returns."""

import hashlib
import json
import sys
from types import SimpleNamespace

import pytest

from tests.archives import contents
from tests.mirror import mirror
from zsr.data import plan
from zsr.data.fetching import hub
from zsr.data.fetching.download import Patience
from zsr.data.fetching.fetch import Wish, fetch
from zsr.data.registry import parsed
from zsr.params import StudyError

REPO, COMMIT = "owner/wds_set", "25cfe61" + "0" * 33
FILES = {
    "classnames.txt": b"a cat\na dog\n",
    "test/nshards.txt": b"2\n",
    "test/0.tar": b"shard 0",
    "test/1.tar": b"shard 1",
}
PLACE = f"datasets/{REPO}/resolve/{COMMIT}/"


def made(**more):
    source = {"kind": "hub", "repo": REPO, "revision": "25cfe61", "include": ["test/*", "classnames.txt"], "shards": 2}
    common = {"title": "T", "splits": {"test": 4}, "num_classes": 2, "transform_group": "small", "citation": "C"}
    return parsed({"set": common | {"layout_root": "set", "sources": [source | {"backend": "shards"} | more]}})["set"]


class Client:
    """A stand-in for the module huggingface_hub, which is asked for facts alone; the files come from a server."""

    def __init__(self):
        self.broken, self.get_token = None, lambda: "secret"
        self.HfApi = lambda endpoint: self

    def list_repo_commits(self, repo, repo_type):
        return [SimpleNamespace(commit_id="f" * 40), SimpleNamespace(commit_id=COMMIT)]

    def dataset_info(self, repo, revision, files_metadata):
        if self.broken:
            raise self.broken
        return SimpleNamespace(sha=COMMIT if revision != "main" else "f" * 40, siblings=[*map(self.facts, FILES)])

    def facts(self, name):
        content = FILES[name]
        lfs = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()} if name.endswith("tar") else None
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        return SimpleNamespace(rfilename=name, size=len(content), blob_id=blob, lfs=lfs)


@pytest.fixture
def client(monkeypatch, tmp_path):
    client = Client()
    monkeypatch.setitem(sys.modules, "huggingface_hub", client)
    monkeypatch.setattr(hub, "LOCK", tmp_path / "lock.json")
    return client


@pytest.fixture
def web(client, monkeypatch):
    """The server of the Hub's files, of each test's own."""
    with mirror() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        server.files = {PLACE + name: content for name, content in FILES.items()}
        yield server


@pytest.fixture
def lock(client, monkeypatch):
    """Written by the command; returns what is in it."""
    monkeypatch.setattr(hub, "entries", lambda: {"set": made()})
    assert hub.write_lock(pytest.fail) == 1
    return json.loads(hub.LOCK.read_text())


def wish(tmp_path, lines, **more):
    patience = Patience(timeout=5, tries=2, pause=0)
    return Wish(root=tmp_path / "root", warn=lines.append, patience=patience, **more)


def test_the_lock_file_has_full_commits_and_hashes_of_the_files_included(lock):
    assert lock[REPO]["revision"] == COMMIT and set(lock[REPO]["files"]) == set(FILES)
    shard = lock[REPO]["files"]["test/0.tar"]
    assert shard == {"size": 7, "sha256": hashlib.sha256(b"shard 0").hexdigest()}
    assert lock[REPO]["files"]["classnames.txt"].keys() == {"size", "git"}


def test_a_repository_that_does_not_answer_keeps_its_place_in_the_lock_file(client, lock, monkeypatch):
    client.broken = OSError("no route to host")
    lines = []
    assert hub.write_lock(lines.append) == 1 and json.loads(hub.LOCK.read_text()) == lock
    assert "no route to host" in lines[0]


def test_locked_shards_come_from_the_pinned_commit_and_nothing_is_warned_of(web, lock, tmp_path):
    lines = []
    outcome = fetch(made(), wish(tmp_path, lines))
    assert {path for _, path, _ in web.seen} == {PLACE + name for name in FILES} and not lines
    assert set(web.tokens) == {"Bearer secret"}
    assert contents(tmp_path / "root" / "wds_set") == FILES and outcome.source == REPO
    receipt = json.loads((tmp_path / "root" / "receipts" / "set.json").read_text())["test"]
    assert receipt["folder"] == "wds_set" and receipt["source"]["revision"] == COMMIT
    asked = len(web.seen)
    assert fetch(made(), wish(tmp_path, lines)).state == "here before" and len(web.seen) == asked


def test_a_shard_is_continued_where_it_stopped_and_finished_files_are_not_asked_for(web, lock, tmp_path):
    web.faults[PLACE + "test/1.tar"] = [("drop", 3), 404]
    with pytest.raises(StudyError, match=r"1.tar could not be downloaded \(.*HTTP 404"):
        fetch(made(), wish(tmp_path, []))
    assert (tmp_path / "root" / "wds_set.part" / "test" / "1.tar.part").read_bytes() == b"sha"
    assert not (tmp_path / "root" / "wds_set").exists()
    assert fetch(made(), wish(tmp_path, [])).state == "fetched"
    assert contents(tmp_path / "root" / "wds_set") == FILES
    assert web.sent == {PLACE + name: len(content) for name, content in FILES.items()}, "no byte twice"
    assert "bytes=3-" in web.ranges()


def test_progress_is_that_of_each_file_and_of_the_set(web, lock, tmp_path):
    told = []
    fetch(made(), wish(tmp_path, [], watch=lambda *of: told.append(of)))
    whole = sum(map(len, FILES.values()))
    of_set = [have for name, have, total in told if name == "set" and total == whole]
    assert of_set == sorted(of_set) and of_set[-1] == whole
    assert {name for name, have, total in told if have == total} == {*(name.split("/")[-1] for name in FILES), "set"}


def test_without_a_lock_one_line_warns_and_the_hubs_own_hashes_are_checked(web, tmp_path):
    lines = []
    fetch(made(), wish(tmp_path, lines))
    assert len(lines) == 1 and "not in hub_lock.json" in lines[0] and COMMIT in web.seen[0][1]
    web.files[PLACE + "test/0.tar"] = b"shard ?"
    with pytest.raises(StudyError, match=r"0.tar could not be downloaded .*wrong sha256"):
        fetch(made(), Wish(root=tmp_path / "other"))


@pytest.mark.parametrize("name", FILES)
def test_a_wrong_or_missing_file_is_found_and_only_it_is_fetched_again(web, lock, tmp_path, name):
    short = name.split("/")[-1]
    right = web.files.pop(PLACE + name)
    with pytest.raises(StudyError, match=f"{short} could not be downloaded .*HTTP 404"):
        fetch(made(), wish(tmp_path, []))
    web.files[PLACE + name] = b"?" * len(right)
    with pytest.raises(StudyError, match=f"{short} could not be downloaded .*wrong .*kept as .*{short}.refused"):
        fetch(made(), wish(tmp_path, []))
    assert not (tmp_path / "root" / "wds_set").exists()
    (tmp_path / "root" / "wds_set.part" / f"{name}.refused").unlink()
    web.files[PLACE + name] = right
    assert fetch(made(), wish(tmp_path, [])).state == "fetched"
    assert contents(tmp_path / "root" / "wds_set") == FILES
    assert all(web.sent[PLACE + other] == len(FILES[other]) for other in FILES if other != name)


def test_a_file_of_another_revision_gives_way(web, lock, tmp_path):
    old = tmp_path / "root" / "wds_set.part" / "test" / "0.tar"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"shard of old")
    fetch(made(), wish(tmp_path, []))
    assert contents(tmp_path / "root" / "wds_set") == FILES


def test_another_commit_costs_the_files_that_changed_and_leaves_none_of_before(web, lock, tmp_path):
    fetch(made(), wish(tmp_path, []))
    web.seen.clear()
    assert fetch(made(), wish(tmp_path, [])).state == "here before" and not web.seen
    newer, files = "e" * 40, {name: content for name, content in FILES.items() if name != "test/0.tar"}
    files["test/2.tar"] = b"a new shard"
    facts = {name: {"size": len(of), "sha256": hashlib.sha256(of).hexdigest()} for name, of in files.items()}
    hub.LOCK.write_text(json.dumps({REPO: {"revision": newer, "files": facts}}))
    web.files = {PLACE.replace(COMMIT, newer) + name: content for name, content in files.items()}
    lines = []
    assert (
        fetch(made(), wish(tmp_path, lines)).state == "fetched"
        and f"{REPO} here is not that of the registry" in lines[0]
    )
    assert [path.rpartition("/")[2] for _, path, _ in web.seen] == ["2.tar"]
    assert contents(tmp_path / "root" / "wds_set") == files
    assert fetch(made(), wish(tmp_path, [])).state == "here before"


FILE = {"size": 1, "sha256": "0" * 64}


@pytest.mark.parametrize(
    "facts",
    [
        [],
        {REPO: []},
        {REPO: {"revision": 5, "files": {}}},
        {REPO: {"revision": COMMIT}},
        {REPO: {"revision": COMMIT, "files": [1]}},
        {REPO: {"revision": COMMIT, "files": {"a": 1}}},
        {REPO: {"revision": COMMIT, "files": {"a": FILE | {"size": "1"}}}},
        {REPO: {"revision": COMMIT, "files": {"a": FILE | {"size": -1}}}},
        {REPO: {"revision": COMMIT, "files": {"a": {"size": 1}}}},
        {REPO: {"revision": COMMIT, "files": {"a": {"size": 1, "git": 2}}}},
        {REPO: {"revision": COMMIT, "files": {"../a": FILE}}},
    ],
)
def test_a_damaged_lock_file_is_one_line(tmp_path, client, facts):
    hub.LOCK.write_text(json.dumps({REPO: {"revision": COMMIT, "files": {"a": FILE}}}))
    assert hub.locked()
    hub.LOCK.write_text(json.dumps(facts))
    with pytest.raises(StudyError, match="lock.json is damaged: restore it"):
        hub.locked()


@pytest.mark.parametrize("host", ["http://[::1", "huggingface", "ftp://host", "https://"])
def test_an_endpoint_that_is_no_address_is_named(monkeypatch, host):
    monkeypatch.setenv("HF_ENDPOINT", host)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(StudyError, match="^HF_ENDPOINT is "):
        hub.resolve(made().sources[0])


def test_facts_that_the_hub_does_not_state_are_one_line(client, monkeypatch):
    source = made().sources[0]
    assert len(hub.resolve(source)["files"]) == len(FILES)
    right = client.facts
    monkeypatch.setattr(
        client, "facts", lambda name: SimpleNamespace(**vars(right(name)) | {"size": None, "lfs": None})
    )
    with pytest.raises(StudyError, match="does not say the commit of owner/wds_set, or size and hash"):
        hub.resolve(source)


def test_offline_nothing_is_asked(web, lock, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(StudyError, match="HF_HUB_OFFLINE is set: give a folder with --from"):
        fetch(made(), wish(tmp_path, []))
    assert not web.seen


def test_other_numbers_of_shards_or_classes_are_another_set(web, lock, tmp_path):
    with pytest.raises(StudyError, match="2 shards where 3 are expected"):
        fetch(made(shards=3), wish(tmp_path, []))
    with pytest.raises(StudyError, match="2 classes where T has 3"):
        three = made().__class__(**{**made().__dict__, "num_classes": 3})
        fetch(three, wish(tmp_path, []))


@pytest.mark.parametrize("error", [OSError("offline mode is enabled\nsecond line"), RuntimeError("gated")])
def test_what_goes_wrong_in_the_client_is_one_line(client, tmp_path, error):
    client.broken = error
    with pytest.raises(StudyError) as raised:
        fetch(made(), wish(tmp_path, []))
    assert str(error).splitlines()[0] in str(raised.value) and "\n" not in str(raised.value)
    assert "--from" in str(raised.value)


def test_a_commit_that_is_gone_is_named(client, tmp_path):
    with pytest.raises(StudyError, match="no commit abcdef0"):
        fetch(made(revision="abcdef0"), wish(tmp_path, []))


@pytest.mark.parametrize("pinned", [True, False])
def test_shards_are_imported_and_checked_alike(client, tmp_path, pinned, request):
    if pinned:
        request.getfixturevalue("lock")
    given = tmp_path / "given"
    for name, content in FILES.items():
        (given / "wds_set" / name).parent.mkdir(parents=True, exist_ok=True)
        (given / "wds_set" / name).write_bytes(content)
    lines = []
    fetch(made(), wish(tmp_path, lines, given=given))
    assert contents(tmp_path / "root" / "wds_set") == FILES and len(lines) == (0 if pinned else 1)
    (given / "wds_set" / "test" / "1.tar").unlink()
    with pytest.raises(StudyError, match="there is no .*1.tar" if pinned else "1 shards where 2"):
        fetch(made(), Wish(root=tmp_path / "other", given=given))


def test_the_plan_names_shards_as_an_import_wants_them(lock):
    rows = plan.plan([made()], "test")
    assert {row["file"] for row in rows} == {f"wds_set/{name}" for name in FILES}
    assert all(COMMIT in row["urls"][0] for row in rows)
    assert sum(row["size"] for row in rows) == sum(map(len, FILES.values()))


def test_without_a_lock_the_plan_names_what_is_known(client):
    assert {row["file"] for row in plan.plan([made()], "test")} == {f"wds_set/{name}" for name in FILES}
    assert {row["file"] for row in plan.plan([made(shards=0)], "test")} == {"wds_set/test/*", "wds_set/classnames.txt"}


@pytest.mark.parametrize("name", ["test/../../receipts/set.json", "/test/0.tar", "test/\x1b[31m.tar"])
def test_a_name_of_the_hub_that_leads_out_of_its_folder_is_refused(client, tmp_path, monkeypatch, name):
    monkeypatch.setattr(client, "facts", lambda of: SimpleNamespace(rfilename=name, size=1, blob_id="", lfs=None))
    with pytest.raises(StudyError, match="leads out of its folder"):
        fetch(made(), wish(tmp_path, []))

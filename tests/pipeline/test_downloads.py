"""The stage `download`: what it asks for, what its manifest says, and what runs again; against a loopback server."""

import hashlib
import io
import os
import shutil
import signal
import tarfile
import time

import numpy as np
import pytest

from tests import fixtures_real
from tests.checkout import ROOT, Checkout, ran
from tests.mirror import mirror
from zsr.data import downloads, registry
from zsr.files import read_kept
from zsr.params import StudyError, read

NAME = "cifar10"


def archive(tmp_path) -> bytes:
    """The archive of a tiny CIFAR-10."""
    fixtures_real.cifar10(tmp_path / "made", np.random.default_rng(0))
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=0) as tar:
        tar.add(tmp_path / "made/cifar-10-batches-py", "cifar-10-batches-py")
    return packed.getvalue()


def raw_entry(content: bytes, *urls: str) -> dict:
    """The entry of CIFAR-10 in registry.yaml, with another file."""
    entry = read(ROOT / "zsr/data/registry.yaml")[NAME]
    file = entry["sources"][0]["files"][0] | {"urls": list(urls), "size": len(content), "md5": ""}
    file["sha256"] = hashlib.sha256(content).hexdigest()
    return entry | {"sources": [entry["sources"][0] | {"files": [file]}]}


@pytest.fixture
def known(monkeypatch):
    """Puts an entry in place of that of the registry."""

    def put(raw: dict):
        entries = registry.entries() | registry.parsed({NAME: raw})
        monkeypatch.setattr(registry, "entries", lambda: entries)

    return put


def test_a_manifest_is_the_same_from_every_mirror_and_root_and_nothing_is_asked_for_twice(tmp_path, known):
    content = archive(tmp_path)
    with mirror() as server:
        server.files = {"a.tar.gz": content, "b.tar.gz": content}
        known(raw_entry(content, server.url("gone.tar.gz"), server.url("a.tar.gz")))
        first = downloads.ensure(NAME, ["test"], tmp_path / "one")
        assert [path for _, path, _ in server.seen] == ["gone.tar.gz", "a.tar.gz"]
        known(raw_entry(content, server.url("b.tar.gz")))
        assert downloads.ensure(NAME, ["test"], tmp_path / "one") == first and len(server.seen) == 2
        assert downloads.ensure(NAME, ["test"], tmp_path / "two") == first and len(server.seen) == 3
    (file,) = first["sources"][0]["files"]
    assert file["sha256"] == hashlib.sha256(content).hexdigest() and file["bytes"] == len(content)
    assert first["sources"][0]["splits"] == ["test"] and first["sources"][0]["backend"] == "archive"
    told = str(first)
    assert len(told) < 1000 and not [word for word in ("http", "127.0.0.1", "/", "2026") if word in told]


def test_a_manifest_changes_with_how_a_set_is_read_and_not_with_words_for_people(tmp_path, known):
    (tmp_path / "cifar-10-batches-py").mkdir()
    raw, found = raw_entry(b"x", "http://127.0.0.1:9/x"), []
    for change in ({}, {"title": "other", "known_issues": ["one"]}, {"transform_group": "natural"}):
        known(raw | change)
        found.append(downloads.ensure(NAME, ["test"], tmp_path))
    assert found[0] == found[1] != found[2] and found[0]["sources"] == [{"splits": ["test"], "backend": "folder"}]


def test_sets_that_need_no_download_say_so_and_a_set_behind_a_registration_says_why(tmp_path):
    modules = {p.stem: p.read_text() for p in (ROOT / "zsr/data/sets").glob("[a-z]*.py")}
    assert {name for name, text in modules.items() if "def read(" in text} == set(registry.entries())
    assert {name for name, text in modules.items() if "def make(" in text} == set(registry.local())
    assert downloads.ensure("shapes", ["test"], tmp_path) == {"set": "shapes", "backend": "drawn"}
    with pytest.raises(StudyError, match="its terms have to be accepted first"):
        downloads.ensure("imagenet", ["test"], tmp_path)
    assert downloads.reason_of(downloads.left_out("imagenet")) == "needs a registration"
    assert not downloads.reason_of({"set": "shapes", "backend": "drawn"})


def test_no_stage_but_download_knows_the_registry():
    for text in (path.read_text() for path in (ROOT / "dvc.yaml", *(ROOT / "studies").glob("*/dvc.yaml"))):
        assert text.count("registry.yaml") == 1 and "registry.yaml" in text.partition("\n  data:")[0]
    from stages.command import cells, modules_of
    from zsr.scratch import closure

    document = read(ROOT / "studies/paper/params.yaml")
    for name, cell in cells(document):
        assert registry.PATH not in closure(modules_of(document, name, cell)), name


# On the real graph


@pytest.fixture(scope="module")
def study(tmp_path_factory, warm):
    """A checkout with two sets, one of them from a server; and the server."""
    folder = tmp_path_factory.mktemp("downloads")
    checkout, content = Checkout(folder / "here", **warm), archive(folder)
    (checkout.folder / "dvc.lock").unlink()
    sets = {"shapes": {"train": 40, "test": 10}, NAME: {"train": 0, "test": 4}}
    checkout.edit({"data.sets": sets, "data.source": "shapes", "data.start_source": "shapes", "data.complete": False})
    checkout.edit({"attention": {}})
    with mirror() as server:
        server.files = {"a.tar.gz": content, "b.tar.gz": content}
        checkout.server, checkout.content = server, content
        register(checkout, raw_entry(content, server.url("gone.tar.gz"), server.url("a.tar.gz")))
        checkout.commit("small")
        yield checkout


def register(checkout, raw: dict, comment: str = "", **others: object) -> None:
    """Write the registry of a checkout anew, with another entry of CIFAR-10."""
    from ruamel.yaml import YAML

    document = read(ROOT / "zsr/data/registry.yaml") | {NAME: raw} | others
    with (checkout.folder / "zsr/data/registry.yaml").open("w") as file:
        file.write(f"# {comment}\n")
        YAML(typ="safe").dump(document, file)


DATA = ("repro", f"data@{NAME}", "data@shapes")


def manifest(checkout):
    return (checkout.folder / f"data/downloads/{NAME}.json").read_bytes()


@pytest.mark.slow
def test_a_killed_download_resumes_and_a_second_run_runs_nothing(study):
    server, part = study.server, study.folder / f"downloads/archives/{NAME}"
    server.faults["a.tar.gz"] = [("stall", 5000)]
    process = study.start("-m", "dvc", *DATA)
    while not any(path.stat().st_size for path in part.glob("*.part")) and process.poll() is None:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    (left,) = part.glob("*.part")
    have = left.stat().st_size
    assert 0 < have <= 5000
    time.sleep(0.5)
    output = study.dvc(*DATA)
    assert {f"download@{NAME}", f"data@{NAME}"} <= ran(output)
    assert server.ranges()[-1] == f"bytes={have}-"
    assert server.sent["a.tar.gz"] <= 5000 + len(study.content) - have
    assert not ran(study.dvc(*DATA))


@pytest.mark.slow
def test_a_mirror_reruns_its_download_alone_and_a_comment_or_another_entry_nothing(study):
    before, seen = manifest(study), len(study.server.seen)
    raw = raw_entry(study.content, study.server.url("b.tar.gz"))
    register(study, raw)
    assert ran(study.dvc(*DATA)) - {"code"} == {f"download@{NAME}"}
    assert manifest(study) == before and len(study.server.seen) == seen
    other = read(ROOT / "zsr/data/registry.yaml")["dtd"]
    register(study, raw, "a comment", dtd=other | {"title": "other"})
    assert not ran(study.dvc(*DATA)) - {"code"}


@pytest.mark.slow
def test_what_was_deleted_comes_back_from_the_cache_and_files_once_where_they_are_needed(study):
    before, seen = manifest(study), len(study.server.seen)
    for name in ("data", "downloads"):
        shutil.rmtree(study.folder / name)
    assert not ran(study.dvc(*DATA)) and manifest(study) == before and len(study.server.seen) == seen
    study.edit({"data.seed": 1})
    assert f"data@{NAME}" in ran(study.dvc(*DATA))
    assert len(study.server.seen) == seen + 1 and manifest(study) == before


@pytest.mark.slow
def test_a_clone_with_the_same_root_sends_no_request_and_keeps_the_lock(study, tmp_path):
    study.commit("done")
    clone, seen = study.cloned(tmp_path / "clone"), len(study.server.seen)
    clone.variables = study.variables | {"DATA_ROOT": str(study.folder / "downloads")}
    lock = (clone.folder / "dvc.lock").read_bytes()
    assert f"download@{NAME}" in ran(clone.dvc(*DATA))
    assert len(study.server.seen) == seen and manifest(clone) == manifest(study)
    assert (clone.folder / "dvc.lock").read_bytes() == lock


@pytest.mark.slow
def test_another_hash_reruns_its_set_alone(study, tmp_path):
    content = archive(tmp_path) + bytes(512)
    study.server.files["a.tar.gz"] = content
    shutil.rmtree(study.folder / "downloads")
    register(study, raw_entry(content, study.server.url("a.tar.gz")))
    assert ran(study.dvc(*DATA)) - {"code"} == {f"download@{NAME}", f"data@{NAME}"}


@pytest.mark.slow
def test_a_set_that_is_left_out_is_taken_in_by_one_command(study):
    shutil.rmtree(study.folder / "downloads")
    study.server.files.clear()
    study.edit({f"data.sets.{NAME}": {"train": 0, "test": 3, "if_missing": "skip"}})
    said = study.dvc(*DATA)
    absent = read_kept(study.folder / f"data/sets/{NAME}/absent.json", f"images of {NAME}")
    assert f"{NAME} is left out" in said and absent["absent"]
    fixtures_real.cifar10(study.folder / "downloads", np.random.default_rng(0))  # the files come
    first, second = downloads.take_in(NAME).split(" && ")
    study.dvc(*first.split()[1:])
    assert second == "dvc repro" and ran(study.dvc(*DATA)) == {f"data@{NAME}"}
    assert (study.folder / f"data/sets/{NAME}/test.safetensors").exists()

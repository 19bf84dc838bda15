"""The stage `download`: what it asks for, what its manifest says, and what runs again; against a loopback server."""

import copy
import hashlib
import io
import os
import shutil
import signal
import tarfile
import time

import numpy as np
import pytest
from click import ClickException

import stages.data
import stages.download
import stages.text_embeddings
from stages import command, sets
from tests import fixtures_real
from tests.checkout import ROOT, Checkout, ran
from tests.mirror import mirror
from zsr import files, scratch
from zsr.data import downloads, prepared, registry
from zsr.data.prepared import Split
from zsr.params import StudyError, read

NAME = "cifar10"


def archive(tmp_path, seed: int = 0) -> bytes:
    """The archive of a tiny CIFAR-10."""
    fixtures_real.cifar10(tmp_path / "made", np.random.default_rng(seed))
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


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a stage of CIFAR-10 in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATA_ROOT", str(tmp_path / "root"))
    monkeypatch.setenv("ZSR_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setattr(scratch, "loaded_files", set)
    monkeypatch.setattr(sets, "catalogue", lambda: {"judged": [NAME]})

    def stage(module, if_missing: str = "fail", **changes: object) -> None:
        block = {"seed": 0, "image_size": 48, "attack_resolution": "tower", "prompt_set": "official"} | changes
        block |= {"complete": False, "sets": {NAME: {"train": 0, "test": 3, "if_missing": if_missing}}}
        files.write_json(tmp_path / "params.yaml", {"data": block})  # JSON is YAML
        module.main.main([] if module is sets else [NAME], standalone_mode=False)

    return stage


MANIFEST, SETS = command.DOWNLOADS / f"{NAME}.json", command.SETS / NAME
TAKE_IN = f"dvc repro -f -s download@{NAME} && dvc repro"


def test_the_files_of_a_restored_manifest_come_again_and_those_of_another_one_are_refused(tmp_path, known, run):
    with mirror() as server:
        server.files = {"a": archive(tmp_path), "b": archive(tmp_path, 1)}
        known(raw_entry(server.files["a"], server.url("a")))
        run(stages.download)
        run(stages.data)
        made, said = (SETS / "test.safetensors").read_bytes(), MANIFEST.read_bytes()
        for folder in ("root", "data/sets"):
            shutil.rmtree(folder)
        run(stages.data)
        assert (SETS / "test.safetensors").read_bytes() == made and len(server.seen) == 2
        assert Split.load(SETS / "test.safetensors").images.shape == (3, 48, 48, 3)
        run(stages.data, attack_resolution="native")
        assert Split.load(SETS / "test.safetensors").images.shape == (3, 32, 32, 3) and len(server.seen) == 2
        known(raw_entry(server.files["b"], server.url("b")))
        said_of = (
            f"{MANIFEST} is of other files of {NAME} than those below .*; run dvc repro -f -s download@{NAME}, then"
        )
        with pytest.raises(ClickException, match=said_of):
            run(stages.data)
        run(stages.download)
        run(stages.data)
        assert (SETS / "test.safetensors").read_bytes() != made and MANIFEST.read_bytes() != said
        assert len(server.seen) == 3


def test_a_set_without_files_stops_the_study_or_is_left_out_until_they_come(tmp_path, known, run, capsys):
    reason = {"absent": "no source gave its files"}
    with mirror() as server:
        known(raw_entry(b"x", server.url("gone")))
        with pytest.raises(ClickException, match=f"404.*To do without, set data.sets.{NAME}.if_missing to skip$"):
            run(stages.download)
        assert not MANIFEST.exists()
        run(stages.download, "skip")
    assert f"{NAME} is left out: {NAME} could not be fetched" in (said := capsys.readouterr().out) and TAKE_IN in said
    assert files.read_kept(MANIFEST, f"download of {NAME}") == {"set": NAME} | reason
    for module in (stages.data, stages.text_embeddings, sets):
        run(module, "skip")
    assert files.read_kept(SETS / "absent.json", f"images of {NAME}") == reason
    assert prepared.absent(command.TEXT_EMBEDDINGS) == {NAME: reason["absent"]}
    assert not prepared.classes(command.TEXT_EMBEDDINGS) and os.listdir(SETS) == ["absent.json"]
    fixtures_real.cifar10(tmp_path / "root", np.random.default_rng(0))
    run(stages.download, "skip")
    run(stages.data, "skip")  # by hand; DVC deletes the output before
    assert os.listdir(SETS) == ["test.safetensors"]


@pytest.mark.parametrize("task, edit", [("download of dtd", {}), (f"download of {NAME}", {"absent": "edited"})])
def test_a_manifest_of_another_set_or_an_edited_one_is_refused(run, task, edit):
    files.write_kept(MANIFEST, task, {"set": NAME, "absent": "it is gone"})
    document = files.read_json(MANIFEST)
    files.write_json(MANIFEST, document | {"content": document["content"] | edit})
    with pytest.raises(ClickException, match="is of the task download of dtd|is damaged"):
        run(stages.data)


def receipt(tmp_path, files_of: dict[str, str], splits=("test",), **more: str) -> None:
    """A receipt as fetching leaves one. files_of: the hash of each file."""
    listed = [{"name": name, "size": 1, "sha256": digest} for name, digest in files_of.items()]
    made = {"folder": "here", "source": {"kind": "archive", "files": listed} | more}
    files.write_json(tmp_path / f"receipts/{NAME}.json", dict.fromkeys(splits, made))
    (tmp_path / "here").mkdir(exist_ok=True)


def test_many_files_are_one_line_that_depends_on_every_hash(tmp_path):
    seen = set()
    for changed in range(7):
        hashes = {f"{n}.tar": "0" * 64 for n in range(6)} | ({f"{changed}.tar": "1" * 64} if changed < 6 else {})
        receipt(tmp_path, hashes, kind="hub", repo="owner/shards", revision="")
        (source,) = downloads.ensure(NAME, ["test"], tmp_path)["sources"]
        assert (source["backend"], source["files"], source["bytes"]) == ("shards", 6, 6)
        seen.add(source["sha256"])
    assert len(seen) == 7


def test_splits_of_the_same_files_are_told_once_and_in_one_order(tmp_path, known):
    entry = read(ROOT / "zsr/data/registry.yaml")[NAME]
    source = entry["sources"][0] | {"splits": ["train", "test"]}
    known(entry | {"splits": {"train": 1, "test": 1}, "sources": [source]})
    receipt(tmp_path, {"a": "0" * 64}, ("train", "test"))
    said = [downloads.ensure(NAME, splits, tmp_path) for splits in (["train", "test"], ["test", "train"])]
    assert said[0] == said[1] and [source["splits"] for source in said[0]["sources"]] == [["test", "train"]]
    known(entry | {"splits": {"train": 1, "test": 1}, "sources": [source, source | {"note": "a fallback"}]})
    assert downloads.ensure(NAME, ["test", "train"], tmp_path) == said[0]


# On the real graph: each row of the table of cases. The tests share one checkout and build on each other, in order.


@pytest.fixture(scope="module")
def study(tmp_path_factory, warm):
    """A checkout with three sets, one of them from a server; and the server."""
    folder = tmp_path_factory.mktemp("downloads")
    checkout, content = Checkout(folder / "here", **warm), archive(folder)
    (checkout.folder / "dvc.lock").unlink()
    checkout.edit(SMALL)
    with mirror() as server:
        server.files, server.stall = {"a.tar.gz": content, "b.tar.gz": content}, 25
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
TEXT = ("repro", f"text_embeddings@{NAME}", "text_embeddings@shapes")
SMALL = {
    "data.sets": {name: {"train": 0, "test": 4} for name in ("digits_real", NAME)}
    | {"shapes": {"train": 40, "test": 9}},
    **{"data.source": "shapes", "data.start_source": "shapes", "data.controls": [], "data.complete": False},
    **{"attention": {}, "seeds": [0], "threads": 1},
    **{"base_model.pool": 64, "base_model.epochs": 1, "base_model.warmup_steps": 1},
}
NO_NETWORK = dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")  # where nobody listens


def manifest(checkout):
    return (checkout.folder / f"data/downloads/{NAME}.json").read_bytes()


def begun(process, folder):
    """Wait until a download has bytes on disk. Returns the file that they are in."""
    while process.poll() is None:
        if parts := [path for path in folder.glob("*.part") if path.stat().st_size]:
            return parts[0]
        time.sleep(0.01)
    raise AssertionError(process.communicate()[0])


@pytest.mark.slow
def test_a_clean_run_asks_once_for_each_file_and_a_second_run_runs_nothing(study):
    output = study.dvc(*DATA)
    assert {f"download@{NAME}", f"data@{NAME}", "download@shapes", "data@shapes"} <= ran(output)
    assert [path for _, path, _ in study.server.seen] == ["gone.tar.gz", "a.tar.gz"]
    assert study.server.sent == {"a.tar.gz": len(study.content)}
    assert not ran(study.dvc(*DATA)) and len(study.server.seen) == 2


@pytest.mark.slow
@pytest.mark.parametrize("variables", [{}, {"ZSR_WARM": ""}], ids=["fork", "process"])
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_download_goes_on_after_ctrl_c_or_a_kill_from_the_bytes_that_it_has(study, tmp_path, how, variables):
    """A terminal sends the signal of Ctrl-C to DVC, its shell and the stage."""
    server, killed = study.server, copy.copy(study)
    killed.variables = study.variables | variables
    server.files["a.tar.gz"] = study.content = archive(tmp_path, 10 * how + len(variables))
    register(study, raw_entry(study.content, server.url("a.tar.gz")))
    server.faults["a.tar.gz"], sent = [("stall", 5000)], server.sent["a.tar.gz"]
    process = killed.start("-m", "dvc", *DATA)
    part = begun(process, study.folder / f"downloads/archives/{NAME}")
    os.killpg(process.pid, how)
    output, _ = process.communicate()
    assert process.returncode and "Traceback" not in output
    have = part.stat().st_size
    assert 0 < have <= 5000 and not (study.folder / f"data/downloads/{NAME}.json").exists()
    time.sleep(0.5)
    assert {f"download@{NAME}", f"data@{NAME}"} <= ran(killed.dvc(*DATA))
    assert server.ranges()[-1] == f"bytes={have}-" and not part.exists()
    assert server.sent["a.tar.gz"] - sent <= 5000 + len(study.content) - have
    assert not ran(study.dvc(*DATA))


@pytest.mark.slow
def test_a_mirror_reruns_its_download_alone_and_a_comment_or_another_entry_nothing(study):
    study.server.files["b.tar.gz"] = study.content
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
def test_a_clone_without_a_network_takes_the_files_of_another_root_and_keeps_the_lock(study, tmp_path):
    study.commit("done")
    clone, seen = study.cloned(tmp_path / "clone"), len(study.server.seen)
    clone.variables = study.variables | NO_NETWORK | {"DATA_ROOT": str(study.folder / "downloads")}
    ask = f"import urllib.request; urllib.request.urlopen({study.server.url('b.tar.gz')!r})"
    assert "Connection refused" in clone.start("-c", ask).communicate()[0]
    lock = (clone.folder / "dvc.lock").read_bytes()
    assert f"download@{NAME}" in ran(clone.dvc(*DATA))
    assert len(study.server.seen) == seen and manifest(clone) == manifest(study)
    assert (clone.folder / "dvc.lock").read_bytes() == lock and not (clone.folder / "downloads").exists()


@pytest.mark.slow
def test_two_projects_at_a_time_on_one_root_wait_for_each_other_and_no_byte_comes_twice(study, tmp_path):
    server, root = study.server, tmp_path / "root"
    clones = [study.cloned(tmp_path / name) for name in ("one", "two")]
    for clone in clones:
        clone.variables = study.variables | {"DATA_ROOT": str(root)}
    server.faults["b.tar.gz"] = [("stall", 500)] * 40
    seen, sent = len(server.seen), server.sent["b.tar.gz"]
    first = clones[0].start("-m", "dvc", *DATA)
    begun(first, root / f"archives/{NAME}")
    second, told = clones[1].start("-m", "dvc", *DATA), ""
    while not told.endswith("\n") or f"Waiting for {root}/locks/{NAME}, which is held by process" not in told:
        assert (line := second.stdout.readline()), told
        told += line
    del server.faults["b.tar.gz"]
    server.stalled.set()
    for process in (first, second):
        said, _ = process.communicate()
        assert not process.returncode, said
    assert server.sent["b.tar.gz"] - sent == len(study.content)
    assert server.ranges()[seen:][0] == "" and all(server.ranges()[seen + 1 :])
    assert manifest(clones[0]) == manifest(clones[1]) == manifest(study)
    locks = {(clone.folder / "dvc.lock").read_bytes() for clone in (*clones, study)}
    assert len(locks) == 1


@pytest.mark.slow
def test_another_hash_reruns_its_set_alone_for_one_request(study, tmp_path):
    study.dvc(*TEXT)
    content, seen = archive(tmp_path, 1), len(study.server.seen)
    study.server.files["a.tar.gz"] = content
    register(study, raw_entry(content, study.server.url("a.tar.gz")))
    own = {f"{stage}@{NAME}" for stage in ("download", "data", "text_embeddings")}
    assert ran(study.dvc(*TEXT)) - {"code"} == own and len(study.server.seen) == seen + 1


@pytest.mark.slow
def test_a_set_that_is_left_out_is_taken_in_by_one_command(study):
    shutil.rmtree(study.folder / "downloads")
    study.server.files.clear()
    study.edit({f"data.sets.{NAME}": {"train": 0, "test": 3, "if_missing": "skip"}})
    said = study.dvc(*DATA)
    absent = files.read_kept(study.folder / f"data/sets/{NAME}/absent.json", f"images of {NAME}")
    assert f"{NAME} is left out" in said and absent["absent"]
    fixtures_real.cifar10(study.folder / "downloads", np.random.default_rng(0))  # the files come
    first, second = downloads.take_in(NAME).split(" && ")
    study.dvc(*first.split()[1:])
    assert second == "dvc repro" and ran(study.dvc(*DATA)) == {f"data@{NAME}"}
    assert (study.folder / f"data/sets/{NAME}/test.safetensors").exists()

"""Cases of killed stages: in the end the bytes must be those of a run that nobody disturbed."""

import os
import random
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

from tests.campaign import forks
from tests.campaign.verdicts import HANG, TAKEN, TRACEBACK, WRONG, Finding, refused
from tests.campaign.world import World, dying, made, outs, replaced, stage, without_outs, yaml

STAGES = (  # with what is changed in params.yaml before a run whose parent alone is killed
    (("train", "tecoa"), "train.lr", 0.02),
    (("evaluate", "tecoa", "pgd"), "attacks.pgd.eps", "60/255"),
    (("evaluate", "clip", "cw"), "attacks.cw.n_iter", 3),
    (("data", "shapes"), "data.seed", 7),
    (("text_embeddings", "shapes"), "data.template", "the {}"),
    (("collect",), "", None),
    (("tables",), "name", "another name"),
)
LONGEST_STOP = 20  # seconds; the next run waits as long, and says so, and must not be taken for one that hangs
HOW = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGSTOP)


def kills(rng: random.Random, world: World, folder: Path) -> Finding:
    command, key, value = rng.choice(STAGES)
    study = world.copied(folder)
    if command[0] in ("train", "evaluate"):
        shutil.rmtree(study / "scratch")
    done, left = [], []
    orphan = rng.random() < 0.35
    for _ in range(rng.choice((1, 1, 2, 3))):
        without_outs(study, command)
        if orphan:
            done.append(_parent_killed(rng, world, study, command, key, value, left))
        else:
            done.append(_killed(rng, world, study, command))
    label = f"{' '.join(command)}: {', '.join(done)}"
    without_outs(study, command)
    ended = stage(command, study)
    late = _gone(left)
    if ended.status or ended.hung:
        kind, said = refused(ended, outs(command))
        return Finding(kind if kind in (HANG, TRACEBACK) else WRONG, label, f"run again, it fails: {said}")
    if not late:
        return Finding(HANG, label, "a process left over from a killed run does not end")
    if made(study, command) == world.undisturbed[command]:
        return Finding(TAKEN, label)
    differing = {name for name in {*made(study, command), *world.undisturbed[command]}}
    differing = {n for n in differing if made(study, command).get(n) != world.undisturbed[command].get(n)}
    return Finding(WRONG, label, f"exit 0, other bytes: {sorted(differing)[:4]}")


def _killed(rng: random.Random, world: World, study: Path, command: tuple[str, ...]) -> str:
    """Kill a stage at a random moment, or at a random one of its writes. STOP: it goes on after a while."""
    how = rng.choice(HOW)
    if how != signal.SIGSTOP and rng.random() < 0.4:
        call, count = rng.choice(("replace", "fsync")), rng.randrange(1, 6)
        ended = stage(command, study, before=lambda: dying(call, count, how))
        return f"{how.name} at the {count}. {call} ({ended.status})"
    share = rng.random() * 1.1
    started = forks.start(("stages", *command), study, environment={"ZSR_SCRATCH": study / "scratch"})
    time.sleep(share * world.seconds[command])
    with suppress(ProcessLookupError):
        os.killpg(started.pid, how)
    if how == signal.SIGSTOP:
        time.sleep(0.2)
        with suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGCONT)
            if rng.random() < 0.5:
                os.killpg(started.pid, signal.SIGKILL)
    ended = forks.finished(started)
    return f"{how.name} after {share:.2f} ({'hangs' if ended.hung else ended.status})"


def _parent_killed(
    rng: random.Random, world: World, study: Path, command: tuple[str, ...], key: str, value: object, left: list[int]
) -> str:
    """Change a number, run the stage as the child of a process such as dvc, kill that alone, change the number back.

    left: gets the stage, which may be alive; some are slowed down, so that they end after the next run.
    """
    plain = (study / "params.yaml").read_bytes()
    if key:
        replaced(study / "params.yaml", yaml(_with(world, key, value)).encode())
    told = study.with_name(f"pid{len(left)}")
    parent = os.fork()
    if not parent:
        _be_parent(study, command, told)
    while not (told.exists() and told.read_text()):
        time.sleep(0.002)
    child, share = int(told.read_text()), rng.random()
    left.append(child)
    time.sleep(share * world.seconds[command])
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    slowed = rng.random() < 0.6
    if slowed:  # not before: the kernel sends HUP to a group that is stopped when its parent ends
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGSTOP)
        _woken(child, min(2 * world.seconds[command] + 0.3, LONGEST_STOP))
    replaced(study / "params.yaml", plain)
    changed = f", {key} = {value}" * bool(key)
    return f"parent killed after {share:.2f}{', the stage slowed down' * slowed}{changed}"


def _with(world: World, key: str, value: object) -> dict:
    from tests.checkout import put

    document = world.document()
    put(document, key, value)
    return document


def _be_parent(study: Path, command: tuple[str, ...], told: Path) -> None:
    """A process that starts a stage and waits for it, as dvc does."""
    status = 1
    try:
        environment = {"ZSR_SCRATCH": study / "scratch", "ZSR_DVC": os.getpid()}
        started = forks.start(("stages", *command), study, environment=environment)
        told.with_suffix(".tmp").write_text(str(started.pid))
        told.with_suffix(".tmp").replace(told)
        forks.finished(started)
        status = 0
    finally:
        sys.stdout.flush()
        os._exit(status)


def _woken(process: int, after: float) -> None:
    """A process of its own lets the stopped stage go on after some seconds."""
    if not os.fork():
        if not os.fork():
            time.sleep(after)
            with suppress(ProcessLookupError):
                os.killpg(process, signal.SIGCONT)
        os._exit(0)
    os.wait()


def _gone(processes: list[int], seconds: float = 60) -> bool:
    """Wait until the processes have ended; those that have not are ended by us."""
    until = time.monotonic() + seconds
    for process in processes:
        while _lives(process):
            if time.monotonic() > until:
                os.killpg(process, signal.SIGKILL)
                return False
            time.sleep(0.01)
    return True


def _lives(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False

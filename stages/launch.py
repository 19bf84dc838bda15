"""Stages that several processes may share: one for each GPU, started by torchrun where params.yaml says so.

How many, and on which hosts, is not in params.yaml, since it is no part of what is computed: PET_NPROC_PER_NODE and
torchrun's other variables say it; without them one for each GPU of this host.
"""

import os

from zsr.errors import StudyError

CHILD = "TORCHELASTIC_RUN_ID"  # set by torchrun in the processes that it starts


def start(module: str, arguments: list[str]) -> None:
    """Run `python -m module arguments` in every process.

    Raises StudyError, one line, where a process fails: torchrun then ends the others, and what they have kept in the
    scratch folder is there when the same command is run again.
    """
    import logging

    import torch
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import get_args_parser, run

    os.environ.setdefault("PET_NPROC_PER_NODE", "gpu" if torch.cuda.is_available() else "1")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    alone = [] if {"PET_RDZV_ENDPOINT", "PET_MASTER_ADDR"} & set(os.environ) else ["--standalone"]
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        run(get_args_parser().parse_args([*alone, "-m", module, *arguments]))
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        code = failure.exitcode
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}; its message is above"
        raise StudyError(
            f"{module}: process {rank} of the run {how}; the others were ended. Finished work is kept: run the same "
            "command again and it goes on from there"
        ) from None

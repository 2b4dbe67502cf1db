"""Children of the tests: quick to start, as a server that has imported everything forks them."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from datetime import timedelta
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["preloaded"])


def _serve() -> None:
    """Start the server where it finds the modules of this folder."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *([before] if before else [])])
    try:
        forkserver.ensure_running()
    finally:
        os.environ.pop("PYTHONPATH")
        if before:
            os.environ["PYTHONPATH"] = before


def start(
    size: int, function: Callable[..., None], arguments: Sequence[Any], log: Path, meeting: float = 45
) -> list[BaseProcess]:
    """Start a group of processes as a launcher would; each calls the function, what it prints goes to `log`.<rank>.

    They try twice, for `meeting` seconds each time, to find one another: keep it well under half of what `join` waits.
    """
    _serve()
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    children: list[BaseProcess] = []
    for rank in range(size):
        launcher = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1"}
        environment = {key: str(value) for key, value in {**launcher, "MASTER_PORT": port}.items()}
        output = log.with_name(f"{log.name}.{rank}")
        children.append(
            CONTEXT.Process(target=_enter, args=(environment, output, meeting, function, arguments), daemon=True)
        )
        children[-1].start()
    return children


def join(children: Sequence[BaseProcess], seconds: float = 120) -> list[int | None]:
    """Exit codes, by rank; whoever takes longer is killed and has none."""
    codes: list[int | None] = []
    for child in children:
        child.join(seconds)
        codes.append(child.exitcode)
        if child.exitcode is None:
            child.kill()
            child.join()
    return codes


def _enter(
    environment: dict[str, str], log: Path, meeting: float, function: Callable[..., None], arguments: Sequence[Any]
) -> None:
    os.environ.update(environment)
    with log.open("w") as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
        import torch

        from align_pipeline import distributed

        torch.set_num_threads(1)
        distributed._MEETING = timedelta(seconds=meeting)
        code = 0
        try:
            distributed.start()
            with distributed.together():
                function(*arguments)
        except Exception as error:
            print(f"{type(error).__name__}: {error}")
            traceback.print_exc(file=file)
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
        file.flush()
        os._exit(code)

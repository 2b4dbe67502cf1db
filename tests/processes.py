"""Children of the tests: quick to start, as a server that has imported everything forks them."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["preloaded"])


def _serve() -> None:
    """Start the server where it finds the modules of this folder."""
    os.environ.pop("WANDB_SERVICE", None)  # of a test in this process, and perhaps no longer there
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


@dataclass(frozen=True)
class Done:
    """What a command did, as a shell sees it."""

    code: int | None
    out: str
    err: str


class Command:
    """``python -m align_pipeline.run`` in a child that has imported everything but the module itself."""

    def __init__(
        self, folder: Path, *arguments: str, log: Path, path: Sequence[str] = (), **environment: str | None
    ) -> None:
        """Start it.

        Args:
            folder: where it is started.
            arguments: its command line.
            log: its output goes to ``<log>.out`` and ``<log>.err``.
            path: folders of Python files, as PYTHONPATH.
            environment: variables to set, or to unset where None.
        """
        _serve()
        self.paths = (log.with_suffix(".out"), log.with_suffix(".err"))
        given = (folder, arguments, self.paths, environment, path)
        self.child = CONTEXT.Process(target=_command, args=given, daemon=True)
        self.child.start()

    def wait(self, seconds: float = 120) -> Done:
        """Wait for its end."""
        (code,) = join([self.child], seconds)
        return Done(code, *(path.read_text(encoding="utf-8", errors="replace") for path in self.paths))


def _command(
    folder: Path,
    arguments: Sequence[str],
    paths: Sequence[Path],
    environment: dict[str, str | None],
    modules: Sequence[str],
) -> None:
    os.chdir(folder)
    sys.path[:0] = modules
    for key, value in environment.items():
        if value is None:
            os.environ.pop(key, None)
        else:
            os.environ[key] = value
    for path, stream in zip(paths, (sys.stdout, sys.stderr), strict=True):
        with path.open("w") as file:
            os.dup2(file.fileno(), stream.fileno())
    sys.argv = ["align_pipeline.run", *arguments]
    code: Any = 0
    try:
        import torch

        torch.set_num_threads(1)
        from align_pipeline.run import main

        main()
    except SystemExit as error:
        code = error.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(int(code or 0))


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

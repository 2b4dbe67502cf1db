"""Run one job in several processes, started by `torchrun`, `accelerate launch` or SLURM.

Every process reads the same data and cuts it into the same pieces of work, however many processes there are. Each
process computes its share, and the results are joined by the number of the piece (or item). One process and eight
therefore compute the same batches and write the same bytes. Only the main process writes, logs to the console and reads
the cache.

Use `each` for any stage that maps a list of work to a list of results, and `mine` with `filled` for large tensors. A
process that fails tells the others at their next exchange: all processes end with the same sentence.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from align_pipeline.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

Work = TypeVar("Work")
Result = TypeVar("Result")
Value = TypeVar("Value")

_MEETING = timedelta(minutes=10)  # if a process dies before all have joined, the others must not wait forever
_PATIENCE = timedelta(days=7)  # processes wait while the main one waits for another job's cache entry or for W&B


@dataclass
class _Group:
    rank: int = 0
    size: int = 1
    split: bool = True


_group = _Group()


class StoppedError(InputError):
    """An error that all processes of the job already know."""


def _launched() -> int:
    """Number of processes that the launcher started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def start() -> None:
    """Join the processes that the launcher started (RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT), if any.

    Collectives on GPU tensors use NCCL if each process of the machine has its own GPU; everything else uses gloo.
    """
    size = _launched()
    if size == 1 or _group.size > 1:
        return
    import torch
    import torch.distributed as dist

    if not dist.is_initialized():
        here = int(os.environ.get("LOCAL_WORLD_SIZE", size))
        own_gpus = torch.cuda.is_available() and torch.cuda.device_count() >= here
        try:
            dist.init_process_group("cpu:gloo,cuda:nccl" if own_gpus else "gloo", timeout=_MEETING)
        except (RuntimeError, ValueError) as error:
            raise InputError(
                f"The {size} processes of this job cannot connect to each other at {os.environ.get('MASTER_ADDR')}:"
                f"{os.environ.get('MASTER_PORT')}: one of them ended early, or the launcher's settings are wrong."
            ) from error
        dist.set_timeout(_PATIENCE)
    _group.rank, _group.size = dist.get_rank(), dist.get_world_size()
    if torch.cuda.is_available():
        torch.cuda.set_device(local_gpu())


def stop() -> None:
    """Leave the process group, if there is one."""
    if _group.size > 1:
        import torch.distributed as dist

        dist.destroy_process_group()
        _group.rank, _group.size, _group.split = 0, 1, True


@contextlib.contextmanager
def leaving() -> Iterator[None]:
    """Context of a whole command: a process that is one of several ends with it, before Python cleans up.

    A process group that transformers has seen outlives `stop`, and its threads sometimes abort a process that is done
    while Python cleans up (exit code -6). A launcher then reports a failure of a job that has all its results.
    """
    if _launched() == 1:
        yield
        return
    code: Any = 0
    try:
        yield
    except SystemExit as error:
        code = error.code or 0
    if isinstance(code, str):
        print(code, file=sys.stderr)
    atexit._run_exitfuncs()
    _end(1 if isinstance(code, str) else int(code))


@contextlib.contextmanager
def leaving_at_exit() -> Iterator[None]:
    """Context of the work of another program's command, with `leaving`'s effect when that program exits."""
    if _launched() == 1:
        yield
        return
    atexit.register(_end, 0)  # runs after what libraries register from now on
    try:
        yield
    except BaseException:
        atexit.unregister(_end)
        raise


def _end(code: int) -> None:
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def local_gpu() -> int:
    """The GPU of this process; if there are fewer GPUs than processes, several processes share one."""
    import torch

    return int(os.environ.get("LOCAL_RANK", "0")) % max(torch.cuda.device_count(), 1)


def rank() -> int:
    """This process's number; before `start`, the number that the launcher gave."""
    return _group.rank if _group.size > 1 else int(os.environ.get("RANK", "0"))


def size() -> int:
    """Number of processes."""
    return _group.size


def is_main() -> bool:
    """Whether this is the main process, which writes."""
    return rank() == 0


def share_out(split: bool) -> None:
    """Switch sharding of work on or off; it is off if the processes hold parts of one model and run it in step."""
    _group.split = split


# ---- exchange


def _exchange(value: Any, error: str | None = None) -> list[Any]:
    """The values of all processes, by rank.

    Raises:
        StoppedError: some process has an error or has died.
    """
    if _group.size == 1:
        return [value]
    import torch.distributed as dist

    told: list[Any] = [None] * _group.size
    try:
        dist.all_gather_object(told, (error, value))
    except RuntimeError as broken:
        raise StoppedError(
            "Another process of this job ended without an error message (killed, or out of memory); see the job's log "
            "files, one per process, and the launcher's output."
        ) from broken
    errors = [one for one, _ in told if one is not None]
    if errors:
        raise StoppedError(errors[0])
    return [given for _, given in told]


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Context of a job's work: an error in one process is raised in all, at once or at their next exchange.

    Raises:
        StoppedError: another process failed; holds its sentence.
    """
    try:
        yield
    except StoppedError:
        raise
    except Exception as error:
        if _group.size > 1:
            told = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
            with contextlib.suppress(StoppedError):  # all processes already know this error or an earlier one
                _exchange(None, told if is_main() or isinstance(error, InputError) else f"Process {rank()}: {told}")
        raise
    _exchange(None)


def from_main(value: Value) -> Value:
    """The main process's value, returned in every process."""
    given: Value = _exchange(value)[0]
    return given


def total(number: int) -> int:
    """The sum of a number over all processes."""
    numbers = _exchange(number)
    return sum(numbers) if _group.split else number


def least(number: int) -> int:
    """The minimum of a number over all processes."""
    numbers: list[int] = _exchange(number)
    return min(numbers)


def kept(
    keep: Callable[[Callable[[], Result]], tuple[Result, bool]], compute: Callable[[], Result]
) -> tuple[Result, bool] | None:
    """Let the main process look up and store a result; all processes compute it if it is not found.

    Args:
        keep: given a function that computes the result, returns it and whether it was found, such as `Cache.get`.
        compute: called in all processes or in none.

    Returns:
        The return value of `keep`; None in the other processes.
    """
    if _group.size == 1:
        return keep(compute)
    if not is_main():
        if from_main(False):
            compute()
        return None
    asked = False

    def announced() -> Result:
        nonlocal asked
        asked = from_main(True)
        return compute()

    result = keep(announced)
    if not asked:
        from_main(False)
    return result


# ---- work


def mine(costs: Sequence[float]) -> range:
    """The indices of this process's pieces of work: a contiguous range, of about equal cost in all processes.

    Args:
        costs: what each piece costs, in any unit.
    """
    if _group.size == 1 or not _group.split:
        return range(len(costs))
    whole, before, owners = sum(costs) or 1.0, 0.0, []
    for cost in costs:  # a piece belongs to the process whose share of the total cost contains the piece's midpoint
        owners.append(min(int((before + cost / 2) / whole * _group.size), _group.size - 1))
        before += cost
    own = [index for index, owner in enumerate(owners) if owner == _group.rank]
    return range(own[0], own[-1] + 1) if own else range(0)


def each(
    work: Sequence[Work],
    costs: Sequence[float],
    run: Callable[[Work], Result],
) -> list[Result]:
    """Run all pieces of work, each in one of the processes.

    Args:
        work: the pieces; the same, in the same order, in every process, and cut independently of their number.
        costs: what each piece costs, in any unit.
        run: does one piece. Its result is sent between processes, so it must be plain values or CPU tensors.

    Returns:
        The results, in the order of the work, in every process.
    """
    own = [run(work[index]) for index in mine(costs)]
    if not _group.split:
        return own
    return [result for results in _exchange(own) for result in results]


def filled(tensor: Tensor) -> Tensor:
    """Merge, exactly and in place, a tensor of which each process filled different entries and left the rest 0."""
    if _group.size > 1 and _group.split:
        import torch
        import torch.distributed as dist

        _exchange(None)
        dist.all_reduce(tensor.view(torch.uint8))  # as bytes: exact for every dtype, even a negative zero
    return tensor


def advancing(advance: Callable[[int], None]) -> Callable[[int], None]:
    """A progress function that counts this process's work once for each process, as an estimate of the total."""
    shares = _group.size if _group.split else 1
    return lambda number: advance(number * shares)

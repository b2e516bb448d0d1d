"""Tasks in processes that may crash, hang or swell: native codecs on broken files do all three."""

import ctypes
import errno
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path


@dataclass(frozen=True)
class Failed:
    """A task that gave no result: it `crashed`, took `too long`, needed `too much memory`, or raised; `errno` where the system refused."""

    why: str
    errno: int | None = None

    def refuse_full_disk(self) -> None:
        """Raises the worker's own error where there was no room to write: going on would lose what follows."""
        if self.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS):
            raise OSError(self.errno, os.strerror(self.errno))


def _virtual_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def _die_with_parent() -> None:
    """A worker that outlives a killed scan would write into the next one's folder (Linux: prctl, PR_SET_PDEATHSIG)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _serve(task: Callable, pipe: Connection, memory: int | None) -> None:
    """A worker's life: one item in, one answer out. Ctrl-C is the parent's affair."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _die_with_parent()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # codecs write what they find to standard error
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    while True:
        try:
            item, size = pipe.recv()
        except EOFError:
            return
        if memory is not None:
            resource.setrlimit(resource.RLIMIT_AS, (_virtual_bytes() + memory + size, hard))
        try:
            answer = task(item)
        except MemoryError:
            answer = Failed("too much memory")
        except Exception as error:  # its words may hold a name: only its type leaves the worker
            answer = Failed(type(error).__name__, error.errno if isinstance(error, OSError) else None)
        pipe.send(answer)


class _Worker:
    def __init__(self, task: Callable, memory: int | None):
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(task, theirs, memory), daemon=True)
        self.process.start()
        theirs.close()
        self.number, self.until = -1, 0.0

    def give(self, number: int, item: object, size: int, seconds: float) -> None:
        self.number, self.until = number, time.monotonic() + seconds
        self.pipe.send((item, size))

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def supervised(
    task: Callable,
    items: Iterable[tuple[object, int]],
    jobs: int,
    seconds: Callable[[object], float],
    memory: int | None = None,
) -> Iterator[tuple[object, object]]:
    """(item, answer) of each task as it ends, in no order; a `Failed` where its process died, hung or swelled.

    Args:
        items: Each with the bytes that it may need beside `memory`.
        seconds: How long an item may take; the first of a new process has 60 s more, for imports.
        memory: Bytes of address space a task may add, or no limit.
    """
    waiting, given = iter(items), {}
    workers: list[_Worker] = []
    number, more = 0, True

    def feed(worker: _Worker, extra: float) -> bool:
        nonlocal number, more
        following = next(waiting, None)
        if following is None:
            more = False
            return False
        item, size = following
        given[number] = item
        worker.give(number, item, size, seconds(item) + extra)
        number += 1
        return True

    try:
        while True:
            while more and len(workers) < jobs:
                worker = _Worker(task, memory)
                workers.append(worker)
                if not feed(worker, 60.0):
                    break
            busy = [w for w in workers if w.number >= 0]
            if not busy:
                return
            ready = wait([w.pipe for w in busy], max(0.0, min(w.until for w in busy) - time.monotonic()))
            for worker in busy:
                if worker.pipe in ready:
                    try:
                        answer = worker.pipe.recv()
                    except (EOFError, OSError):
                        answer = Failed("crashed")
                elif time.monotonic() >= worker.until:
                    answer = Failed("too long")
                else:
                    continue
                item, worker.number = given.pop(worker.number), -1
                if isinstance(answer, Failed) and answer.why in ("crashed", "too long"):
                    worker.end()
                    workers.remove(worker)
                elif more:
                    feed(worker, 0.0)
                yield item, answer
    finally:
        for worker in workers:
            worker.end()

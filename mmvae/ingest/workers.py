"""Runs tasks in processes that may crash, hang or run out of memory, as native codecs do on broken files."""

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
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")

START_UP = 60.0  # seconds that a new process may spend on imports


@dataclass(frozen=True)
class TaskFailure:
    """The failure of a task.

    Args:
        why: `crashed`, `too long`, `too much memory`, or the name of the error that it raised.
        errno: Error number, if the error came from the operating system.
    """

    why: str
    errno: int | None = None

    def refuse_full_disk(self) -> None:
        """Raises an OSError if the disk was full: going on would lose everything that follows."""
        if self.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS):
            raise OSError(self.errno, os.strerror(self.errno))


def _virtual_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def _die_with_parent() -> None:
    """Ends a worker with its parent (Linux: prctl, PR_SET_PDEATHSIG); otherwise it could write into the next scan's folder."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _serve(pipe: Connection) -> None:
    """The main loop of a worker: receives a task and an item, sends an answer. Ctrl-C is left to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _die_with_parent()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # codecs write to standard error
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    while True:
        try:
            task, item, more = pipe.recv()
        except EOFError:
            return
        resource.setrlimit(resource.RLIMIT_AS, (soft if more is None else _virtual_bytes() + more, hard))
        try:
            answer = task(item)
        except MemoryError:
            answer = TaskFailure("too much memory")
        except Exception as error:  # its message may hold a name: only its type leaves the worker
            answer = TaskFailure(type(error).__name__, error.errno if isinstance(error, OSError) else None)
        pipe.send(answer)


class _Worker:
    """One process, and the number of the item that it works on; -1 if it is idle."""

    def __init__(self, start_up: float):
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()
        self.number, self.until, self.start_up = -1, 0.0, start_up

    def give(
        self, number: int, task: Callable[..., Any], item: object, more: int | None, seconds: float
    ) -> None:
        self.number, self.until, self.start_up = number, time.monotonic() + seconds + self.start_up, 0.0
        self.pipe.send((task, item, more))

    def answer(self) -> Any:
        try:
            return self.pipe.recv()
        except (EOFError, OSError):
            return TaskFailure("crashed")

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


class Workers:
    """A pool of processes that are started once and run any number of rounds of tasks; a context manager that ends them.

    Args:
        jobs: Largest number of processes.
        start_up: Seconds that a new process may spend on imports, in addition to those of its first item.
    """

    def __init__(self, jobs: int, start_up: float = START_UP):
        self.jobs, self.start_up = jobs, start_up
        self._workers: list[_Worker] = []

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.end()
        self._workers = []

    def run(
        self,
        task: Callable[[T], R],
        items: Iterable[tuple[T, int]],
        seconds: Callable[[T], float],
        memory: int | None = None,
    ) -> Iterator[tuple[T, R | TaskFailure]]:
        """Yields (item, answer) as tasks finish; the answer is a `TaskFailure` if the task crashed, hung or exceeded its memory.

        Args:
            task: A function that a new process can import.
            items: Items, each with the bytes that it may need in addition to `memory`.
            seconds: Time limit of an item.
            memory: Bytes of address space that a task may add; None for no limit.
        """
        waiting, running = enumerate(items), {}

        def feed(worker: _Worker) -> bool:
            """Gives the worker the next item; False if there is none."""
            following = next(waiting, None)
            if following is None:
                return False
            number, (item, size) = following
            running[number] = item
            worker.give(number, task, item, None if memory is None else memory + size, seconds(item))
            return True

        try:
            more = all([feed(worker) for worker in self._workers])
            while True:
                while more and len(self._workers) < self.jobs:
                    self._workers.append(_Worker(self.start_up))
                    more = feed(self._workers[-1])
                busy = [w for w in self._workers if w.number >= 0]
                if not busy:
                    return
                ready = wait([w.pipe for w in busy], max(0.0, min(w.until for w in busy) - time.monotonic()))
                for worker in busy:
                    if worker.pipe in ready:
                        answer = worker.answer()
                    elif time.monotonic() >= worker.until:
                        answer = TaskFailure("too long")
                    else:
                        continue
                    item, worker.number = running.pop(worker.number), -1
                    if isinstance(answer, TaskFailure) and answer.why in ("crashed", "too long"):
                        self._remove(worker)
                    else:
                        more = feed(worker) and more
                    yield item, answer
        finally:  # a round that ends early must leave no task running for the next
            for worker in [w for w in self._workers if w.number >= 0]:
                self._remove(worker)

    def _remove(self, worker: _Worker) -> None:
        worker.end()
        self._workers.remove(worker)

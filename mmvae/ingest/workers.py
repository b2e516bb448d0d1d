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

START_UP = 60.0  # seconds a new process may spend on imports


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


def _serve(pipe: Connection) -> None:
    """A worker's life: one task and item in, one answer out. Ctrl-C is the parent's affair."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _die_with_parent()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # codecs write what they find to standard error
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
            answer = Failed("too much memory")
        except Exception as error:  # its words may hold a name: only its type leaves the worker
            answer = Failed(type(error).__name__, error.errno if isinstance(error, OSError) else None)
        pipe.send(answer)


class _Worker:
    def __init__(self):
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()
        self.number, self.until, self.start_up = -1, 0.0, START_UP

    def give(self, number: int, task: Callable, item: object, more: int | None, seconds: float) -> None:
        self.number, self.until, self.start_up = number, time.monotonic() + seconds + self.start_up, 0.0
        self.pipe.send((task, item, more))

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


class Workers:
    """Processes that start once and run one round of tasks after another; used in a `with`, at whose end they end."""

    def __init__(self, jobs: int):
        self.jobs = jobs
        self._workers: list[_Worker] = []

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_) -> None:
        for worker in self._workers:
            worker.end()

    def run(
        self,
        task: Callable,
        items: Iterable[tuple[object, int]],
        seconds: Callable[[object], float],
        memory: int | None = None,
    ) -> Iterator[tuple[object, object]]:
        """(item, answer) of each task as it ends, in no order; a `Failed` where its process died, hung or swelled.

        Args:
            task: A function that a new process can import.
            items: Each with the bytes that it may need beside `memory`.
            seconds: How long an item may take; the first of a new process has `START_UP` more, for imports.
            memory: Bytes of address space a task may add, or no limit.
        """
        waiting, given = iter(items), {}
        number, more = 0, True

        def feed(worker: _Worker) -> None:
            nonlocal number, more
            following = next(waiting, None) if more else None
            if following is None:
                more = False
                return
            item, size = following
            given[number] = item
            worker.give(number, task, item, None if memory is None else memory + size, seconds(item))
            number += 1

        try:
            for worker in self._workers:
                feed(worker)
            while True:
                while more and len(self._workers) < self.jobs:
                    self._workers.append(_Worker())
                    feed(self._workers[-1])
                busy = [w for w in self._workers if w.number >= 0]
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
                        self._remove(worker)
                    else:
                        feed(worker)
                    yield item, answer
        finally:  # a round that was left early leaves no task behind for the next
            for worker in [w for w in self._workers if w.number >= 0]:
                self._remove(worker)

    def _remove(self, worker: _Worker) -> None:
        worker.end()
        self._workers.remove(worker)

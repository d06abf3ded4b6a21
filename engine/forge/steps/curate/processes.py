"""Work on blocks in several processes, results in order.

Invariant: what comes out, and in which order, does not depend on the number of processes. A bounded number of blocks is
under way, so memory does not grow with the corpus. A worker that is killed ends the step with a message, and workers end
when the process that started them does, however it ends.
"""

import errno
import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from forge.steps.curate.documents import Block
from forge.steps.curate.worker import Judged, Worker

_AHEAD = 2
"""Blocks under way for each process."""
_workers: list[Worker] = []
"""In a worker process: its one worker."""


def judged(blocks: Iterable[Block], worker: Worker, processes: int) -> Iterator[Judged]:
    """What became of each block, in order. Raises what reading or judging raised for the first block at fault."""
    if processes == 1:
        yield from map(worker.judge, blocks)
        return
    context = multiprocessing.get_context("fork")  # what is loaded here need not be loaded again
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_begin, initargs=(worker,))
    try:
        waiting: deque[Future[Judged]] = deque()
        fault: Exception | None = None
        source = iter(blocks)
        while True:
            while fault is None and len(waiting) < processes * _AHEAD:
                try:
                    block = next(source)
                except StopIteration:
                    break
                except Exception as error:  # noqa: BLE001 (raised below, after the blocks before it had their say)
                    fault = error
                else:
                    waiting.append(pool.submit(_judge, block))
            if not waiting:
                break
            yield waiting.popleft().result()
        if fault is not None:
            raise fault
    except BrokenProcessPool as error:
        message = (
            "a worker process of the curate step was killed, as a rule for want of memory: free some, or use fewer threads"
        )
        raise OSError(errno.ENOMEM, message) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(worker: Worker) -> None:  # a fork hands it over as it is
    threading.Thread(target=_end_with_parent, name="forge-parent", daemon=True).start()
    _workers[:] = [worker]


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _judge(block: Block) -> Judged:
    return _workers[0].judge(block)

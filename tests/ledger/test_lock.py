"""The lock between local writers: fair, dropped by the kernel, and never waited for without end."""

import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from forge.errors import LedgerError
from forge.ledger.lock import fair_lock, lock_if_free


def test_whoever_waits_is_next(tmp_path: Path) -> None:
    order: list[str] = []
    ended = threading.Event()

    def greedy() -> None:
        while not ended.is_set():
            with fair_lock(tmp_path, "x"):
                order.append("greedy")
                time.sleep(0.01)

    thread = threading.Thread(target=greedy)
    thread.start()
    try:
        for _ in range(10):
            time.sleep(0.03)
            before = len(order)
            with fair_lock(tmp_path, "x"):
                order.append("waiting")
                assert len(order) - before <= 4  # one holds it, one may stand in the queue already
    finally:
        ended.set()
        thread.join()


def hold(folder: Path) -> None:
    with fair_lock(folder, "x"):
        (folder / "held").touch()
        time.sleep(60)


def test_a_dead_holder_holds_nothing_and_a_living_one_is_not_waited_for_without_end(tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=hold, args=(tmp_path,))
    process.start()
    while not (tmp_path / "held").exists():
        time.sleep(0.01)
    with (
        pytest.raises(LedgerError, match=r"has held .*x\.lock for too long: find it with `fuser"),
        fair_lock(tmp_path, "x", 0.1),
    ):
        pass
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    with fair_lock(tmp_path, "x", 1.0):
        pass


def test_what_is_done_by_somebody_already_is_not_waited_for(tmp_path: Path) -> None:
    with lock_if_free(tmp_path, "x") as first, lock_if_free(tmp_path, "x") as second:
        assert (first, second) == (True, False)
    with lock_if_free(tmp_path, "x") as again:
        assert again

"""What the small example's steps made, laid where another repository's apply takes it up instead of making it again.

For tests of what surrounds the steps: who may ask for them, approve them and release what they made. An apply records a result
that lies under a step's key as it records one that it waited for (``reconcile.at_work``), so records and signatures are the
repository's own, and only the work is another's. What the repository wants otherwise has another key, and is made.
"""

import shutil
from collections.abc import Iterable
from pathlib import Path

from forge.canonical import hex_of
from forge.contract.messages import RESULT_FILE
from forge.ledger.ledger import Ledger
from forge.repo.repository import Repository
from forge.store.store import Store

LONGEST = ("curate/small", "tokenizer/small", "tokenize/small", "train/small", "evaluate/small.small")
"""The steps that take seconds: each loads libraries in a process of its own."""


def lay_made(applied: Path, folder: Path, steps: Iterable[str] = LONGEST) -> None:
    """Lay steps' results, as they were before they were recorded, into a repository that has made nothing of them."""
    with Repository(applied) as repository:
        snapshot = Ledger(repository, "refs/forge/ledger").snapshot()
    store = Store(".forge/store", applied)
    for step_id in steps:
        record = snapshot.latest(step_id)
        assert record is not None, step_id
        attempt = Path(".forge", "work", hex_of(record.key), f"{record.attempt:06d}")
        shutil.copytree(applied / attempt, folder / attempt)
        (folder / attempt / f"recorded-{RESULT_FILE}").rename(folder / attempt / RESULT_FILE)
        for name, digest in {**record.products, **record.byproducts}.items():
            product = folder / attempt / "output" / name
            product.mkdir(parents=True)
            store.lay_out(digest, product)

"""The ledger in its transparency log: one leaf per entry, in the ledger's order.

Invariant: leaf ``n - 1`` is a function of entry ``n`` and of nothing else, so every clone that logs the same ledger computes
the same root, and a ledger that was rewritten can be logged by nobody without a fork that a witness refuses.
"""

from forge.canonical import canonical_json
from forge.errors import ForgeError, LedgerError, TransparencyError, TrustError, printable
from forge.ledger.entry import Entry
from forge.ledger.snapshot import Snapshot
from forge.reconcile.log_place import LogPlace
from forge.reconcile.place import Place
from forge.tlog.check import check_log
from forge.tlog.key import load_key
from forge.tlog.log import View, Writer, open_writer
from forge.tlog.seals import Seals

_BATCH = 4096
_WAIT_SECONDS = 5.0
"""How long an apply waits for somebody else who writes the log."""


def leaf_of_entry(entry: Entry) -> bytes:
    """``{"attestations":[..],"entry":DIGEST,"sequence":N}``, canonical; attestations by digest, sorted."""
    attestations: dict[str, str] = getattr(entry.body, "attestations", {})
    return canonical_json({
        "attestations": sorted(attestations.values()),
        "entry": entry.digest,
        "sequence": entry.sequence,
    })  # fmt: skip


def update(writer: Writer, snapshot: Snapshot) -> int:
    """Bring a log up to a ledger's head; returns how many leaves were added.

    Raises TrustError where the ledger does not continue what was logged; nothing is logged then.
    """
    view = writer.view()
    head = snapshot.head[0]
    if view.size > head:
        raise TrustError(
            f"the ledger has {head} entries, its log {view.checkpoint.origin} has {view.size}: entries were cut off the "
            "ledger's end, or this clone has not fetched them. `forge log check` compares the two"
        )
    if view.size:
        _check_leaf(view.size - 1, view.files.entry(view.size - 1), snapshot)
    for start in range(view.size + 1, head + 1, _BATCH):
        writer.append([leaf_of_entry(_entry(snapshot, number)) for number in range(start, min(start + _BATCH, head + 1))])
    return head - view.size


def keep_up(place: Place) -> str | None:
    """Log what the ledger holds and the log does not, where forge.toml names one; returns why that failed, if it did.

    It raises nothing: the entries are in the ledger, whatever becomes of the log. The next call catches up.
    """
    logs = LogPlace(place.repository, place.desired.settings, place.config)
    if logs.settings.log.origin is None:
        return None
    try:
        private = load_key(logs.key_file)
        with open_writer(logs.folder(None), logs.origin(None), private, Seals(logs.seals), _WAIT_SECONDS) as writer:
            update(writer, place.ledger.snapshot())
    except (ForgeError, OSError) as error:
        return f"the ledger's new entries are not in its transparency log yet (`forge log update` logs them): {error}"
    return None


def check(view: View, snapshot: Snapshot) -> int:
    """Check a whole log (``check_log``) and every leaf against the ledger; returns how many entries are not logged yet.

    Raises TransparencyError, TrustError or LedgerError with the first fault.
    """
    check_log(view, lambda index, leaf: _check_leaf(index, leaf, snapshot))
    return snapshot.head[0] - view.size


def find_leaf(view: View, digest: str) -> int:
    """The index of the leaf that names an entry or an attestation; raises TransparencyError where there is none."""
    quoted = f'"{digest}"'.encode()
    for index, leaf in enumerate(view.entries()):
        if quoted in leaf:
            return index
    raise TransparencyError(
        f"no leaf of the log {view.checkpoint.origin} ({view.size} leaves) names {digest}: `forge log update` logs what is "
        "new; an entry is named by its digest, an attestation by its own"
    )


def _check_leaf(index: int, leaf: bytes, snapshot: Snapshot) -> None:
    entry = snapshot.entry(index + 1)
    if entry is None:
        raise TrustError(f"leaf {index} of the log is {_shown(leaf)}, but the ledger has no entry {index + 1}")
    expected = leaf_of_entry(entry)
    if leaf != expected:
        raise TrustError(
            f"entry {index + 1} of the ledger was changed after it was logged: leaf {index} of the log is "
            f"{_shown(leaf)}, the ledger says {_shown(expected)}. Compare with a clone that you trust"
        )


def _entry(snapshot: Snapshot, number: int) -> Entry:
    entry = snapshot.entry(number)
    if entry is None:
        raise LedgerError(f"the ledger lacks entry {number}, although its head is entry {snapshot.head[0]}")
    if entry.sequence != number:
        raise LedgerError(f"entry {number} of the ledger says that it is entry {entry.sequence}")
    return entry


def _shown(leaf: bytes) -> str:
    return printable(leaf[:2000].decode(errors="replace"))

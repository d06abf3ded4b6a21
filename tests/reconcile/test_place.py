"""What a look finds at work, and who stops it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from forge.ledger.lease import Holder
from forge.plan.explain import _sentence
from forge.plan.reason import Reason, ReasonKind
from forge.reconcile.place import _running


def test_ones_own_run_is_stopped_whatever_commit_it_is_for_and_anothers_only_for_a_descendant(tmp_path: Path) -> None:
    """After a commit was amended the controller stops what it runs for the earlier one; who looks from outside cannot."""
    own, other = (Holder(id=name, host="here", pid=7) for name in ("own", "other"))
    amended: Any = SimpleNamespace(
        repository=SimpleNamespace(is_ancestor=lambda older, newer: False),
        desired=SimpleNamespace(commit="d" * 40),
        leases=SimpleNamespace(holder=own),
        work=tmp_path,
    )
    lease: Any = SimpleNamespace(key=f"sha256:{'a' * 64}", step_id="train/small", commit="c" * 40, holder=own)
    assert _running(lease, amended).gives_way
    lease.holder = other
    assert not _running(lease, amended).gives_way
    said = _sentence(Reason(ReasonKind.AWAITS_RUN, "process 7 on here", commit="c" * 40))
    assert "a controller stops its own run once it takes this commit up" in said

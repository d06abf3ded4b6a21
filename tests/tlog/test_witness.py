"""A witness puts its name to what continues what it saw, and to nothing else."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.tlog.conftest import Log, private_key

from forge.errors import RefusedError, TransparencyError, TrustError
from forge.tlog.checkpoint import read_checkpoint
from forge.tlog.note import SignatureType, verifier_key
from forge.tlog.seals import Seals
from forge.tlog.witness import Witness

NAME = "witness.example.net/w1"


@pytest.fixture
def witness(tmp_path: Path) -> Witness:
    return Witness(NAME, private_key(99), Seals(tmp_path / "witness" / "state.json"), lambda: 1_700_000_000.9)


def test_a_log_that_only_grows_is_cosigned(log: Log, witness: Witness) -> None:
    key = verifier_key(NAME, witness.private, SignatureType.COSIGNATURE)
    for size in (0, 1, 2, 255, 256, 257, 257, 1000):
        log.grow(size)
        view, line = witness.cosign(log.folder, log.key)
        signed = read_checkpoint(view.signed.data + line.encode(), log.key, [key])
        assert (signed.checkpoint.size, signed.cosignatures[0].time) == (size, 1_700_000_000)


def test_a_fork_is_refused_and_both_roots_are_named(log: Log, make_log: Callable[..., Log], witness: Witness) -> None:
    log.grow(300)
    seen = witness.cosign(log.folder, log.key)[0].checkpoint
    fork = make_log("fork")  # the same key: its operator shows others another history
    for size in (300, 500):
        fork.append(*(b"other" for _ in range(size - (fork.view().size if fork.folder.exists() else 0))))
        with pytest.raises(RefusedError, match="does not continue") as refused:
            witness.cosign(fork.folder, log.key)
        assert seen.root.hex() in str(refused.value)
        assert fork.view().checkpoint.root.hex() in str(refused.value)
    log.grow(301)
    witness.cosign(log.folder, log.key)


def test_a_smaller_tree_is_refused(log: Log, witness: Witness, tmp_path: Path) -> None:
    """The checkpoint exchanged for an older one, which is well signed."""
    log.grow(300)
    older = (log.folder / "checkpoint").read_bytes()
    log.grow(301)
    witness.cosign(log.folder, log.key)
    (log.folder / "checkpoint").write_bytes(older)
    with pytest.raises(RefusedError, match=r"fewer leaves than before; last seen: 301 leaves, root .* now: 300 leaves, root"):
        witness.cosign(log.folder, log.key)


def test_a_witness_with_the_logs_own_key_cosigns_nothing(log: Log, tmp_path: Path) -> None:
    log.grow(3)
    with pytest.raises(TrustError, match="has the key of the log"):
        Witness(NAME, log.private, Seals(tmp_path / "state.json"), lambda: 1.0).cosign(log.folder, log.key)


def test_wrong_tiles_can_only_make_it_fail(log: Log, witness: Witness) -> None:
    log.grow(300)
    witness.cosign(log.folder, log.key)
    log.grow(301)
    shutil.copytree(log.folder, log.folder.with_name("copy"))
    tile = log.folder.with_name("copy") / "tile/0/001.p/45"
    tile.write_bytes(bytes(len(tile.read_bytes())))
    with pytest.raises(RefusedError, match="Not cosigned"):
        witness.cosign(log.folder.with_name("copy"), log.key)
    witness.cosign(log.folder, log.key)


def test_a_log_whose_key_is_not_configured_is_not_looked_at(log: Log, make_log: Callable[..., Log], witness: Witness) -> None:
    log.grow(3)
    with pytest.raises(TrustError, match="but not by"):
        witness.cosign(log.folder, make_log("other", 2).key)
    with pytest.raises(TransparencyError, match="no checkpoint"):
        witness.cosign(log.folder.with_name("nothing"), log.key)
    assert witness.seals.last(log.key.name) is None


def test_what_is_cosigned_is_remembered_before_the_cosignature_is_given(
    log: Log, witness: Witness, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.grow(3)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(TransparencyError, match="No space left"):
        witness.cosign(log.folder, log.key)


def test_two_logs_are_kept_apart(log: Log, witness: Witness, tmp_path: Path) -> None:
    from forge.tlog.log import open_writer

    log.grow(10)
    witness.cosign(log.folder, log.key)
    with open_writer(tmp_path / "audit", "example.org/forge/audit/prod", log.private, log.seals) as writer:
        writer.append([b"x"])
        view, _ = witness.cosign(tmp_path / "audit", writer.key)
    assert (view.size, witness.seals.last(log.key.name).checkpoint.size) == (1, 10)  # type: ignore[union-attr]

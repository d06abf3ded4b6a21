"""A proof file stands by itself: what it says of itself decides nothing."""

import json
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tlog.conftest import ORIGIN, Log, entry, private_key

from forge.errors import TransparencyError, TrustError
from forge.tlog.log import view_at
from forge.tlog.note import SignatureType, cosign_note, split_note, verifier_key
from forge.tlog.proof import check_proof, prove, read_proof


def test_every_leaf_is_proved_against_the_newest_and_against_an_older_checkpoint(log: Log) -> None:
    log.grow(257)
    older = log.view().signed.data
    log.grow(600)
    for data, size in ((older, 257), (log.view().signed.data, 600)):
        view = view_at(log.folder, data, log.key)
        for index in (0, 1, 2, 255, 256, size - 1):
            proof = read_proof(prove(view, index).to_bytes())
            assert check_proof(proof, log.key).checkpoint.size == size
            assert proof.leaf.encode() == entry(index)
        with pytest.raises(TransparencyError, match=f"no leaf {size}"):
            prove(view, size)


def test_a_proof_of_another_leaf_place_or_log_is_refused(log: Log, make_log: Callable[..., Log]) -> None:
    log.grow(300)
    proof = prove(log.view(), 7)
    for change in (
        {"leaf": entry(8).decode()},
        {"index": 8},
        {"index": 300},
        {"hashes": prove(log.view(), 8).hashes},
        {"hashes": []},
    ):
        with pytest.raises(TrustError):
            check_proof(proof.model_copy(update=change), log.key)
    other = make_log("other", 2)
    other.grow(300)
    with pytest.raises(TrustError, match="but not by"):
        check_proof(proof, other.key)
    with pytest.raises(TrustError, match="but not by"):
        check_proof(proof.model_copy(update={"checkpoint": other.view().signed.data.decode()}), log.key)
    with pytest.raises(TrustError, match="does not verify"):
        check_proof(proof.model_copy(update={"checkpoint": proof.checkpoint.replace("\n300\n", "\n301\n")}), log.key)


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{}", b"[]", b"\xff", b"[" * 5000, b'{"schema_version":2}',
        b'{"schema_version":1,"leaf":"","index":-1,"hashes":[],"checkpoint":""}',
        b'{"schema_version":1,"leaf":"","index":0,"hashes":["x"],"checkpoint":""}',
        b'{"schema_version":1,"leaf":"","index":0,"hashes":[],"checkpoint":"","more":1}',
        b'{"schema_version":1,"leaf":"\\ud800","index":0,"hashes":[],"checkpoint":""}',
        b'{"schema_version":1,"leaf":"","index":0,"hashes":["' + b"A" * 42 + b'B="],"checkpoint":""}',
        b'{"schema_version":1,"leaf":"","index":true,"hashes":[],"checkpoint":""}',
    ],
)  # fmt: skip
def test_what_is_no_proof_is_refused(data: bytes) -> None:
    with pytest.raises(TrustError, match="not a proof"):
        read_proof(data)


def test_a_witness_that_is_asked_for_must_have_cosigned(log: Log) -> None:
    log.grow(3)
    proof = prove(log.view(), 1)
    private = private_key(5)
    key = verifier_key("w.example", private, SignatureType.COSIGNATURE)
    with pytest.raises(TrustError, match=r"is not cosigned by w\.example"):
        check_proof(proof, log.key, (key,))
    text, _ = split_note(proof.checkpoint.encode())
    cosigned = proof.model_copy(update={"checkpoint": proof.checkpoint + cosign_note(text, "w.example", private, 17)})
    assert check_proof(cosigned, log.key, (key,)).cosignatures[0].time == 17
    log_alone = proof.model_copy(update={"checkpoint": f"{text}\n" + cosign_note(text, "w.example", private, 17)})
    with pytest.raises(TrustError, match="not signed by its log's key"):
        check_proof(log_alone, log.key, (key,))


def test_a_log_is_not_its_own_witness_and_one_witness_is_not_two(log: Log) -> None:
    """The log's operator cosigns under another name; and a witness is asked for under two."""
    log.grow(3)
    proof = prove(log.view(), 1)
    text, _ = split_note(proof.checkpoint.encode())
    names = ("w.example", "v.example")
    for private, owner in ((log.private, f"the log {log.key.name}"), (private_key(5), "the witness w.example")):
        keys = tuple(verifier_key(name, private, SignatureType.COSIGNATURE) for name in names)
        lines = "".join(cosign_note(text, name, private, 17) for name in names)
        cosigned = proof.model_copy(update={"checkpoint": proof.checkpoint + lines})
        with pytest.raises(TrustError, match=f"has the key of {owner}"):
            check_proof(cosigned, log.key, keys)


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_no_character_of_a_proof_can_be_changed(data: st.DataObject) -> None:
    """But for space between JSON's tokens, and signatures of keys that nobody asked for."""
    proof = json.loads(PROOF)
    name = data.draw(st.sampled_from(["leaf", "index", "hashes", "checkpoint"]))
    value = proof[name]
    if name == "index":
        proof[name] = data.draw(st.integers(-1, 20).filter(lambda found: found != value))
    elif name == "hashes":
        place = data.draw(st.integers(0, len(value) - 1))
        proof[name] = [*value[:place], _changed(value[place], data), *value[place + 1 :]]
    else:
        proof[name] = _changed(value, data)
    with pytest.raises(TrustError):
        check_proof(read_proof(json.dumps(proof).encode()), verifier_key(ORIGIN, private_key(1)))


def _changed(text: str, data: st.DataObject) -> str:
    place = data.draw(st.integers(0, len(text) - 1))
    character = data.draw(st.sampled_from("aZ0=/+\n \u2014").filter(lambda found: found != text[place]))
    return text[:place] + character + text[place + 1 :]


PROOF = b""


@pytest.fixture(autouse=True, scope="module")
def _proof(tmp_path_factory: pytest.TempPathFactory) -> None:
    from forge.tlog.seals import Seals

    folder = tmp_path_factory.mktemp("log")
    log = Log(folder / "log", Seals(folder / "seals.json"), private_key(1))
    log.grow(11)
    globals()["PROOF"] = prove(log.view(), 5).to_bytes()

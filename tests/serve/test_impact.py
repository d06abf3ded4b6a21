"""Requests that were answered by what descends from a subject, counted in logs that the real gateway wrote."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from forge.admission.descent import Descent, Known
from forge.admission.impact import UNKNOWN, Impact, impact_of
from forge.contract.kinds import StepKind
from forge.contract.record import Record, Release, Retirement, Spent
from forge.serve.audit import AuditError, read_audit
from forge.serve.release import ServableRelease
from forge.ui.impact import to_data, to_text


def digest(name: str) -> str:
    return "sha256:" + hashlib.sha256(name.encode()).hexdigest()


def record(step: StepKind, name: str, subject: str, inputs: dict[str, str], products: dict[str, str]) -> Record:
    return Record(
        key=digest(f"{step} {name}"), step=step, step_version=1, step_id=f"{step}/{name}", subject=subject, parameters={},
        inputs=inputs, products=products, commit="c" * 40, attempt=1, started="a", finished="b", environment={},
        actual=Spent(seconds=1), attestations={},
    )  # fmt: skip


def chain(release: ServableRelease) -> list[Record]:
    weights, released = {"weights": release.weights_digest}, {"release": release.release_digest}
    return [
        record(StepKind.CURATE, "a", "DataRecipe/a", {"source-0": digest("files")}, {"documents": digest("documents")}),
        record(StepKind.TRAIN, "tiny", "Model/tiny", {"tokens": digest("documents")}, weights),
        record(StepKind.EVALUATE, "tiny.s", "Model/tiny", {**weights, "tasks": digest("t")}, {"report": digest("report")}),
        record(StepKind.GATE, "tiny", "Deployment/tiny", {"report-0": digest("report")}, {"verdict": digest("verdict")}),
        record(StepKind.RELEASE, "tiny", "Deployment/tiny", {**weights, "verdict": digest("verdict")}, released),
    ]  # fmt: skip


def moves_of(release: ServableRelease) -> list[Release | Retirement]:
    move = Release(
        environment="test", deployment="tiny", release=release.release_digest, key=digest("release tiny"), commit="c" * 40,
        moved="2030-01-01T00:00:00.000+00:00",
    )  # fmt: skip
    other = move.model_copy(update={"release": digest("another"), "moved": "2030-01-03T00:00:00.000+00:00"})
    return [move, other, Retirement(subject="Deployment/tiny", environment="test", commit="d" * 40, moved="2030-01-04")]


def impact(subject: str, release: ServableRelease, folders: list[Path], faults: list[str] | None = None) -> Impact:
    descent = Descent(chain(release), [subject], Known())
    return impact_of(subject, descent, moves_of(release), frozenset(), read_audit(folders, [] if faults is None else faults))


def test_answers_are_counted_by_environment_and_role_and_refusals_are_not(
    rig: Any, release: ServableRelease, tmp_path: Path
) -> None:
    known = {line["request_id"] for line in rig.audit_lines()} if rig.audit_folder.exists() else set()
    replies = [rig.chat(), rig.chat("editor"), rig.chat(), rig.complete()]
    assert [reply.status for reply in replies] == 4 * [200]
    assert rig.chat("auditor").status == 403
    assert rig.chat(max_tokens=10_000).status == 400
    assert rig.send("GET", "/v1/models").status == 200
    rig.engine.streams("A", "B", done=False, finish=None)
    broken = rig.chat(stream=True)
    rig.engine.is_away = True
    assert rig.chat(stream=True).status == 503
    lines = [text for file in rig.audit_folder.iterdir() for text in file.read_text().splitlines()]
    log = tmp_path / "log" / "2030"
    log.mkdir(parents=True)
    mine = [text for text in lines if not any(f'"{each}"' in text for each in known)]
    (log / "requests-2030-01-02.jsonl").write_text("\n".join([*mine, '{"schema_version":1,"ti', ""]))
    (log.parent / "copy.jsonl").write_text("\n".join(mine) + "\n")
    for subject in ("DataRecipe/a", digest("files"), "Model/tiny", release.weights_digest):
        faults: list[str] = []
        found = {item.role: item for item in impact(subject, release, [tmp_path / "log"], faults).requests}
        assert {item.environment for item in found.values()} == {"test"}
        ids = [reply.headers["x-request-id"] for reply in replies]
        assert found["editor"].answered == (ids[1],)
        assert found["reader"].answered == (ids[0], ids[2], ids[3])
        assert found["reader"].cut_off == (broken.headers["x-request-id"],)
        assert found["reader"].first.startswith("2030-01-02")
        assert len(faults) == 1
        assert "requests-2030-01-02.jsonl:" in faults[0]
    assert impact("EvalSuite/s", release, [tmp_path / "log"]).requests[0].environment == "test"
    assert impact("Model/other", release, [tmp_path / "log"]).requests == ()
    text = to_text(impact("DataRecipe/a", release, [tmp_path / "log"]), None, [], ["torn\x1b line"])
    assert "test reader: 3 answered, 1 cut off" in text
    assert "\x1b" not in text
    data = to_data(impact("DataRecipe/a", release, [tmp_path / "log"]), None, [], [])
    assert [row["num_answered"] for row in data["requests"]] == [1, 3]


def test_a_release_is_listed_from_when_to_when_it_was_the_pointer(release: ServableRelease) -> None:
    found = impact("DataRecipe/a", release, [])
    assert [(item.environment, item.since[:10], (item.until or "")[:10]) for item in found.served] == [
        ("test", "2030-01-01", "2030-01-03")
    ]
    assert [step.step_id for step in found.of_kind(StepKind.TRAIN)] == ["train/tiny"]
    assert [cause.step_id for cause in found.causes] == ["curate/a"]
    steps = impact("EvalSuite/s", release, []).steps
    assert [step.step_id for step in steps] == ["evaluate/tiny.s", "gate/tiny", "release/tiny"]


def test_weights_that_were_served_by_a_release_nobody_knows_are_counted_too(
    rig: Any, release: ServableRelease, tmp_path: Path
) -> None:
    rig.chat()
    records = chain(release)[:2]
    lines = read_audit([rig.audit_folder], [])
    (found,) = impact_of("Model/tiny", Descent(records, ["Model/tiny"], Known()), [], frozenset(), lines).requests[:1]
    assert found.environment == UNKNOWN


def test_a_folder_that_is_not_there_is_no_empty_log(tmp_path: Path, release: ServableRelease) -> None:
    with pytest.raises(AuditError, match="there is no such folder"):
        impact("Model/tiny", release, [tmp_path / "nowhere"])


def test_a_line_of_brackets_is_a_line_that_is_not_read(tmp_path: Path) -> None:
    """Whoever reaches the audit log's folder: JSON as deep as that ends the interpreter's stack."""
    (tmp_path / "a.jsonl").write_bytes(b"[" * 100_000 + b"\n")
    unread: list[str] = []
    assert list(read_audit([tmp_path], unread)) == []
    assert len(unread) == 1
    assert "a.jsonl:1: not a line of an audit log" in unread[0]

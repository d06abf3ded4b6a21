"""The gate step decides and records; the release step follows a GO only."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.steps.conftest import NO_DIGEST, MakeRun, RunStep

from forge.contract.release import ReleaseDocument
from forge.contract.verdict import Decision, Verdict
from forge.errors import StepError
from forge.steps import gate, release

PARAMETERS = {"environment": "local", "deployment": "handbook", "model": "handbook", "policy": "staff"}


def report(folder: Path, metrics: dict[str, float | None]) -> Path:
    folder.mkdir(parents=True)
    task = {"metrics": metrics, "stderr": {}, "higher_is_better": {}, "items": 10, "task_digest": NO_DIGEST}
    (folder / "report.json").write_text(json.dumps({"schema_version": 1, "tasks": {"t": task}, "settings": {}}))
    return folder


def gates(**bounds: float) -> dict[str, Any]:
    return {"gates": [{"suite": "EvalSuite/x", "thresholds": [{"task": "t", "metric": "acc", **bounds}]}]}


def policy(folder: Path) -> Path:
    folder.mkdir()
    (folder / "policy.json").write_text("{}")
    return folder


@pytest.mark.parametrize(("value", "decision"), [(0.5, "GO"), (0.4, "GO"), (0.39, "NO-GO"), (None, "NO-GO")])
def test_a_verdict_is_a_product_either_way(value: float | None, decision: str, run_step: RunStep, tmp_path: Path) -> None:
    done = run_step("gate", gates(min=0.4), {"report-0": report(tmp_path / "r", {"acc": value})})
    verdict = Verdict.model_validate_json((done.product("verdict") / "verdict.json").read_bytes())
    assert verdict.verdict == decision == done.metrics["verdict"]
    assert verdict.checks[0].value == value


def test_two_runs_in_two_processes_give_equal_products(run_step: RunStep, tmp_path: Path) -> None:
    measured = report(tmp_path / "r", {"acc": 0.5})
    one, other = (run_step("gate", gates(min=0.4), {"report-0": measured}, attempt=number) for number in (1, 2))
    assert one.digests() == other.digests()
    inputs = {"verdict": one.product("verdict"), "policy": policy(tmp_path / "p"), "weights": None}
    one, other = (run_step("release", PARAMETERS, inputs, attempt=number) for number in (1, 2))
    assert one.digests() == other.digests()


def test_each_gate_reads_the_report_of_its_own_suite(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(
        "gate",
        {
            "gates": [
                {"suite": "EvalSuite/x", "thresholds": [{"task": "t", "metric": "acc", "min": 0.4}]},
                {"suite": "EvalSuite/y", "thresholds": [{"task": "t", "metric": "acc", "max": 0.1}]},
            ]
        },
        {"report-0": report(tmp_path / "a", {"acc": 0.5}), "report-1": report(tmp_path / "b", {"acc": 0.05})},
    )
    gate.run(run)
    verdict = Verdict.model_validate_json((run.product("verdict") / "verdict.json").read_bytes())
    assert [(check.suite, check.value, check.passed) for check in verdict.checks] == [
        ("EvalSuite/x", 0.5, True),
        ("EvalSuite/y", 0.05, True),
    ]


@pytest.mark.parametrize("text", ["", "{}", '{"schema_version": 2, "tasks": {}, "settings": {}}', '{"schema_version": 1}'])
def test_a_report_that_is_none_stops_the_gate(text: str, make_run: MakeRun, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(StepError, match="no report of an evaluation"):
        gate.run(make_run("gate", gates(min=0.4), {"report-0": tmp_path}))


def test_a_missing_report_stops_the_gate(make_run: MakeRun, tmp_path: Path) -> None:
    with pytest.raises(StepError, match=r"holds no report.json"):
        gate.run(make_run("gate", gates(min=0.4), {"report-0": tmp_path}))
    with pytest.raises(StepError, match="no input 'report-0'"):
        gate.run(make_run("gate", gates(min=0.4), {}))


def verdict_of(make_run: MakeRun, folder: Path, value: float) -> Path:
    run = make_run("gate", gates(min=0.4), {"report-0": report(folder, {"acc": value})})
    gate.run(run)
    return run.product("verdict")


def test_a_release_names_digests_and_every_setting_of_the_engine(make_run: MakeRun, tmp_path: Path) -> None:
    inputs = {"verdict": verdict_of(make_run, tmp_path / "r", 0.5), "policy": policy(tmp_path / "p"), "weights": None}
    run = make_run("release", {**PARAMETERS, "engine": {"max_model_len": 512}}, inputs)
    release.run(run)
    text = (run.product("release") / "release.json").read_bytes()
    assert json.loads(text) == {
        "schema_version": 1,
        "environment": "local",
        "deployment": "handbook",
        "model": "handbook",
        "weights": NO_DIGEST,
        "policy": NO_DIGEST,
        "policy_name": "staff",
        "verdict": NO_DIGEST,
        "engine": {"dtype": "auto", "max_model_len": 512, "max_num_seqs": 32, "kv_cache_gib": 1},
    }
    assert ReleaseDocument.model_validate_json(text).to_bytes() == text


def test_a_no_go_is_never_released(run_step: RunStep, make_run: MakeRun, tmp_path: Path) -> None:
    inputs = {"verdict": verdict_of(make_run, tmp_path / "r", 0.1), "policy": policy(tmp_path / "p"), "weights": None}
    done = run_step("release", PARAMETERS, inputs)
    assert done.status == 1
    assert done.failure["message"] == "Test/subject: the verdict is NO-GO (t acc); only a GO is released"
    assert not (done.folder / "output" / "release" / "release.json").exists()


def test_a_verdict_that_was_touched_up_is_not_believed(make_run: MakeRun, tmp_path: Path) -> None:
    verdict = verdict_of(make_run, tmp_path / "r", 0.1) / "verdict.json"
    verdict.write_text(verdict.read_text().replace(Decision.NO_GO.value, Decision.GO.value))
    inputs = {"verdict": verdict.parent, "policy": policy(tmp_path / "p"), "weights": None}
    with pytest.raises(StepError, match="contradicts its checks"):
        release.run(make_run("release", PARAMETERS, inputs))


def test_a_release_without_a_policy_file_or_weights_is_refused(make_run: MakeRun, tmp_path: Path) -> None:
    verdict = verdict_of(make_run, tmp_path / "r", 0.5)
    with pytest.raises(StepError, match=r"holds no policy.json"):
        release.run(make_run("release", PARAMETERS, {"verdict": verdict, "policy": tmp_path, "weights": None}))
    with pytest.raises(StepError, match="names no input 'weights'"):
        release.run(make_run("release", PARAMETERS, {"verdict": verdict, "policy": policy(tmp_path / "p")}))

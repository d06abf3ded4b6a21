"""Reports and thresholds -> a verdict. The decision itself is ``forge.contract.verdict.check``.

A NO-GO is a finished step with a product: that it was decided, and on what numbers, is part of the history.
"""

from pathlib import Path

from pydantic import ValidationError

from forge.contract.verdict import REPORT_FILE, VERDICT_FILE, Report, check
from forge.errors import StepError
from forge.spec.deployment import Gate
from forge.steps.run import Metrics, StepRun


def run(run: StepRun) -> Metrics:
    """Write the product ``verdict``; raises StepError for a report that cannot be read."""
    gates = [Gate.model_validate(gate) for gate in run.parameters["gates"]]
    reports = [_report(run.input(f"report-{index}"), gate.suite) for index, gate in enumerate(gates)]
    verdict = check(gates, reports)
    (run.product("verdict") / VERDICT_FILE).write_bytes(verdict.to_bytes())
    failed = [each for each in verdict.checks if not each.passed]
    for each in failed:
        found = "missing or not a number" if each.value is None else f"{each.value:g}"
        run.emit(message=f"{each.suite}: {each.task} {each.metric} is {found}, {each.bound} {each.threshold:g}")
    run.emit(message=f"verdict {verdict.verdict}", fraction=1.0)
    return {
        "verdict": verdict.verdict.value,
        "checks": len(verdict.checks),
        "failed": ", ".join(f"{each.task} {each.metric}" for each in failed),
    }


def _report(folder: Path, suite: str) -> Report:
    path = folder / REPORT_FILE
    try:
        return Report.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise StepError(f"{suite}: the input holds no {REPORT_FILE}; expected the product of an evaluate step") from error
    except ValidationError as error:
        raise StepError(f"{suite}: {REPORT_FILE} is no report of an evaluation: {error}") from error

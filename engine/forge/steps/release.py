"""Weights, policy and verdict -> the release document. Refuses unless the verdict is a GO."""

from pydantic import ValidationError

from forge.canonical import Digest
from forge.contract.release import POLICY_FILE, RELEASE_FILE, ReleaseDocument
from forge.contract.verdict import VERDICT_FILE, Decision, Verdict
from forge.errors import StepError
from forge.spec.deployment import Engine
from forge.steps.run import Metrics, StepRun


def run(run: StepRun) -> Metrics:
    """Write the product ``release``; raises StepError where the verdict, the policy or a parameter does not allow it."""
    subject, parameters = run.request.subject, run.parameters
    verdict = _verdict(run)
    if verdict.verdict is not Decision.GO:
        failed = ", ".join(f"{each.task} {each.metric}" for each in verdict.checks if not each.passed)
        raise StepError(f"{subject}: the verdict is {verdict.verdict} ({failed or 'no checks'}); only a GO is released")
    if not (run.input("policy") / POLICY_FILE).is_file():
        raise StepError(f"{subject}: the policy input holds no {POLICY_FILE}")
    try:
        release = ReleaseDocument(
            environment=parameters["environment"],
            deployment=parameters["deployment"],
            model=parameters["model"],
            weights=_digest(run, "weights"),
            policy=_digest(run, "policy"),
            policy_name=parameters["policy"],
            verdict=_digest(run, "verdict"),
            engine=Engine.model_validate(parameters.get("engine", {})),
        )
    except ValidationError as error:
        raise StepError(f"{subject}: no release can be made of this request: {error}") from error
    (run.product("release") / RELEASE_FILE).write_bytes(release.to_bytes())
    run.emit(message=f"release for {release.environment} written", fraction=1.0)
    return {"environment": release.environment}


def _verdict(run: StepRun) -> Verdict:
    path = run.input("verdict") / VERDICT_FILE
    try:
        return Verdict.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise StepError(f"{run.request.subject}: the verdict input holds no {VERDICT_FILE}") from error
    except ValidationError as error:
        raise StepError(f"{run.request.subject}: {VERDICT_FILE} is no verdict: {error}") from error


def _digest(run: StepRun, name: str) -> Digest:
    artifact = run.request.inputs.get(name)
    if artifact is None:
        raise StepError(f"{run.request.subject}: the request names no input {name!r}")
    return Digest(artifact.digest)

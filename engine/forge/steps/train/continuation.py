"""Going on from the checkpoint of another run, a shorter one or one that this one branches from: the step makes sure itself.

Rules; each is refused in words that name both sides and say what to do:
1. The checkpoint's bytes are those of its manifest, and the folder is the artifact that the request names.
2. It is of this lineage, or of one that this run branches from: the same step version, parameters but for
   ``training.tokens``, and inputs.
3. ``spec.extend`` allows to continue its run.
4. It lies at or before the start of that run's decay: further on, the rates depended on that run's total. This run's own
   decay begins later.
5. It was made in an environment that computes the same bits.
"""

from pathlib import Path

from forge.contract.messages import Continued, InputArtifact
from forge.errors import StepError
from forge.spec.extend import earlier_runs, shared_steps, why_not_extended
from forge.steps.train.checkpoint import (
    Checkpoint,
    CheckpointState,
    artifact_of,
    differences_of,
    load_checkpoint,
    verify_checkpoint,
)
from forge.steps.train.job import TrainJob


def open_continuation(job: TrainJob, artifact: InputArtifact, environment: dict[str, str], beyond: int) -> Checkpoint | None:
    """The checkpoint that this run continues, verified; None where it is not further on than ``beyond``.

    Raises ``StepError`` for one that this run is not the exact continuation of.
    """
    name = f"artifact {artifact.digest}"
    try:
        if artifact.path is None:
            raise StepError("the request lays it out nowhere")
        path = Path(artifact.path)
        state = verify_checkpoint(path)
        name = f"step {state.step} of step key {state.key} ({artifact.digest})"
        found = artifact_of(path)
        if found != artifact.digest:
            raise StepError(f"its files are artifact {found}")
        reason = _why_not(job, state, environment)
        if reason:
            raise StepError(reason)
    except StepError as error:
        raise StepError(
            f"{job.subject}: cannot continue from the checkpoint of {name} under step key {job.key}: {error}; train from "
            f"scratch with `forge apply --force train/{job.subject.split('/', 1)[-1]}`"
        ) from error
    return load_checkpoint(path) if state.step > beyond else None


def continued_from(checkpoint: Checkpoint, artifact: InputArtifact) -> Continued:
    """What the record says of the run that was continued."""
    state = checkpoint.state
    return Continued(key=state.key, checkpoint=artifact.digest, tokens=state.training_tokens or 0)


def _why_not(job: TrainJob, state: CheckpointState, environment: dict[str, str]) -> str | None:
    if state.lineage is None or state.training_tokens is None:
        return "it was written by an engine that did not say what a checkpoint descends from"
    lineages = [job.lineage, *(stretch.lineage for stretch in job.trunk)]
    if state.lineage not in lineages:
        others = f", those that it branches from are {', '.join(lineages[1:])}" if job.trunk else ""
        return (
            f"its lineage is {state.lineage}, this run's is {job.lineage}{others}: parameters other than training.tokens, an "
            "input or the step's version differ"
        )
    old = list(earlier_runs(job.parameters, state.training_tokens))[lineages.index(state.lineage)]
    last = shared_steps(old, job.parameters)
    if state.step > last:
        return why_not_extended(old, job.parameters) or (
            f"it stands at step {state.step}, after the decay of its run of {state.training_tokens:,} tokens began; this run "
            f"of {job.training.tokens:,} shares its first {last} steps"
        )
    differences = differences_of(state.environment, environment)
    if differences or state.earlier_topologies:
        how = differences or f"its topology was first {', '.join(state.earlier_topologies)}"
        return f"it was made in an environment that computes other bits ({how})"
    if (state.sequences, state.tokens) != (state.step * job.batch_sequences, state.step * job.training.batch_tokens):
        return f"its position ({state.sequences} sequences, {state.tokens} tokens) does not belong to step {state.step}"
    return None

"""What a train request asks for, as one checked value; everything that is derived from it is derived here."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from forge.contract.checkpoints import BYPRODUCT, branch_point, lineage_of
from forge.contract.hyperparameters import HYPERPARAMETERS
from forge.contract.messages import InputArtifact, StepRequest
from forge.contract.verdict import DIVERGED_FILE
from forge.errors import StepError
from forge.spec.architecture import Architecture
from forge.spec.extend import TRUNK, earlier_runs, optimizer_steps, steps_before_decay
from forge.spec.model import DEFAULT_CHAT_TEMPLATE
from forge.spec.nanotron import NanotronLayout, why_not_nanotron
from forge.spec.training import CosineSchedule, LargeTraining, Optimizer, Training, WsdSchedule, exact
from forge.spec.trials import SWEEP, with_values
from forge.steps.hyperparameters import read_hyperparameters
from forge.steps.train.base import chat_template_of, check_control_tokens, check_same_tokenizer, read_architecture, rows_of
from forge.steps.train.mixture import Share, num_replayed

TUNED = ("sft", "dpo")
"""Objectives that learn from conversations or preferences (``steps.finetune``)."""
OBJECTIVES = ("pretrain", "continue", *TUNED)
_CHECKPOINTS_OF_A_RUN = 10
_ENDLESS = 2**50
"""Tokens: where a schedule never comes to its decay."""


@dataclass(frozen=True)
class Way:
    """How steps are taken: with which settings of the optimiser, and at which share of its rate."""

    optimizer: Optimizer
    schedule: WsdSchedule | CosineSchedule
    total_tokens: int
    """Where the schedule ends, in tokens of whole steps."""


@dataclass(frozen=True)
class Stretch:
    """Steps that a branch shares with another training."""

    steps: int
    """Up to this one."""
    way: Way
    lineage: str
    """Of the training that they are shared with."""


@dataclass(frozen=True)
class TrainJob:
    """One training, as the spec has it, and the process count that it is spread over."""

    subject: str
    key: str
    attempt: int
    architecture: Architecture
    training: LargeTraining
    chat_template: str
    objective: str
    processes: int
    threads: int
    accelerator: str
    parameters: dict[str, Any]
    """As the request has them, with the values that a sweep chose in their places."""
    lineage: str
    inputs: dict[str, str]
    """The digests of what it reads, by the names of inputs."""
    continues: InputArtifact | None
    base: Path | None = None
    """The folder of the weights to begin with; None: random ones."""
    base_rows: int | None = None
    """Rows of the base's embedding, which may have been padded: more than its tokenizer has tokens."""
    replay_fraction: Fraction | None = None
    """Of the sequences; None: nothing is replayed."""
    nanotron: NanotronLayout | None = None
    """How nanotron spreads a copy of the model, where it is the one that trains; None: this package's own loop does."""
    mixture: tuple[Share, ...] = ()
    """Other data, of the inputs ``mixture-0`` and on."""
    trunk: tuple[Stretch, ...] = ()
    """Of a branch: its first steps, in order; none for a training that branches from no other."""
    searched: tuple[str, ...] = ()
    """The fields whose values come from a sweep: then a loss that is not finite is the end of a trial, and no failure."""
    branches: frozenset[int] = frozenset()
    """The steps at which others leave this training: each has a checkpoint kept."""

    def rows_for(self, vocab_size: int) -> int:
        """Rows of the embedding under a tokenizer of so many tokens; raises ``StepError`` for a base that has fewer.

        Rows beyond the tokens are padding: no text has them, and they are kept as the base has them, one by one.
        """
        if self.base_rows is not None and self.base_rows < vocab_size:
            raise StepError(
                f"{self.base}: its embedding has {self.base_rows} rows, fewer than the {vocab_size} tokens of the tokenizer; "
                "continue with the tokenizer that the base was trained with"
            )
        return vocab_size if self.base_rows is None else self.base_rows

    def way_of(self, step: int) -> Way:
        """How a step (from 0) is taken."""
        own = Way(self.training.optimizer, self.training.schedule, self.total_tokens)
        return next((stretch.way for stretch in self.trunk if step < stretch.steps), own)

    @property
    def copies(self) -> int:
        """Copies of the model, which share a batch; under FSDP2 a copy for each share, in slices over all of them."""
        together = self.training.parallelism.tensor if self.nanotron is None else self.nanotron.processes
        return self.processes // together

    @property
    def batch_sequences(self) -> int:
        """Sequences of one optimiser step, over all processes."""
        return self.training.batch_tokens // self.training.sequence_length

    @property
    def shards_data(self) -> bool:
        """Whether each process holds a slice of the model alone (FSDP2)."""
        return self.training.parallelism.data == "fsdp2"

    @property
    def topology(self) -> str:
        """In words, how the training is spread."""
        if self.processes == 1:
            return "1 process"
        slices = self.training.parallelism.tensor
        parts = [f"{self.copies} x {self.training.parallelism.data}"] if self.copies > 1 else []
        parts += [f"{slices} x tensor"] if slices > 1 else []
        return f"{self.processes} processes ({', '.join(parts)})"

    @property
    def process_sequences(self) -> int:
        """Sequences of one optimiser step in one process, or in those that share a copy of the model."""
        return self.batch_sequences // self.copies

    @property
    def micro_batch_sequences(self) -> int:
        """Sequences of one forward pass."""
        return min(self.training.micro_batch_sequences, self.process_sequences)

    @property
    def total_steps(self) -> int:
        """Optimiser steps: the tokens asked for, rounded up to whole steps."""
        return optimizer_steps(self.training)

    @property
    def kept_step(self) -> int:
        """The last step from which a longer run may go on: its checkpoint is kept as a by-product; 0 for none."""
        return steps_before_decay(self.training)

    @property
    def kept_steps(self) -> dict[int, str]:
        """The steps whose checkpoints are kept, each with what the by-product is called."""
        branches = {step: branch_point(step) for step in sorted(self.branches) if 0 < step <= self.total_steps}
        return branches | ({self.kept_step: BYPRODUCT} if self.kept_step else {})

    @property
    def total_tokens(self) -> int:
        """Tokens that those steps see; the schedule ends there."""
        return _whole_steps(self.training)

    def replayed_sequences(self, steps: int) -> int:
        """Of the first so many steps, those that are replayed."""
        return 0 if self.replay_fraction is None else num_replayed(steps * self.batch_sequences, self.replay_fraction)

    @property
    def validate_every_steps(self) -> int:
        """Steps between two validations; there is always one at the end."""
        return self._steps_of(self.training.validate_every_tokens) or self.total_steps

    @property
    def checkpoint_every_steps(self) -> int:
        """Steps between two checkpoints; there is always one at the end."""
        return self._steps_of(self.training.checkpoint_every_tokens) or -(-self.total_steps // _CHECKPOINTS_OF_A_RUN)

    def _steps_of(self, tokens: int | None) -> int | None:
        return None if tokens is None else max(1, round(tokens / self.training.batch_tokens))


def read_job(request: StepRequest) -> TrainJob:
    """Rebuild the spec's values from a request; raises ``StepError`` where they do not fit the engine or each other."""
    parameters = _whole(request)
    objective = parameters.get("objective")
    if objective not in OBJECTIVES:
        raise StepError(
            f"{request.subject}: objective {objective!r} is unknown to this engine; expected one of {', '.join(OBJECTIVES)}"
        )
    settings: dict[str, Any] = request.settings.get("training", {})
    if SWEEP in parameters:  # what is trained is told by the key alone, and a rise is no end of it
        settings = {**settings, "max_loss_rise": None}
    base = _laid_out(request, "base") if objective != "pretrain" else None
    if base is not None and (base / DIVERGED_FILE).exists():
        raise StepError(f"{request.subject}: its base diverged in training, before that came to its end: train another one")
    template = parameters.get("chat_template", DEFAULT_CHAT_TEMPLATE)
    if base is not None:
        tokenizer = _laid_out(request, "tokenizer")
        check_same_tokenizer(base, tokenizer)
        check_control_tokens(tokenizer)
        template = parameters.get("chat_template") or chat_template_of(base, tokenizer)
    try:
        architecture = Architecture.model_validate(parameters["architecture"]) if base is None else read_architecture(base)
        fraction = exact(parameters["replay"]["fraction"]) if "replay" in parameters else None
        of_all = Training if objective in TUNED else LargeTraining
        checked = of_all.model_validate({**parameters["training"], **settings})
        training = LargeTraining.model_validate(checked.model_dump())
        layout = _layout(request)
        mixture = tuple(_share(part) for part in parameters.get("mixture", ()))
        trunk = _trunk(request)
    except (KeyError, ValidationError) as error:
        if SWEEP in parameters and isinstance(error, ValidationError):
            raise StepError(_cannot_be_trained(request, error)) from error
        raise StepError(f"{request.subject}: the request's parameters are not a model's: {error}") from error
    inputs = {name: artifact.digest for name, artifact in request.inputs.items()}
    job = TrainJob(
        subject=request.subject,
        key=request.key,
        attempt=request.attempt,
        architecture=architecture,
        training=training,
        chat_template=template,
        objective=objective,
        processes=request.resources.processes,
        threads=request.resources.threads,
        accelerator=request.resources.accelerator,
        parameters=parameters,
        lineage=lineage_of(request.step_version, request.parameters, inputs),
        inputs=inputs,
        continues=request.continues,
        base=base,
        base_rows=None if base is None else rows_of(base),
        replay_fraction=fraction,
        nanotron=layout,
        mixture=mixture,
        trunk=trunk,
        searched=tuple(parameters.get(SWEEP, ())),
        branches=frozenset(request.settings.get("branches", ())),
    )
    _check_split(job)
    return job


def _whole(request: StepRequest) -> dict[str, Any]:
    """The parameters, with the values of those that a sweep chooses; raises ``StepError`` where it chose others."""
    fields = request.parameters.get(SWEEP)
    if fields is None:
        return request.parameters
    chosen = read_hyperparameters(_laid_out(request, HYPERPARAMETERS)).values
    if sorted(chosen) != sorted(fields):
        raise StepError(
            f"{request.subject}: its sweep chooses {', '.join(fields)}, and gave {', '.join(sorted(chosen)) or 'nothing'}"
        )
    return with_values(request.parameters, chosen)


def _cannot_be_trained(request: StepRequest, error: ValidationError) -> str:
    """What to say of values between the ends of a range that were drawn, and of which no training can be made."""
    chosen = read_hyperparameters(_laid_out(request, HYPERPARAMETERS)).values
    told = ", ".join(f"{field} {value:g}" for field, value in chosen.items())
    why = str(error.errors(include_url=False)[0]["msg"]).removeprefix("Value error, ")
    return f"{request.subject}: its sweep chose {told}, which cannot be trained: {why}. Search choices, or steps"


def _layout(request: StepRequest) -> NanotronLayout | None:
    """None where the torch backend trains; raises ``StepError`` for a backend that this engine does not have."""
    backend = request.parameters.get("backend", "torch")
    if backend not in ("torch", "nanotron"):
        raise StepError(f"{request.subject}: backend {backend!r} is unknown to this engine; expected torch or nanotron")
    return NanotronLayout.model_validate(request.settings.get("nanotron", {})) if backend == "nanotron" else None


def _trunk(request: StepRequest) -> tuple[Stretch, ...]:
    """The stretches that the parameters list; where one names no tokens, its rates are the same whatever they are."""
    own: dict[str, Any] = request.parameters["training"]
    inputs = {name: artifact.digest for name, artifact in request.inputs.items()}
    _, *runs = earlier_runs(request.parameters, own["tokens"])
    found = []
    for part, run in zip(request.parameters.get(TRUNK, ()), runs, strict=True):
        way = {name: value for name, value in part.items() if name != "steps"}
        whole = LargeTraining.model_validate({**own, "tokens": _ENDLESS, **way})
        lineage = lineage_of(request.step_version, run, inputs)
        found.append(Stretch(part["steps"], Way(whole.optimizer, whole.schedule, _whole_steps(whole)), lineage))
    return tuple(found)


def _whole_steps(training: LargeTraining) -> int:
    return optimizer_steps(training) * training.batch_tokens


def _share(part: dict[str, Any]) -> Share:
    most = part.get("max_epochs")
    return Share(exact(part["fraction"]), None if most is None else exact(most))


def _laid_out(request: StepRequest, name: str) -> Path:
    artifact = request.inputs.get(name)
    if artifact is None or artifact.path is None:
        raise StepError(f"{request.subject}: the request lays out no input {name!r}")
    return Path(artifact.path)


def _check_split(job: TrainJob) -> None:
    if job.training.sequence_length > job.architecture.max_position_embeddings:
        raise StepError(
            f"{job.subject}: training.sequence_length is {job.training.sequence_length}, but the model has "
            f"{job.architecture.max_position_embeddings} positions (max_position_embeddings); shorten it"
        )
    if job.nanotron is not None:
        reason = why_not_nanotron(job.architecture, job.training, job.nanotron, job.processes)
        if reason:
            raise StepError(f"{job.subject}: {reason}")
        return
    slices = job.training.parallelism.tensor
    if job.processes % slices:
        raise StepError(
            f"{job.subject}: {job.processes} processes are no multiple of training.parallelism.tensor ({slices}); "
            "change resources.count or the latter"
        )
    if slices > 1 and job.architecture.experts is not None:
        raise StepError(
            f"{job.subject}: training.parallelism.tensor ({slices}) cuts no experts, and the base is a mixture of "
            f"{job.architecture.experts.num_local_experts}; leave it at 1, and spread the data (fsdp2) instead"
        )
    if job.training.compile and job.training.precision != "bfloat16" and job.architecture.experts is not None:
        raise StepError(
            f"{job.subject}: training.compile compiles experts in bfloat16 alone, and training.precision is "
            f"{job.training.precision}: leave compile out"
        )
    for name in ("num_key_value_heads", "num_attention_heads", "intermediate_size"):
        if getattr(job.architecture, name) % slices:
            raise StepError(
                f"{job.subject}: {name} ({getattr(job.architecture, name)}) is no multiple of training.parallelism.tensor "
                f"({slices}): the model cannot be cut into so many equal slices"
            )
    if job.batch_sequences % job.copies:
        raise StepError(
            f"{job.subject}: a batch of {job.batch_sequences} sequences cannot be split over {job.copies} processes; "
            "make batch_tokens / sequence_length a multiple of resources.count"
        )
    if job.process_sequences % job.micro_batch_sequences:
        raise StepError(
            f"{job.subject}: the {job.process_sequences} sequences of one process and step are no multiple of "
            f"micro_batch_sequences ({job.micro_batch_sequences}); change one of them"
        )

"""One fine-tuning, from a request to weights: what the train step does where the objective is ``sft`` or ``dpo``."""

import os

# huggingface_hub reads these when it is first imported: a step asks nothing of a network, and tells it nothing.
os.environ.update({"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"})

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from tokenizers import Tokenizer

from forge.contract.control_tokens import ControlTokens
from forge.errors import StepError
from forge.plan.compute import (
    REFERENCE_FORMULA,
    flops_formula,
    flops_per_token,
    num_active_parameters,
    num_parameters,
    reference_flops_per_token,
)
from forge.spec.tuning import Adapter, CommittedChats, DpoSpec
from forge.steps.control_tokens import read_control_tokens
from forge.steps.finetune import preferences
from forge.steps.finetune.cleaning import Cleaning
from forge.steps.finetune.conversations import SYSTEM, Conversation, read_conversations, split
from forge.steps.finetune.examples import make_examples, read_order, read_tokenizer
from forge.steps.finetune.lesson import LOSS, Lesson
from forge.steps.finetune.model import merged_state, meta_of, model_to_train, trained_tensors
from forge.steps.finetune.pairs import make_pairs
from forge.steps.finetune.template import ChatTemplate
from forge.steps.finetune.trainer import Finetuning
from forge.steps.imports import quick_imports
from forge.steps.run import Metrics, StepRun
from forge.steps.train.allocator import memory_named
from forge.steps.train.data import TokensMeta
from forge.steps.train.distributed import open_world
from forge.steps.train.export import check_tokenizer, export_weights
from forge.steps.train.job import TrainJob
from forge.steps.train.served_tokenizer import check_served_tokenizer
from forge.steps.train.worker import make_deterministic

_LESS_MEMORY = "train an adapter, of a low rank (another one too)"


@dataclass(frozen=True)
class _Taught:
    """A lesson, the template that it was written with, and what is told of both."""

    lesson: Lesson
    template: ChatTemplate
    metrics: Metrics
    reference_tokens: int = 0
    """Tokens that the reference reads."""


def train(run: StepRun, job: TrainJob, meeting_point: Path | None = None) -> Metrics:
    """Fine-tune one rank's share; rank 0 writes events, checkpoints and the product ``weights``.

    ``meeting_point`` is the file where ranks under torchrun find each other, None for a single process on a CPU. Raises
    ``StepError`` for what a user can mend.
    """
    make_deterministic(job)
    adapter = _read_adapter(job)
    tokenizer = read_tokenizer(run.input("tokenizer"))
    meta = meta_of(tokenizer, read_control_tokens(run.input("tokenizer")), job.subject)
    check_tokenizer(run.input("tokenizer"), meta)
    check_served_tokenizer(run.input("tokenizer"), meta, job)
    rows = job.rows_for(meta.vocab_size)
    taught = _LESSONS[job.objective](run, job, tokenizer, meta)
    lesson = taught.lesson
    with memory_named(job.subject, _LESS_MEMORY), open_world(job.accelerator, job.processes, meeting_point) as world:
        model = model_to_train(job, meta, adapter).to(world.device)
        trained = sum(tensor.numel() for tensor in trained_tensors(model).values())
        outcome = Finetuning(job, world, model, rows, lesson, run).fit()
        state = merged_state(model, job)
        if world.is_main:
            run.stop.check()
            export_weights(run.product("weights"), state, job, meta, run.input("tokenizer"), taught.template.exported())
    tokens = lesson.num_tokens(0, lesson.num_rows * outcome.steps // job.total_steps)
    shape = (job.architecture, rows, job.training.sequence_length)
    formula = flops_formula(job.architecture)
    per_token, flops = flops_per_token(*shape), taught.reference_tokens * reference_flops_per_token(*shape)
    return {
        "train_loss": outcome.train_loss,
        **_measured("validation", outcome.now),
        **_measured("base_validation", outcome.base),
        "tokens": tokens,
        **taught.metrics,
        "parameters": num_parameters(job.architecture, rows),
        **({"active_parameters": num_active_parameters(job.architecture, rows)} if job.architecture.experts else {}),
        "trained_parameters": trained,
        "optimizer_steps": outcome.steps,
        "resumed_from_step": outcome.resumed_from_step,
        "tokens_per_second": outcome.tokens_per_second,
        "flops": float(per_token * tokens + flops),
        "flops_per_second": per_token * outcome.tokens_per_second,
        "flops_formula": f"{formula}, {REFERENCE_FORMULA}" if taught.reference_tokens else formula,
    }


def _conversations(run: StepRun, job: TrainJob, tokenizer: Tokenizer, meta: TokensMeta) -> _Taught:
    with quick_imports():  # TRL's trainers take seconds: only the one that is needed
        from forge.steps.finetune.sft import Answers

    cleaning = Cleaning(run, "conversations")
    control = read_control_tokens(run.input("tokenizer"))
    found = read_conversations(run.input("conversations"), run.sources("conversations"), control)
    conversations = cleaning.of_conversations(found)
    template = _template(job, conversations, control)
    parts = split(conversations, _held_out(job, "conversations"))
    limits = (job.training.sequence_length, meta.eos_token_id)
    examples, held_out = (make_examples(part, template, tokenizer, *limits) for part in (parts.train, parts.validation))
    order = read_order(len(examples), job.training.seed, job.total_steps * job.batch_sequences)
    return _Taught(
        Answers(examples, held_out, order, meta.eos_token_id, job.training.micro_batch_sequences),
        template,
        {
            "answer_tokens": sum(examples[index].num_answer_tokens for index in order),
            "conversations": len(examples),
            "validation_conversations": len(held_out),
            "control_tokens_neutralised": sum(each.neutralised for each in conversations),
            "epochs": len(order) / len(examples),
            **cleaning.metrics(),
        },
    )


def _preferences(run: StepRun, job: TrainJob, tokenizer: Tokenizer, meta: TokensMeta) -> _Taught:
    with quick_imports():
        from forge.steps.finetune.dpo import Comparisons

    fields = DpoSpec.model_fields
    beta, loss_type = (job.parameters.get(name, fields[name].default) for name in ("beta", "loss_type"))
    cleaning = Cleaning(run, "preferences")
    control = read_control_tokens(run.input("tokenizer"))
    said = preferences.read_preferences(run.input("preferences"), run.sources("preferences"), control)
    found = cleaning.of_preferences(said)
    template = _template(job, [each.chosen for each in found], control)
    parts = preferences.split(found, _held_out(job, "preferences"))
    limits = (job.training.sequence_length, meta.eos_token_id)
    pairs, held_out = (make_pairs(part, template, tokenizer, *limits) for part in (parts.train, parts.validation))
    size = Comparisons.sequences_of_a_row
    if job.process_sequences % size or job.micro_batch_sequences % size:
        raise StepError(
            f"{job.subject}: a batch of {job.batch_sequences} sequences over {job.topology} cannot be read in pairs of answers"
        )
    order = read_order(len(pairs), job.training.seed, job.total_steps * job.batch_sequences // size)
    micro_batch = job.micro_batch_sequences // size
    padding = meta.eos_token_id
    lesson = Comparisons(pairs, held_out, order, padding, micro_batch, beta=beta, loss_type=loss_type, subject=job.subject)
    return _Taught(
        lesson,
        template,
        {
            "answer_tokens": sum(pairs[index].num_answer_tokens for index in order),
            "pairs": len(pairs),
            "validation_pairs": len(held_out),
            "control_tokens_neutralised": sum(each.neutralised for each in found),
            "epochs": len(order) / len(pairs),
            **cleaning.metrics(),
        },
        lesson.num_reference_tokens,
    )


_LESSONS: Mapping[str, Callable[[StepRun, TrainJob, Tokenizer, TokensMeta], _Taught]] = {
    "sft": _conversations,
    "dpo": _preferences,
}


def _template(job: TrainJob, conversations: Sequence[Conversation], control: ControlTokens) -> ChatTemplate:
    with_system = any(each.messages[0].role == SYSTEM for each in conversations)
    return ChatTemplate(job.chat_template, with_system=with_system, subject=job.subject, control=control)


def _measured(of: str, found: Mapping[str, float]) -> Metrics:
    """What was measured, by the names of a record; rewards of a base are 0 by definition, so they are not told."""
    is_base = of == "base_validation"
    return {f"{of}_{name}": value for name, value in found.items() if name in (LOSS, "likelier_chosen") or not is_base}


def _held_out(job: TrainJob, chats: str) -> float:
    """The share of conversations or preferences that is held out."""
    default: float = CommittedChats.model_fields["validation_fraction"].default
    fraction: float = job.parameters.get(chats, {}).get("validation_fraction", default)
    return fraction


def _read_adapter(job: TrainJob) -> Adapter | None:
    given = job.parameters.get("adapter")
    try:
        return None if given is None else Adapter.model_validate(given)
    except ValidationError as error:
        raise StepError(f"{job.subject}: the request's adapter is none: {error}") from error

"""One fine-tuning, from a request to weights: what the train step does where the objective is ``sft``."""

import os

# huggingface_hub reads these when it is first imported: a step asks nothing of a network, and tells it nothing.
os.environ.update({"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"})

from pydantic import ValidationError

from forge.errors import StepError
from forge.plan.compute import flops_formula, flops_per_token, num_active_parameters, num_parameters
from forge.spec.model import Adapter, Conversations
from forge.steps.finetune.conversations import SYSTEM, read_conversations, split
from forge.steps.finetune.examples import make_examples, read_order, read_tokenizer
from forge.steps.finetune.model import merged_state, meta_of, model_to_train, trained_tensors
from forge.steps.finetune.template import ChatTemplate
from forge.steps.finetune.trainer import Finetuning
from forge.steps.run import Metrics, StepRun
from forge.steps.train.distributed import open_world
from forge.steps.train.export import check_tokenizer, export_weights
from forge.steps.train.job import TrainJob
from forge.steps.train.worker import make_deterministic


def train(run: StepRun, job: TrainJob) -> Metrics:
    """Fine-tune, and write the product ``weights``; raises ``StepError`` for what a user can mend."""
    make_deterministic(job)
    adapter, fraction = _read_parameters(job)
    conversations = read_conversations(run.input("conversations"))
    tokenizer = read_tokenizer(run.input("tokenizer"))
    meta = meta_of(tokenizer, job.subject)
    check_tokenizer(run.input("tokenizer"), meta)
    with_system = any(each.messages[0].role == SYSTEM for each in conversations)
    template = ChatTemplate(job.chat_template, with_system=with_system, subject=job.subject)
    parts = split(conversations, fraction)
    length = job.training.sequence_length
    examples = make_examples(parts.train, template, tokenizer, length, meta.eos_token_id)
    held_out = make_examples(parts.validation, template, tokenizer, length, meta.eos_token_id)
    order = read_order(len(examples), job.training.seed, job.total_steps * job.batch_sequences)
    with open_world(job.accelerator, job.processes, None) as world:
        model = model_to_train(job, meta, adapter).to(world.device)
        trained = sum(tensor.numel() for tensor in trained_tensors(model).values())
        finetuning = Finetuning(job, world, model, examples, held_out, order, meta, run)
        outcome = finetuning.fit()
        run.stop.check()
        state = merged_state(model, job)
    export_weights(run.product("weights"), state, job, meta, run.input("tokenizer"), template.exported())
    read = [examples[index] for index in order]
    tokens = sum(len(each.input_ids) for each in read)
    per_token = flops_per_token(job.architecture, meta.vocab_size, length)
    return {
        "train_loss": outcome.train_loss,
        "validation_loss": outcome.validation_loss,
        "base_validation_loss": outcome.base_validation_loss,
        "tokens": tokens,
        "answer_tokens": sum(each.num_answer_tokens for each in read),
        "conversations": len(examples),
        "validation_conversations": len(held_out),
        "control_tokens_neutralised": sum(each.neutralised for each in conversations),
        "epochs": len(order) / len(examples),
        "parameters": num_parameters(job.architecture, meta.vocab_size),
        **({"active_parameters": num_active_parameters(job.architecture, meta.vocab_size)} if job.architecture.experts else {}),
        "trained_parameters": trained,
        "optimizer_steps": job.total_steps,
        "resumed_from_step": outcome.resumed_from_step,
        "tokens_per_second": outcome.tokens_per_second,
        "flops": float(per_token * tokens),
        "flops_per_second": per_token * outcome.tokens_per_second,
        "flops_formula": flops_formula(job.architecture),
    }


def _read_parameters(job: TrainJob) -> tuple[Adapter | None, float]:
    """The adapter, and the share of conversations that is held out."""
    if job.processes != 1:
        raise StepError(f"{job.subject}: fine-tuning runs in one process, the request asks for {job.processes}")
    default: float = Conversations.model_fields["validation_fraction"].default
    given, conversations = job.parameters.get("adapter"), job.parameters.get("conversations", {})
    try:
        return None if given is None else Adapter.model_validate(given), conversations.get("validation_fraction", default)
    except ValidationError as error:
        raise StepError(f"{job.subject}: the request's adapter is none: {error}") from error

"""A training in nanotron's own YAML, whose reader refuses what it does not know.

Invariant: what nanotron takes from the file is what the spec says. Where its form cannot say it, Forge sets it on the trainer
and the file holds the nearest value: the schedule (whole steps here, the middle of a step's tokens there), weight decay
(nanotron knows one for all; ``engine`` exempts norms and embeddings), and where data and checkpoints lie (both are Forge's).
"""

import math
from typing import Any

import yaml

from forge.spec.nanotron import NanotronLayout
from forge.spec.training import Optimizer, WsdSchedule
from forge.steps.train.data import TokensMeta
from forge.steps.train.job import TrainJob


def nanotron_yaml(job: TrainJob, meta: TokensMeta) -> str:
    """The file, sorted by name: the same text for the same training."""
    text: str = yaml.safe_dump(nanotron_config(job, meta), sort_keys=True)
    return text


def nanotron_config(job: TrainJob, meta: TokensMeta) -> dict[str, Any]:
    """The sections of ``nanotron.config.Config``."""
    training, layout = job.training, job.nanotron or NanotronLayout()
    accumulated = job.process_sequences // job.micro_batch_sequences
    bfloat16 = training.precision == "bfloat16"
    beta1, beta2 = training.optimizer.betas
    return {
        "general": {
            "project": "forge",
            "run": f"{job.subject}-{job.key.removeprefix('sha256:')[:16]}",
            "seed": training.seed % 2**32,  # numpy's limit; nothing is drawn from it
            "ignore_sanity_checks": True,
        },
        "parallelism": {
            "dp": job.copies,
            "tp": layout.tensor_parallel,
            "pp": layout.pipeline_parallel,
            "pp_engine": "1f1b" if accumulated >= layout.pipeline_parallel else "afab",
            "tp_mode": "ALL_REDUCE",
            "tp_linear_async_communication": False,
        },
        "model": {
            "dtype": training.precision,
            "init_method": {"std": job.architecture.initializer_range},
            "make_vocab_size_divisible_by": 1,
            "model_config": _model_config(job, meta),
        },
        "tokenizer": {"tokenizer_name_or_path": None},
        "tokens": {
            "sequence_length": training.sequence_length,
            "train_steps": job.total_steps,
            "micro_batch_size": job.micro_batch_sequences,
            "batch_accumulation_per_replica": accumulated,
        },
        "optimizer": {
            "zero_stage": 0,
            "weight_decay": training.optimizer.weight_decay,
            "clip_grad": clip_norm(training.optimizer),
            "accumulate_grad_in_fp32": bfloat16,
            "adam_eps": training.optimizer.eps,
            "adam_beta1": beta1,
            "adam_beta2": beta2,
            "torch_adam_is_fused": True,
            "learning_rate_scheduler": _schedule(job),
        },
        "logging": {"log_level": "error", "log_level_replica": "error", "iteration_step_info_interval": 1},
    }


def clip_norm(settings: Optimizer) -> float:
    """The largest norm of a gradient: without a limit nanotron computes none, and it says whether the gradient is finite."""
    return math.inf if settings.gradient_clip_norm is None else settings.gradient_clip_norm


def _model_config(job: TrainJob, meta: TokensMeta) -> dict[str, Any]:
    architecture = job.architecture
    return {
        "is_llama_config": True,
        "bos_token_id": meta.bos_token_id,
        "eos_token_id": meta.eos_token_id,
        "hidden_act": "silu",
        "hidden_size": architecture.hidden_size,
        "initializer_range": architecture.initializer_range,
        "intermediate_size": architecture.intermediate_size,
        "max_position_embeddings": job.training.sequence_length,  # nanotron would set it so itself
        "num_attention_heads": architecture.num_attention_heads,
        "num_hidden_layers": architecture.num_hidden_layers,
        "num_key_value_heads": architecture.num_key_value_heads,
        "pad_token_id": None,
        "rms_norm_eps": architecture.rms_norm_eps,
        "rope_scaling": None,
        "tie_word_embeddings": architecture.tie_word_embeddings,
        "use_cache": True,
        "vocab_size": meta.vocab_size,
    }


def _schedule(job: TrainJob) -> dict[str, Any]:
    """The schedule in whole steps."""
    schedule, batch, rate = job.training.schedule, job.training.batch_tokens, job.training.optimizer.lr
    warmup = round(schedule.warmup_tokens / batch)
    is_wsd = isinstance(schedule, WsdSchedule)
    decay = round(schedule.decay_tokens / batch) if isinstance(schedule, WsdSchedule) else job.total_steps - warmup
    return {
        "learning_rate": rate,
        "lr_warmup_steps": warmup,
        "lr_warmup_style": "linear",
        "lr_decay_style": "linear" if is_wsd else "cosine",
        "lr_decay_steps": decay,
        "lr_decay_starting_step": job.total_steps - decay,
        "min_decay_lr": rate * schedule.final_lr_fraction,
    }

"""Every field of every kind: change it, and exactly the steps change that its declared meaning says.

The pydantic models are walked, so a field that is added later fails here until the table says how to change it.
"""

import copy
import re
import types
import typing
from typing import Any

import pytest
from pydantic import BaseModel
from tests.plan.full import (
    DIMENSIONS,
    LATER,
    MIXTURE,
    REMOTE,
    ROPES,
    ROUNDS,
    desired_from,
    full_documents,
    nanotron_documents,
    own_keys,
)

from forge.plan.desired import Desired
from forge.plan.graph import build_graph
from forge.spec.compiled import read_facts
from forge.spec.fields import name_in_yaml
from forge.spec.meaning import EXTEND, GOVERN, NONE, REBUILD, RELOAD, Meaning, meanings_of
from forge.spec.resource import NEVER_SUSPENDED, RESOURCE_TYPES

OWN_STEP = {
    ("DataRecipe", REBUILD): {"curate/a"},
    ("Tokenizer", REBUILD): {"tokenizer/a"},
    ("Model", REBUILD): {"train/a"},
    ("Model", EXTEND): {"train/a"},
    ("EvalSuite", REBUILD): {"evaluate/a.a"},
    ("InferencePolicy", RELOAD): {"release/a"},
    ("Deployment", REBUILD): {"gate/a"},
    ("Deployment", RELOAD): {"release/a"},
    ("Withdrawals", GOVERN): set(),
}
"""The step that a change to a field of this meaning gives another key."""

SAME_FOR_ALL = {
    "metadata.previous_name": "older",
    "metadata.owners": ["others"],
    "metadata.labels": {"tier": "2"},
    "metadata.annotations": {"forge/suspend": "true"},
    "metadata.description": "other",
    "metadata.protect": True,
}
QUALITY = "spec.filters.gopher_quality."
REPETITION = "spec.filters.gopher_repetition."
PRETRAINED, CONTINUED, TUNED = "spec{PretrainSpec}.", "spec{ContinueSpec}.", "spec{SftSpec}."
EXPERTS = PRETRAINED + "architecture.experts."
PREFERRED = "spec{DpoSpec}."
OBJECTIVES = (PRETRAINED, CONTINUED, TUNED, PREFERRED)


def of_each_objective(changes: dict[str, Any]) -> dict[str, Any]:
    """The same change in the body of each objective."""
    return {objective + path: value for objective in OBJECTIVES for path, value in changes.items()}


def of_each_chat() -> dict[str, Any]:
    """Changes of the bodies that learn from files of people's words."""
    changes = {
        "base{ModelBase}.model": "Model/a",
        "base{FolderBase}.path": "models/other",
        "base{FolderBase}.license": "CC-BY-4.0",
        "base{FolderBase}.origin": "elsewhere",
        "CHATS.path": "chats/other/*.jsonl",
        "CHATS.order": "content",
        "CHATS.license": "CC-BY-4.0",
        "CHATS.origin": "elsewhere",
        "CHATS.validation_fraction": 0.3,
        "CHATS.regions": ["eu"],
        **{f"CHATS.pii.{kind}": True for kind in ("emails", "ip_addresses", "ibans", "credit_cards", "phone_numbers")},
        "CHATS.pii.phone_regions": ["DE"],
        "CHATS.decontaminate_against": ["EvalSuite/b"],
        "CHATS.decontamination_ngram": 12,
        "CHATS.edition": 2,
        "adapter.lora.rank": 4,
        "adapter.lora.alpha": 4.0,
        "adapter.lora.dropout": 0.2,
        "adapter.lora.targets": ["q_proj", "down_proj"],
    }
    names = {TUNED: "conversations", PREFERRED: "preferences"}
    return {body + path.replace("CHATS", name): value for body, name in names.items() for path, value in changes.items()}


ROUND, ROLE = "spec.rounds[].", "spec.roles[*]."
TPE, RANDOM, GRID = (f"{ROUND}sampler{{{name}}}." for name in ROUNDS)
_KEY = """-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEA6kpsY+KcUgq+9VB7Ey7F+ZVHdq6+vnuSQh7qaRRG0iw=
-----END PUBLIC KEY-----
"""
LANGUAGE, C4, FINEWEB = "spec.filters.language.", "spec.filters.c4_quality.", "spec.filters.fineweb_quality."
CHANGES: dict[str, dict[str, Any]] = {
    "DataRecipe": {
        "spec.regions": ["eu", "us"],
        "spec.sources[].regions": ["us"],
        "spec.sources[].git.url": "ssh://git@example.org/moved.git",
        "spec.sources[].git.commit": "2" * 40,
        "spec.sources[].git.include": ["**/*.rs"],
        "spec.sources[].git.exclude": [],
        "spec.sources[].git.max_bytes": "2M",
        "spec.sources[].files[].url": "s3://bucket/b.jsonl",
        "spec.sources[].files[].sha256": "2" * 64,
        "spec.sources[].files[].format": "jsonl",
        "spec.sources[].files[].max_bytes": "2M",
        "spec.sources[].url_key": "link",
        "spec.sources[].license_key": "terms",
        "spec.allow_licenses": ["CC-BY-4.0", "MIT"],
        "spec.decontaminate_against": ["EvalSuite/a", "EvalSuite/b"],
        "spec.decontamination_ngram": 12,
        "spec.edition": 2,
        LANGUAGE + "allow": ["de"],
        LANGUAGE + "min_score": 0.7,
        C4 + "remove_citations": False,
        C4 + "require_terminal_punctuation": False,
        C4 + "min_sentences": None,
        C4 + "min_words_per_line": 4,
        C4 + "max_word_length": 999,
        C4 + "drop_lorem_ipsum": False,
        C4 + "drop_curly_brackets": False,
        C4 + "remove_javascript_lines": False,
        C4 + "remove_policy_lines": False,
        FINEWEB + "min_punctuated_lines_ratio": 0.13,
        FINEWEB + "allow_no_punctuated_line": True,
        FINEWEB + "max_short_lines_ratio": 0.68,
        FINEWEB + "short_line_characters": 31,
        FINEWEB + "max_duplicate_characters_ratio": 0.1,
        FINEWEB + "max_lines_to_words_ratio": 0.31,
        "spec.dedup.url": True,
        "spec.pii.ibans": True,
        "spec.pii.credit_cards": True,
        "spec.sources[].path": "corpus/b/*.jsonl",
        "spec.sources[].order": "content",
        "spec.sources[].text_key": "content",
        "spec.sources[].id_key": "number",
        "spec.sources[].license": "MIT",
        "spec.sources[].origin": "elsewhere",
        QUALITY + "min_doc_words": 52,
        QUALITY + "max_doc_words": 99_998,
        QUALITY + "min_avg_word_length": 3.2,
        QUALITY + "max_avg_word_length": 10.2,
        QUALITY + "max_symbol_word_ratio": None,
        QUALITY + "max_bullet_lines_ratio": 0.92,
        QUALITY + "max_ellipsis_lines_ratio": 0.32,
        QUALITY + "max_non_alpha_words_ratio": 0.82,
        QUALITY + "min_stop_words": 4,
        REPETITION + "dup_line_fraction": 0.32,
        REPETITION + "dup_paragraph_fraction": 0.32,
        REPETITION + "dup_line_character_fraction": 0.22,
        REPETITION + "dup_paragraph_character_fraction": None,
        REPETITION + "top_n_grams[].n": 3,
        REPETITION + "top_n_grams[].max_fraction": 0.22,
        REPETITION + "dup_n_grams[].n": 6,
        REPETITION + "dup_n_grams[].max_fraction": 0.17,
        "spec.dedup.exact": False,
        "spec.dedup.minhash.ngram": 7,
        "spec.dedup.minhash.buckets": 16,
        "spec.dedup.minhash.hashes_per_bucket": 10,
        "spec.pii.emails": False,
        "spec.pii.ip_addresses": False,
        "spec.pii.phone_numbers": False,
        "spec.pii.phone_regions": ["DE"],
        "spec.split.validation_fraction": 0.2,
        "spec.split.seed": 2,
    },
    "Tokenizer": {
        "spec.data": "DataRecipe/b",
        "spec.algorithm": "bpe",
        "spec.vocab_size": "2k",
        "spec.character_coverage": 1.0,
        "spec.split_digits": True,
    },
    "Model": {
        PRETRAINED + "data": "DataRecipe/b",
        PRETRAINED + "tokenizer": "Tokenizer/b",
        PRETRAINED + "training.intra_document_masking": False,
        CONTINUED + "training.intra_document_masking": False,
        EXPERTS + "num_local_experts": 8,
        EXPERTS + "num_experts_per_tok": 3,
        EXPERTS + "router_aux_loss_coef": 0.03,
        PRETRAINED + "architecture.family": "mixtral",
        PRETRAINED + "architecture.hidden_size": 128,
        PRETRAINED + "architecture.num_hidden_layers": 3,
        PRETRAINED + "architecture.num_attention_heads": 8,
        PRETRAINED + "architecture.num_key_value_heads": 4,
        PRETRAINED + "architecture.intermediate_size": 256,
        PRETRAINED + "architecture.max_position_embeddings": 512,
        PRETRAINED + "architecture.rope_theta": 30000.0,
        PRETRAINED + "architecture.head_dim": 48,
        PRETRAINED + "architecture.rms_norm_eps": 1e-5,
        **{
            f"{PRETRAINED}architecture.rope_scaling{{{kind}}}.{name}": value
            for kind, fields in {
                "LinearRope": {"rope_type": ROPES["Llama3Rope"], "factor": 4.0},
                "Llama3Rope": {
                    "rope_type": ROPES["YarnRope"],
                    "factor": 4.0,
                    "low_freq_factor": 2.0,
                    "high_freq_factor": 8.0,
                    "original_max_position_embeddings": 64,
                },
                "YarnRope": {
                    "rope_type": ROPES["LinearRope"],
                    "factor": 4.0,
                    "original_max_position_embeddings": 64,
                    "attention_factor": 1.5,
                    "beta_fast": 16.0,
                    "beta_slow": 2.0,
                    "mscale": 1.5,
                    "mscale_all_dim": 1.5,
                    "truncate": False,
                },
            }.items()
            for name, value in fields.items()
        },
        PRETRAINED + "architecture.initializer_range": 0.02,
        PRETRAINED + "architecture.tie_word_embeddings": False,
        **of_each_objective(
            {
                "training.tokens": "3M",
                "training.sequence_length": 256,
                "training.batch_tokens": 16384,
                "training.micro_batch_sequences": 32,
                "training.optimizer.lr": 0.001,
                "training.optimizer.betas": [0.8, 0.95],
                "training.optimizer.eps": 1e-8,
                "training.optimizer.weight_decay": 0.1,
                "training.optimizer.gradient_clip_norm": None,
                "training.schedule{WsdSchedule}.name": {"name": "cosine", "warmup_tokens": "100k"},
                "training.schedule{WsdSchedule}.warmup_tokens": "200k",
                "training.schedule{WsdSchedule}.decay_tokens": "600k",
                "training.schedule{WsdSchedule}.final_lr_fraction": 0.2,
                "training.schedule{CosineSchedule}.name": {"name": "wsd", "warmup_tokens": "100k", "decay_tokens": 0},
                "training.schedule{CosineSchedule}.warmup_tokens": "200k",
                "training.schedule{CosineSchedule}.final_lr_fraction": 0.2,
                "training.precision": "float32",
                "training.seed": 18,
                "training.validate_every_tokens": None,
                "training.checkpoint_every_tokens": 100_000,
                "training.max_loss_rise": None,
                "resources.accelerator": "cuda",
                "chat_template": "{{ other }}{% generation %}{% endgeneration %}",
            }
        ),
        **{objective + "resources.count": 1 for objective in (PRETRAINED, CONTINUED)},
        **{objective + "resources.count": 2 for objective in (TUNED, PREFERRED)},
        **{
            objective + path: value
            for objective in (PRETRAINED, CONTINUED)
            for path, value in {
                "training.parallelism.data": "fsdp2",
                "training.parallelism.tensor": 2,
                "training.activation_checkpointing": True,
                "training.compile": True,
            }.items()
        },
        **of_each_objective({"sweep": "Sweep/b"}),
        **of_each_chat(),
        PREFERRED + "beta": 0.3,
        PREFERRED + "loss_type": "hinge",
        PRETRAINED + "backend": "torch",
        PRETRAINED + "nanotron.tensor_parallel": 2,
        PRETRAINED + "nanotron.pipeline_parallel": 2,
        PRETRAINED + "mixture[].data": "DataRecipe/c",
        PRETRAINED + "mixture[].fraction": 0.5,
        PRETRAINED + "mixture[].max_epochs": 3.0,
        PRETRAINED + "from.model": "Model/z",
        PRETRAINED + "from.step": 2,
        CONTINUED + "base{ModelBase}.model": "Model/a",
        CONTINUED + "base{FolderBase}.path": "models/other",
        CONTINUED + "base{FolderBase}.license": "CC-BY-4.0",
        CONTINUED + "base{FolderBase}.origin": "elsewhere",
        CONTINUED + "data": "DataRecipe/b",
        CONTINUED + "replay.data": "DataRecipe/b",
        CONTINUED + "replay.fraction": 0.5,
    },
    "EvalSuite": {
        "spec.include": ["evals/b/*"],
        "spec.tasks": ["one", "two", "three"],
        "spec.num_fewshot": 2,
        "spec.seed": 6,
        "spec.batch_size": 16,
        "spec.bootstrap_iters": 0,
    },
    "Sweep": {
        "spec.objective.suite": "EvalSuite/a",
        "spec.objective.task": "one",
        "spec.objective.metric": "f1",
        "spec.objective.direction": "minimize",
        ROUND + "trials": 4,
        TPE + "name": {"name": "random"},
        TPE + "seed": 9,
        TPE + "startup_trials": 3,
        TPE + "ei_candidates": 13,
        TPE + "multivariate": True,
        TPE + "trials_at_once": 1,
        RANDOM + "name": {"name": "tpe"},
        RANDOM + "seed": 9,
        GRID + "name": {"name": "random"},
        ROUND + "space[*].choices": [0.001, 0.003],
        ROUND + "space[*].low": 0.002,
        ROUND + "space[*].high": 0.02,
        ROUND + "space[*].log": False,
        ROUND + "space[*].step": 0.002,
        "spec.trial": {"training.tokens": "1500k"},
    },
    "InferencePolicy": {
        "spec.roles[].name": "writer",
        "spec.roles[].keys": ["env:OTHER"],
        "spec.roles[].limits.max_tokens": 64,
        "spec.roles[].limits.requests_per_minute": 30,
        "spec.roles[].limits.max_prompt_characters": 2000,
        "spec.roles[].limits.max_temperature": 0.5,
        "spec.roles[].limits.max_n": 1,
        "spec.roles[].parameters": ["stream", "seed"],
        "spec.access": '@id("all")\npermit (principal, action == Action::"chat", resource);',
        "spec.redactions[].name": "numbers",
        "spec.redactions[].pattern": "[0-9]{5}",
        "spec.redactions[].replacement": "*",
    },
    "Deployment": {
        "spec.environment": "staging",
        "spec.model": "Model/b",
        "spec.policy": "InferencePolicy/b",
        "spec.gates[].suite": "EvalSuite/b",
        "spec.gates[].thresholds[].task": "two",
        "spec.gates[].thresholds[].metric": "f1",
        "spec.gates[].thresholds[].min": 0.6,
        "spec.gates[].thresholds[].max": 0.9,
        "spec.engine.dtype": "bfloat16",
        "spec.engine.max_model_len": None,
        "spec.engine.max_num_seqs": 32,
        "spec.engine.kv_cache_gib": 1,
    },
    "People": {
        "spec.people[].name": "anabel",
        "spec.people[].keys[].public": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ2Lz6ZBqtq2rTwz8mYG0wHCLs1cXRWTVQ8kZoDCbSnJ",
        "spec.people[].keys[].valid_from": "2026-02-01T00:00:00Z",
        "spec.people[].keys[].valid_until": None,
        "spec.people[].keys[].revoked": None,
    },
    "SupplyChain": {
        ROLE + "steps": ["release", "sweep"],
        ROLE + "threshold": 2,
        ROLE + "keys[].name": "releaser-2",
        ROLE + "keys[].public": _KEY,
        ROLE + "keys[].valid_from": "2026-02-01T00:00:00Z",
        ROLE + "keys[].valid_until": "2027-02-01T00:00:00Z",
        ROLE + "keys[].revoked": "2026-06-01T00:00:00Z",
        ROLE + "keys[].holder": "ana",
        "spec.approvers": ["ben", "ana"],
        "spec.separation_of_duties": [["trainer", "approver"]],
        "spec.release.approvals": {"prod": 0},
        "spec.release.approvals_cover": "model",
        "spec.release.evaluations[].suite": "EvalSuite/b",
        "spec.release.licenses": None,
        "spec.release.preregistered": True,
        "spec.plans.approvals": 0,
        "spec.plans.above_cost": None,
        "spec.shapes": ["pretrain", "continue"],
        "spec.timestamps": "optional",
        "spec.expires": "2029-01-01T00:00:00Z",
    },
    "Withdrawals": {
        "spec.withdrawn[].subject": "Model/c",
        "spec.withdrawn[].reason": "another",
        "spec.withdrawn[].serving": "stop",
    },
}
"""Kind -> field -> another value than the one in tests/plan/full.py."""

ONE_VALUE = {
    *((kind, name) for kind in RESOURCE_TYPES for name in ("apiVersion", "kind")),
    ("DataRecipe", "spec.language"),
    *(("Model", path) for path in of_each_objective(dict.fromkeys(("objective", "training.optimizer.name")))),
}
"""Fields that have one value so far: there is nothing to change them to."""

CHOICES = {f"sweep/i.{number}" for number in (1, 2, 3)}
"""Those of the first round of ``Sweep/a``, for ``Model/i``; the last two of them know figures of trials before."""
LEARNT = {"sweep/i.2", "sweep/i.3", "sweep/i"}
SEARCHES: dict[str, set[str]] = {
    "spec.objective.suite": LEARNT | {f"evaluate/i.{number}.{suite}" for number in range(8) for suite in "ac"},
    **{f"spec.objective.{name}": LEARNT for name in ("task", "metric", "direction")},
    ROUND + "trials": {"train/i.8", "evaluate/i.8.c", "sweep/i", *(f"sweep/i.{number}" for number in range(4, 9))},
    **{path: CHOICES for path in CHANGES["Sweep"] if path.startswith((ROUND + "sampler", ROUND + "space"))},
    RANDOM + "name": {"sweep/i.1"},
    RANDOM + "seed": {"sweep/i.1"},
    "spec.trial": {f"train/i.{number}" for number in range(8)},
}
"""The steps that a field of a sweep gives another key: of one more trial in the first round, all numbers after it."""


def of_a_search(model: str) -> set[str]:
    """What another sweep of other fields, with two trials, is to a model: but for evaluations, all that it had and has."""
    numbers = [f".{number}" for number in range(8)]
    chosen = {f"{kind}/{model}{number}" for kind in ("sweep", "train") for number in ("", *numbers)}
    return chosen | {f"evaluate/{model}{number}.c" for number in numbers[3:]}


MOVES_STEPS = {
    **{("Sweep", path): steps for path, steps in SEARCHES.items()},
    **{("Model", objective + "sweep"): of_a_search(name) for objective, name in zip(OBJECTIVES, "aceg", strict=True)},
    ("Model", PRETRAINED + "data"): {"tokenize/b.a", "train/a"},
    ("Model", PRETRAINED + "tokenizer"): {"tokenize/a.b", "train/a"},
    ("Model", PRETRAINED + "mixture[].data"): {"tokenize/b.a", "train/a"},
    ("Model", CONTINUED + "data"): {"tokenize/b.a", "tokenize/c.a", "train/c"},
    ("Model", CONTINUED + "replay.data"): {"tokenize/b.a", "tokenize/d.a", "train/c"},
    ("Model", CONTINUED + "base{FolderBase}.path"): {"tokenize/c.base.d", "train/d"},
    ("Deployment", "spec.model"): {"evaluate/a.a", "evaluate/b.a", "gate/a", "release/a"},
    ("Deployment", "spec.gates[].suite"): {"evaluate/a.a", "evaluate/a.b", "gate/a"},
}
"""References that name other steps, so that steps of that name come and go with them; Model/b keeps asking for tokenize/a."""

TRAVELS_BESIDE = {
    *(
        ("Model", path)
        for path in (
            *of_each_objective(dict.fromkeys(("training.validate_every_tokens", "training.checkpoint_every_tokens"))),
            *of_each_objective(dict.fromkeys(("training.max_loss_rise", "resources.accelerator", "resources.count"))),
            *(
                objective + path
                for objective in (PRETRAINED, CONTINUED)
                for path in (
                    "training.parallelism.data",
                    "training.parallelism.tensor",
                    "training.activation_checkpointing",
                    "training.compile",
                )
            ),
            PRETRAINED + "nanotron.tensor_parallel",
            PRETRAINED + "nanotron.pipeline_parallel",
        )
    ),
    *(("DataRecipe", f"spec.sources[].{part}") for part in ("git.url", "git.max_bytes", "files[].url", "files[].max_bytes")),
}
"""Fields of meaning NONE that reach the step all the same."""

KEPT_BESIDE = {
    ("Model", PRETRAINED + "from.step"): {"train/y"},
    ("Model", PRETRAINED + "from.model"): {"train/y", "train/z"},
}
"""Fields that tell other steps to keep something; their identity is as it was."""


def leaves(annotation: Any, path: str, meaning: Meaning | None) -> typing.Iterator[tuple[str, Meaning | None]]:
    """Every field below a type that holds no further fields."""
    models = _models(annotation)
    if not models:
        yield path, meaning
    for model in models:
        branch = f"{path}{{{model.__name__}}}" if len(models) > 1 else path
        branch += {list: "[]", dict: "[*]"}.get(_of_many(annotation), "")
        for attribute, info in model.model_fields.items():
            name = name_in_yaml(attribute, info)
            yield from leaves(info.annotation, f"{branch}.{name}" if branch else name, meanings_of(model)[name])


def _plain(annotation: Any) -> Any:
    return typing.get_args(annotation)[0] if typing.get_origin(annotation) is typing.Annotated else annotation


def _of_many(annotation: Any) -> Any:
    """``list`` or ``dict`` where it is one of parts, even one that may be left out."""
    found = [typing.get_origin(_plain(each)) for each in (annotation, *typing.get_args(_plain(annotation)))]
    return next((origin for origin in found if origin in (list, dict)), None)


def _models(annotation: Any) -> list[type[BaseModel]]:
    annotation = _plain(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, list, dict):
        return [model for argument in typing.get_args(annotation) for model in _models(argument)]
    return []


FIELDS = {(kind, path): meaning for kind, model in RESOURCE_TYPES.items() for path, meaning in leaves(model, "", None)}


NAMES = {CONTINUED: "cd", TUNED: "ef", PREFERRED: "gh"}
"""Body -> the models that have it, with a model as their base and with a folder."""


def name_at(path: str) -> str:
    """The resource that has a field: ``a``, but for the fields of models with a base."""
    names = next((found for body, found in NAMES.items() if path.startswith(body)), "aa")
    return names["{FolderBase}" in path]


def changed(kind: str, path: str, value: Any) -> tuple[Any, Any]:
    """Desired state before and after one field of a resource takes another value."""
    if path == "metadata.annotations" and kind in NEVER_SUSPENDED:
        value = {"note": "other"}
    nanotron = kind == "Model" and path.startswith((PRETRAINED + "backend", PRETRAINED + "nanotron"))
    documents = nanotron_documents() if nanotron else full_documents()
    document = documents[f"{kind}/{name_at(path)}"]
    if nanotron and path.endswith("backend"):
        del document["spec"]["nanotron"]
    if kind == "Deployment":  # it may leave the suite that the supply chain would ask for
        documents["SupplyChain/a"]["spec"]["release"]["evaluations"] = []
    if path == "spec.release.evaluations[].suite":  # what the supply chain asks for has to be there
        gates = documents["Deployment/a"]["spec"]["gates"]
        gates.append({**gates[0], "suite": value})
    if "{CosineSchedule}" in path:
        document["spec"]["training"]["schedule"] = {"name": "cosine", "warmup_tokens": "100k", "final_lr_fraction": 0.3}
    for part, written in LATER.get(kind, {}).items():
        if re.sub(r"\{\w+\}", "", path).startswith(part):
            _place(document, part.split("."))[part.rsplit(".", 1)[1]] = copy.deepcopy(written)
    if "training.parallelism" in path:
        document["spec"]["training"]["parallelism"] = {}
    for part, source in REMOTE.items():
        if path.startswith(f"spec.sources[].{part}"):
            document["spec"]["sources"] = [copy.deepcopy(source)]
    if path.startswith(PRETRAINED + "mixture"):
        document["spec"]["mixture"] = copy.deepcopy(MIXTURE)
    for kind_of_rope, rope in ROPES.items():
        if f"{{{kind_of_rope}}}" in path:
            document["spec"]["architecture"]["rope_scaling"] = copy.deepcopy(rope)
    if path.startswith(PRETRAINED + "from"):  # what is branched from is like it, but for its rates
        for name, rate in (("y", 1.0e-3), ("z", 2.0e-3)):
            other = copy.deepcopy(document)
            other["metadata"] = {"name": name}
            other["spec"]["training"]["optimizer"] = {"lr": rate}
            documents[f"Model/{name}"] = other
        document["spec"]["from"] = {"model": "Model/y", "step": 1}
    for sampler, part in ROUNDS.items():
        if path.startswith(f"{ROUND}sampler{{{sampler}}}"):
            document["spec"]["rounds"] = [copy.deepcopy(part)]
    if path.startswith(ROUND + "space[*]"):
        way = path.rpartition(".")[2]
        document["spec"]["rounds"][0]["space"]["training.optimizer.lr"] = copy.deepcopy(DIMENSIONS.get(way, DIMENSIONS["log"]))
    if kind == "Model" and path.endswith("}.sweep"):
        document["spec"]["sweep"] = "Sweep/a"
    if path == ROLE + "threshold":  # two people to meet it, for a role that releases nothing
        roles = document["spec"]["roles"]
        key = roles["releaser"]["keys"][0]
        roles["evaluator"] = {
            **roles.pop("evaluator"),
            "keys": [{**key, "name": name, "holder": name} for name in ("ana", "ben")],
        }
    if path.endswith("s.pii.phone_regions"):  # of conversations and preferences: the recipe has phone_numbers
        _place(document, re.sub(r"\{\w+\}", "", path).split(".")[:-1])["pii"] = {"phone_numbers": True}
    if path == "spec.dedup.url":
        document["spec"]["sources"][0]["url_key"] = "url"
    if path.startswith(PRETRAINED + "architecture"):  # only a mixtral has experts
        document["spec"]["architecture"]["family"] = "mixtral" if path.startswith(EXPERTS) else "llama"
    before = desired_from(documents)
    *parents, last = re.sub(r"\{\w+\}", "", path).replace("[", ".[").split(".")
    place: Any = document
    for part in parents:
        around, at = place, {"[]": 0, "[*]": [*place][-1]}.get(part, part)
        place = place[at] if part != at else place.setdefault(part, {})
    if isinstance(value, dict) and last == "name":  # another branch of a union
        around[parents[-1]] = value
        if path == GRID + "name":  # no other sampler counts its trials
            around["trials"] = 3
    elif last == "rope_type":
        document["spec"]["architecture"]["rope_scaling"] = value
    else:
        place[last] = value
    if path.endswith("architecture.family"):
        place["experts"] = copy.deepcopy(LATER["Model"]["spec.architecture.experts"])
    if path.endswith(("thresholds[].max", "thresholds[].min")):
        place.pop("min" if last == "max" else "max", None)  # a threshold has one bound
    return before, desired_from(documents)


def _place(document: Any, parts: list[str]) -> Any:
    for part in parts[:-1]:
        document = document[part]
    return document


def differing(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    return {name for name in before | after if before.get(name) != after.get(name)}


def test_the_table_has_every_field() -> None:
    listed = {(kind, path) for kind, paths in CHANGES.items() for path in paths}
    listed |= {(kind, path) for kind in RESOURCE_TYPES for path in SAME_FOR_ALL}
    named = {(kind, "metadata.name") for kind in RESOURCE_TYPES}
    assert set(FIELDS) == listed | ONE_VALUE | named
    for kind, path in ONE_VALUE:
        assert len(typing.get_args(_annotation_of(RESOURCE_TYPES[kind], path))) == 1, f"{kind}.{path} has other values now"


def _annotation_of(model: Any, path: str) -> Any:
    for part in path.split("."):
        name, _, branch = part.removesuffix("}").partition("{")
        annotation = model.model_fields[name].annotation
        model = next((each for each in _models(annotation) if branch in ("", each.__name__)), None)
    return annotation


@pytest.mark.parametrize(
    ("kind", "path"), sorted(set(FIELDS) - ONE_VALUE - {(kind, "metadata.name") for kind in RESOURCE_TYPES})
)
def test_a_changed_field_does_what_it_declares(kind: str, path: str) -> None:
    value = SAME_FOR_ALL[path] if path in SAME_FOR_ALL else CHANGES[kind][path]
    before, after = changed(kind, path, value)
    meaning = FIELDS[kind, path]
    own = {step.replace("/a", f"/{name_at(path)}", 1) for step in OWN_STEP.get((kind, meaning), ())}
    expected = set() if meaning in (NONE, GOVERN) else own
    assert differing(own_keys(before), own_keys(after)) == MOVES_STEPS.get((kind, path), expected)
    governs = _judged_by(before) != _judged_by(after)
    assert governs is (meaning is GOVERN)
    beside = [
        {step.id: (step.settings, step.processes, step.accelerator) for step in build_graph(desired).values()}
        for desired in (before, after)
    ]
    if (kind, path) in TRAVELS_BESIDE:
        assert differing(*beside) == {"curate/a" if kind == "DataRecipe" else f"train/{name_at(path)}"}
    elif (kind, path) in KEPT_BESIDE:
        assert differing(*beside) == KEPT_BESIDE[kind, path]
    elif (kind, path) not in MOVES_STEPS:
        assert beside[0] == beside[1]


def _judged_by(desired: Desired) -> Any:
    regions = [read_facts(item.facts).get("regions") for item in desired.compiled.values()]
    return desired.charter, desired.withdrawn, regions


def test_a_changed_name_takes_its_steps_along_and_says_what_they_were_called() -> None:
    documents = full_documents()
    before = build_graph(desired_from(documents))
    documents["Model/a"]["metadata"] |= {"name": "new", "previous_name": "a"}
    documents["EvalSuite/a"]["metadata"] |= {"name": "suite", "previous_name": "a"}
    documents["Deployment/a"]["spec"] |= {"model": "Model/new"}
    documents["Deployment/a"]["spec"]["gates"][0]["suite"] = "EvalSuite/suite"
    documents["SupplyChain/a"]["spec"]["release"]["evaluations"][0]["suite"] = "EvalSuite/suite"
    after = build_graph(desired_from(documents))
    assert after["train/new"].previous_ids == ("train/a",)
    assert after["train/new"].canonical_parameters == before["train/a"].canonical_parameters
    assert after["evaluate/new.suite"].previous_ids == ("evaluate/new.a", "evaluate/a.suite", "evaluate/a.a")
    assert after["evaluate/new.suite"].canonical_parameters == before["evaluate/a.a"].canonical_parameters


def test_a_step_is_suspended_with_its_subject_or_with_all_who_ask_for_it() -> None:
    documents = full_documents()
    for address in ("Model/a", "Model/b"):  # both ask for the same token files
        documents[address]["metadata"]["annotations"] = {"forge/suspend": "true"}
        steps = build_graph(desired_from(documents))
        assert steps["tokenize/a"].suspended == (None if address == "Model/a" else "Model/a")
        assert steps["train/a"].suspended
    assert desired_from(documents).suspended == {"Model/a", "Model/b"}
    assert steps["evaluate/a.a"].suspended
    assert not steps["release/a"].suspended

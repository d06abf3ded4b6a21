"""One resource of each kind with every field written, and none of them at its default: what tests of meaning start from."""

import copy
from typing import Any

from forge.canonical import digest_of_bytes
from forge.plan.desired import Bundle, BundleFile, Desired
from forge.plan.graph import build_graph
from forge.plan.step import FromStep, key_of
from forge.spec.compiled import compile_resource
from forge.spec.resolve import check, in_order
from forge.spec.resource import RESOURCE_TYPES
from forge.spec.settings import Settings
from forge.spec.tuning import chats_of

Documents = dict[str, dict[str, Any]]


LATER: dict[str, dict[str, Any]] = {
    "DataRecipe": {
        "spec.filters.language": {"allow": ["en"], "min_score": 0.6},
        "spec.filters.c4_quality": {"min_sentences": 3},
        "spec.filters.fineweb_quality": {"short_line_characters": 29},
        "spec.allow_licenses": ["CC-BY-4.0"],
        "spec.decontaminate_against": ["EvalSuite/b"],
    },
    "Model": {
        "spec.architecture.family": "mixtral",
        "spec.architecture.experts": {"num_local_experts": 4, "num_experts_per_tok": 2, "router_aux_loss_coef": 0.02},
        "spec.training.intra_document_masking": True,
    },
}
"""Parts that came after the corpus of step keys: none of its old entries has them. Kind -> place -> what is written there."""
LATER_OF_CHATS = {"pii": {"emails": True}, "decontaminate_against": ["EvalSuite/b"], "decontamination_ngram": 12}
"""The same for what Model/e and Model/g learn to answer from."""
ROPES: dict[str, dict[str, Any]] = {
    "LinearRope": {"rope_type": "linear", "factor": 2.0},
    "Llama3Rope": {
        "rope_type": "llama3",
        "factor": 2.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 128,
    },
    "YarnRope": {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 128},
}
"""Scaled rotary embeddings, of each kind."""
_TERMS = {"license": "CC-BY-4.0", "origin": "somewhere"}
REMOTE: dict[str, dict[str, Any]] = {
    "git": {
        "git": {
            "url": "https://example.org/one.git",
            "commit": "1" * 40,
            "include": ["**/*.py"],
            "exclude": ["tests/**"],
            "max_bytes": "1M",
        },
        **_TERMS,
    },
    "files": {
        "files": [{"url": "https://example.org/a.jsonl", "sha256": "1" * 64, "format": "parquet", "max_bytes": "1M"}],
        **_TERMS,
    },
}
"""Sources from outside of the repository, every field written."""
MIXTURE: list[dict[str, Any]] = [{"data": "DataRecipe/b", "fraction": 0.25, "max_epochs": 2.0}]
"""Data that is mixed in, every field written."""
DIMENSIONS: dict[str, dict[str, Any]] = {
    "log": {"low": 0.001, "high": 0.01, "log": True},
    "choices": {"choices": [0.001, 0.002]},
    "step": {"low": 0.001, "high": 0.003, "step": 0.001},
}
"""Where a field is searched, in each way."""
ROUNDS: dict[str, dict[str, Any]] = {
    "TpeSampler": {
        "trials": 3,
        "sampler": {
            "name": "tpe",
            "seed": 7,
            "startup_trials": 2,
            "ei_candidates": 12,
            "multivariate": False,
            "trials_at_once": 2,
        },
        "space": {"training.seed": {"choices": [17, 18]}, "training.optimizer.lr": DIMENSIONS["log"]},
    },
    "RandomSampler": {
        "trials": 1,
        "sampler": {"name": "random", "seed": 8},
        "space": {"training.seed": {"low": 0, "high": 10, "step": 5}, "training.optimizer.lr": DIMENSIONS["choices"]},
    },
    "GridSampler": {
        "sampler": {"name": "grid"},
        "space": {"training.seed": {"choices": [17]}, "training.optimizer.lr": DIMENSIONS["step"]},
    },
}
"""Rounds of a search, of each sampler, every field written: three trials, one, and three."""


def _document(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    metadata = {
        "name": name,
        "previous_name": f"old-{name}",
        "owners": ["team"],
        "labels": {"tier": "1"},
        "annotations": {"forge/suspend": "false", "note": "x"},
        "description": "full",
        "protect": False,
    }
    return {"apiVersion": "forge/v1", "kind": kind, "metadata": metadata, "spec": spec}


def _recipe(name: str) -> dict[str, Any]:
    return _document(
        "DataRecipe",
        name,
        {
            "sources": [
                {
                    "path": f"corpus/{name}/*.jsonl",
                    "text_key": "body",
                    "id_key": "key",
                    "license": "CC-BY-4.0",
                    "origin": "somewhere",
                }
            ],
            "filters": {
                "gopher_repetition": {
                    "dup_line_fraction": 0.31,
                    "dup_paragraph_fraction": 0.31,
                    "dup_line_character_fraction": 0.21,
                    "dup_paragraph_character_fraction": 0.21,
                    "top_n_grams": [{"n": 2, "max_fraction": 0.21}],
                    "dup_n_grams": [{"n": 5, "max_fraction": 0.16}],
                },
                "gopher_quality": {
                    "min_doc_words": 51,
                    "max_doc_words": 99_999,
                    "min_avg_word_length": 3.1,
                    "max_avg_word_length": 10.1,
                    "max_symbol_word_ratio": 0.11,
                    "max_bullet_lines_ratio": 0.91,
                    "max_ellipsis_lines_ratio": 0.31,
                    "max_non_alpha_words_ratio": 0.81,
                    "min_stop_words": 3,
                },
            },
            "dedup": {"exact": True, "minhash": {"ngram": 6, "buckets": 15, "hashes_per_bucket": 9}},
            "pii": {"emails": True, "ip_addresses": True, "phone_numbers": True},
            "split": {"validation_fraction": 0.1, "seed": 1},
            "language": "en",
        },
    )


def _tokenizer(name: str) -> dict[str, Any]:
    spec = {
        "data": "DataRecipe/a",
        "algorithm": "unigram",
        "vocab_size": 1024,
        "character_coverage": 0.999,
        "split_digits": False,
    }
    return _document("Tokenizer", name, spec)


def _model(name: str) -> dict[str, Any]:
    return _document(
        "Model",
        name,
        {
            "objective": "pretrain",
            "data": "DataRecipe/a",
            "tokenizer": "Tokenizer/a",
            "architecture": {
                "family": "llama",
                "hidden_size": 64,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "intermediate_size": 128,
                "max_position_embeddings": 256,
                "rope_theta": 20000.0,
                "rms_norm_eps": 1e-6,
                "initializer_range": 0.03,
                "tie_word_embeddings": True,
            },
            "training": {
                "tokens": "2M",
                "sequence_length": 128,
                "batch_tokens": 8192,
                "micro_batch_sequences": 16,
                "optimizer": {
                    "name": "adamw",
                    "lr": 0.003,
                    "betas": [0.8, 0.9],
                    "eps": 1e-7,
                    "weight_decay": 0.2,
                    "gradient_clip_norm": 2.0,
                },
                "schedule": {"name": "wsd", "warmup_tokens": "100k", "decay_tokens": "500k", "final_lr_fraction": 0.1},
                "precision": "bfloat16",
                "seed": 17,
                "validate_every_tokens": "100k",
                "checkpoint_every_tokens": "200k",
            },
            "chat_template": "{{ messages }}",
            "resources": {"accelerator": "cpu", "count": 2},
        },
    )


def _continued(name: str) -> dict[str, Any]:
    """``c`` continues a model of the same commit, ``d`` a folder of the repository."""
    document = _model(name)
    spec = document["spec"]
    del spec["tokenizer"], spec["architecture"]
    if name in "efgh":
        return _tuned(name, document)
    base = {"model": "Model/b"} if name == "c" else {"path": "models/base", "license": "MIT", "origin": "somewhere"}
    replay = {"replay": {"data": "DataRecipe/d", "fraction": 0.25}} if name == "c" else {}
    spec |= {"objective": "continue", "data": "DataRecipe/c", "base": base, **replay}
    return document


def _tuned(name: str, document: dict[str, Any]) -> dict[str, Any]:
    """``e`` and ``g`` fine-tune a model of the same commit, ``f`` and ``h`` a folder; the last two learn from preferences."""
    spec = document["spec"]
    del spec["data"]
    chats = {"path": f"chats/{name}/*.jsonl", "license": "MIT", "origin": "somewhere", "validation_fraction": 0.2}
    learnt: dict[str, Any] = {"objective": "sft", "conversations": chats}
    if name in "gh":
        learnt = {"objective": "dpo", "preferences": chats, "beta": 0.2, "loss_type": "ipo"}
    spec |= {
        **learnt,
        "base": {"model": "Model/b"} if name in "eg" else {"path": "models/base", "license": "MIT", "origin": "somewhere"},
        "chat_template": "{% generation %}{{ messages }}{% endgeneration %}",
        "adapter": {"lora": {"rank": 8, "alpha": 16.0, "dropout": 0.1, "targets": ["q_proj", "v_proj"]}},
        "resources": {"accelerator": "cpu", "count": 1},
    }
    return document


def _suite(name: str) -> dict[str, Any]:
    spec = {
        "include": [f"evals/{name}/*"],
        "tasks": ["one", "two"],
        "num_fewshot": 1,
        "seed": 5,
        "batch_size": 8,
        "bootstrap_iters": 100,
    }
    return _document("EvalSuite", name, spec)


def _sweep(name: str) -> dict[str, Any]:
    """``b`` searches another field, and is one small grid. Both read a suite that nothing else does."""
    rounds = list(ROUNDS.values())
    if name == "b":
        rounds = [{"sampler": {"name": "grid"}, "space": {"training.optimizer.weight_decay": {"choices": [0.0, 0.1]}}}]
    spec = {
        "objective": {"suite": "EvalSuite/c", "task": "two", "metric": "acc", "direction": "maximize"},
        "rounds": rounds,
        "trial": {"training.tokens": "1M"},
    }
    return _document("Sweep", name, spec)


def _searched() -> dict[str, Any]:
    """A model whose fields a sweep chooses, with a tokenization of its own."""
    document = _model("i")
    document["spec"] |= {"data": "DataRecipe/c", "tokenizer": "Tokenizer/b", "sweep": "Sweep/a"}
    return document


def _policy(name: str) -> dict[str, Any]:
    limits = {
        "max_tokens": 32,
        "requests_per_minute": 60,
        "max_prompt_characters": 1000,
        "max_temperature": 1.0,
        "max_n": 2,
    }
    spec = {
        "roles": [{"name": "reader", "keys": ["env:KEY"], "limits": limits, "parameters": ["stream"]}],
        "access": '@id("all")\npermit (principal, action, resource);',
        "redactions": [{"name": "digits", "pattern": "[0-9]{4}", "replacement": "#"}],
    }
    return _document("InferencePolicy", name, spec)


def _deployment(name: str) -> dict[str, Any]:
    spec = {
        "environment": "prod",
        "model": "Model/a",
        "policy": "InferencePolicy/a",
        "gates": [{"suite": "EvalSuite/a", "thresholds": [{"task": "one", "metric": "acc", "min": 0.5}]}],
        "engine": {"dtype": "float32", "max_model_len": 128, "max_num_seqs": 16, "kv_cache_gib": 2},
    }
    return _document("Deployment", name, spec)


_KEY = """-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=
-----END PUBLIC KEY-----
"""
_PEOPLE = {
    "ana": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBm/RAlphM3+hUG6wWfcO5bIUIaqMLa2ywxcOK1wMWbh",
    "ben": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPwsPSXh/oqx9/gVpYMxJ0gZkqfhnTdR1cXuMlz4Xr4C",
}


def _people(name: str) -> dict[str, Any]:
    valid = {"valid_from": "2026-01-01T00:00:00Z", "valid_until": "2027-01-01T00:00:00Z", "revoked": "2026-06-01T00:00:00Z"}
    people = [{"name": person, "keys": [{"public": key, **valid}]} for person, key in _PEOPLE.items()]
    return _document("People", name, {"people": people})


def _supply_chain(name: str) -> dict[str, Any]:
    roles: dict[str, Any] = {
        "data-steward": {"steps": ["curate"]},
        "trainer": {"steps": ["tokenizer", "tokenize", "train"]},
        "evaluator": {"steps": ["evaluate", "gate"]},
        "releaser": {
            "steps": ["release"],
            "keys": [{"name": "releaser-1", "public": _KEY, "valid_from": "2026-01-01T00:00:00Z", "holder": "ben"}],
        },
    }
    spec = {
        "roles": roles,
        "approvers": ["ben"],
        "separation_of_duties": [["author", "approver"]],
        "shapes": ["pretrain"],
        "release": {
            "approvals": {"prod": 1},
            "approvals_cover": "release",
            "evaluations": [{"suite": "EvalSuite/a"}],
            "licenses": ["CC-BY-4.0", "MIT"],
            "preregistered": False,
        },
        "plans": {"approvals": 1, "above_cost": 10.0},
        "timestamps": "required",
        "expires": "2028-01-01T00:00:00Z",
    }
    return _document("SupplyChain", name, spec)


def _withdrawals(name: str) -> dict[str, Any]:
    return _document("Withdrawals", name, {"withdrawn": [{"subject": "Model/gone", "reason": "why", "serving": "refuse"}]})


def full_documents() -> Documents:
    """By address. Each kind whose resources are referred to has a second one, ``b``, for references to change to.

    ``Model/c`` and ``Model/d`` continue others, with recipes of their own, so that no other step's readers change with them;
    ``Model/e`` and ``Model/f`` are fine-tuned, ``Model/g`` and ``Model/h`` learn from preferences; some fields of ``Model/i``
    are a sweep's choice.
    """
    makers = {
        "DataRecipe": _recipe,
        "Tokenizer": _tokenizer,
        "Model": _model,
        "EvalSuite": _suite,
        "Sweep": _sweep,
        "InferencePolicy": _policy,
        "Deployment": _deployment,
        "People": _people,
        "SupplyChain": _supply_chain,
        "Withdrawals": _withdrawals,
    }
    single = dict.fromkeys(("Deployment", "People", "SupplyChain", "Withdrawals"), "a")
    found = {f"{kind}/{name}": make(name) for kind, make in makers.items() for name in single.get(kind, "ab")}
    for name in "cd":
        found |= {f"DataRecipe/{name}": _recipe(name), f"Model/{name}": _continued(name)}
    found |= {f"Model/{name}": _continued(name) for name in "efgh"}
    found |= {"EvalSuite/c": _suite("c"), "Model/i": _searched()}
    return copy.deepcopy(found)


def later_documents(below: str = "spec") -> Documents:
    """Those with the parts that came later as well, of what is below a place."""
    documents = full_documents()
    for kind, parts in LATER.items():
        for path, written in parts.items():
            if not path.startswith(below):
                continue
            *parents, last = path.split(".")
            place: Any = documents[f"{kind}/a"]
            for part in parents:
                place = place[part]
            place[last] = copy.deepcopy(written)
    for name, chats in (("e", "conversations"), ("g", "preferences")):
        documents[f"Model/{name}"]["spec"][chats] |= copy.deepcopy(LATER_OF_CHATS)
    return documents


def nanotron_documents() -> Documents:
    """``Model/a`` trained by nanotron, whose rotary embedding has one base only."""
    documents = full_documents()
    spec = documents["Model/a"]["spec"]
    spec |= {"backend": "nanotron", "nanotron": {"tensor_parallel": 1, "pipeline_parallel": 1}}
    spec["architecture"]["rope_theta"] = 10000.0
    return documents


def remote_documents() -> Documents:
    """The full documents, with a recipe that reads from outside of the repository alone."""
    documents = full_documents()
    documents["DataRecipe/a"]["spec"]["sources"] = copy.deepcopy(list(REMOTE.values()))
    return documents


def mixed_documents() -> Documents:
    """The full documents, with a model that is trained on two recipes."""
    documents = full_documents()
    documents["Model/a"]["spec"]["mixture"] = copy.deepcopy(MIXTURE)
    return documents


def desired_from(documents: Documents) -> Desired:
    """Desired state of some documents; a bundle's bytes are the glob that names them."""
    resources: dict[str, Any] = {}
    for document in documents.values():
        resource = RESOURCE_TYPES[document["kind"]].model_validate(document)
        resources[resource.address] = resource
    compiled = {address: compile_resource(resource) for address, resource in resources.items()}
    assert check(list(compiled.values())) == []
    bundles = {}
    for address, resource in resources.items():
        for index, source in enumerate(resource.spec.sources if resource.kind == "DataRecipe" else ()):
            if source.path is not None:
                bundles[address, f"source-{index}"] = _bundle(source.path)
        if address in ("Model/d", "Model/f", "Model/h"):
            bundles |= {(address, name): _bundle(f"{resource.spec.base.path} {name}") for name in ("base", "tokenizer")}
        if address in {f"Model/{name}" for name in "efgh"}:
            chats, learnt = chats_of(resource.spec)
            bundles[address, chats] = _bundle(learnt.path)
        if resource.kind == "EvalSuite":
            bundles[address, "tasks"] = _bundle(" ".join(resource.spec.include))
        if resource.kind == "InferencePolicy":
            bundles[address, "policy"] = _bundle(compiled[address].served)
    return Desired("c" * 40, Settings(), {address: resources[address] for address in in_order(compiled)}, bundles)


def own_keys(desired: Desired) -> dict[str, str]:
    """Each step's key if whatever it reads from other steps stayed as it is: who changes by itself, not by what is before."""
    keys = {}
    for step in build_graph(desired).values():
        inputs = {
            name: digest_of_bytes(f"{source.step_id} {source.product}".encode())
            if isinstance(source, FromStep)
            else source.bundle.digest
            for name, source in step.inputs.items()
        }
        keys[step.id] = str(key_of(step, inputs))
    return keys


def _bundle(text: str) -> Bundle:
    data = text.encode()
    return Bundle({"file": BundleFile(len(data), digest_of_bytes(data), inline=data)})

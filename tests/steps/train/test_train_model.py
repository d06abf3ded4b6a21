"""The model, its loss and its export, against Hugging Face's own."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer

from forge.errors import StepError
from forge.spec.architecture import Architecture
from forge.spec.training import Optimizer
from forge.steps.train.job import read_job
from forge.steps.train.loss import summed_cross_entropy
from forge.steps.train.model import LlamaForCausalLM, build_model
from forge.steps.train.optimizer import build_optimizer

LOGIT_TOLERANCE = 2e-6
"""Largest difference of logits of size 1 to Hugging Face in float32; its RMSNorm rounds in another order."""


def _architecture(**changes: Any) -> Architecture:
    fields = {
        "family": "llama",
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
        "initializer_range": 0.2,
    }
    return Architecture.model_validate({**fields, **changes})


@pytest.mark.parametrize("tied", [True, False])
def test_transformers_loads_the_export_and_gives_the_same_logits(new_attempt: Callable[..., Any], tied: bool) -> None:
    changes = {"tie_word_embeddings": tied, "rope_theta": 500.0, "initializer_range": 0.2, "rms_norm_eps": 1e-4}
    attempt = new_attempt(architecture=changes)
    attempt.run()
    theirs, info = AutoModelForCausalLM.from_pretrained(attempt.weights, output_loading_info=True)
    assert type(theirs).__name__ == "LlamaForCausalLM"
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    ours = LlamaForCausalLM(read_job(attempt.request()).architecture, 512)
    tensors = {name: tensor for name, tensor in theirs.state_dict().items() if not tied or name != "lm_head.weight"}
    ours.load_state_dict(tensors, strict=True)
    tokens = torch.randint(512, (3, 64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits, expected = ours(tokens), theirs(tokens).logits
    assert expected.std() > 0.1
    assert (logits - expected).abs().max().item() <= LOGIT_TOLERANCE * max(1.0, expected.abs().max().item())


def test_the_exported_tokenizer_round_trips_and_applies_the_chat_template(new_attempt: Callable[..., Any]) -> None:
    template = "{% for message in messages %}<s>{{ message['role'] }}: {{ message['content'] }}{% endfor %}"
    attempt = new_attempt(parameters={"chat_template": template})
    attempt.run()
    tokenizer = AutoTokenizer.from_pretrained(attempt.weights)
    text = tokenizer.apply_chat_template([{"role": "user", "content": "Hi there"}], tokenize=False)
    assert text == "<s>user: Hi there"
    assert tokenizer.decode(tokenizer("Hi  there é").input_ids) == "Hi  there é"
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.model_max_length) == (1, 2, 64)


def test_the_default_chat_template_joins_contents(new_attempt: Callable[..., Any]) -> None:
    attempt = new_attempt()
    attempt.run()
    tokenizer = AutoTokenizer.from_pretrained(attempt.weights)
    messages = [{"role": "system", "content": "A"}, {"role": "user", "content": "B"}]
    assert tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == "A\n\nB"


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ({"vocab_size": 511}, "holds 512 tokens, the token files were made for 511"),
        ({"bos_token_id": 7}, "bos_token '<s>' is not token 7"),
    ],
)
def test_a_tokenizer_that_did_not_make_the_tokens_is_refused(
    new_attempt: Callable[..., Any], make_tokens: Callable[..., Path], meta: dict[str, int], message: str
) -> None:
    folder = make_tokens([[300, 2]] * 40, [[300, 2]] * 9)
    described = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps({**described, **meta}))
    with pytest.raises(StepError, match=message):
        new_attempt(tokens=folder).run()


@pytest.mark.parametrize("tokens", [1, 700, 1025])
def test_the_loss_and_its_gradients_are_those_of_cross_entropy(tokens: int) -> None:
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(tokens, 16, generator=generator, requires_grad=True)
    weight = torch.randn(2048, 16, generator=generator, requires_grad=True)
    targets = torch.randint(2048, (tokens,), generator=generator)
    loss = summed_cross_entropy(hidden, weight, targets)
    expected = functional.cross_entropy(hidden @ weight.T, targets, reduction="sum")
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-5)
    found = torch.autograd.grad(loss / tokens, (hidden, weight))
    wanted = torch.autograd.grad(expected / tokens, (hidden, weight))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


def test_under_bfloat16_the_loss_keeps_float32s_accuracy_after_the_projection() -> None:
    generator = torch.Generator().manual_seed(2)
    hidden, weight = torch.randn(512, 16, generator=generator), torch.randn(2048, 16, generator=generator)
    targets = torch.randint(2048, (512,), generator=generator)
    with torch.autocast("cpu", torch.bfloat16):
        loss = summed_cross_entropy(hidden, weight, targets)
    logits = (hidden.bfloat16() @ weight.bfloat16().T).float()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, functional.cross_entropy(logits, targets, reduction="sum"), rtol=1e-6, atol=1e-3)


def test_initial_weights_are_a_function_of_the_seed_alone() -> None:
    torch.manual_seed(1)
    first = build_model(_architecture(), 512, seed=3).state_dict()
    torch.manual_seed(2)
    again, other = (build_model(_architecture(), 512, seed=seed).state_dict() for seed in (3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["lm_head.weight"], other["lm_head.weight"])
    assert abs(first["model.embed_tokens.weight"].std().item() - 0.2) < 0.01


def test_only_matrices_that_are_no_embedding_decay() -> None:
    model = build_model(_architecture(num_hidden_layers=1), 512, seed=0)
    optimizer = build_optimizer(model, Optimizer(lr=0.1, weight_decay=0.3))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed, kept = ([names[id(parameter)] for parameter in group["params"]] for group in optimizer.param_groups)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0]
    assert sorted(kept) == [
        "model.embed_tokens.weight",
        "model.layers.0.input_layernorm.weight",
        "model.layers.0.post_attention_layernorm.weight",
        "model.norm.weight",
    ]
    assert len(decayed) == 8

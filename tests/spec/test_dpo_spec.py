"""Specs of models that learn from preferences: what is refused, where, and with which words."""

import json

import pytest
from tests.spec.test_continue_spec import NEXT, faults
from tests.spec.test_sft_spec import TUNED

from forge.plan.compute import flops_per_token
from forge.plan.cost import estimate_training
from forge.spec.architecture import Architecture
from forge.spec.compiled import compile_resource
from forge.spec.extend import why_not_extended
from forge.spec.load import load
from forge.spec.resource import Model
from forge.spec.settings import Settings

PREFERRING = (
    TUNED.replace("name: tuned", "name: preferring")
    .replace("objective: sft", "objective: dpo")
    .replace("conversations: {path: chats/", "preferences: {path: pairs/")
    .replace("  training:", "  beta: 0.2\n  training:", 1)
)
"""The spec of ``TUNED`` with preferences in the place of conversations."""


def test_a_model_that_learns_from_preferences_is_valid_and_may_be_continued() -> None:
    assert faults(PREFERRING) == []
    assert faults(PREFERRING[: PREFERRING.index("  adapter:")]) == []
    assert faults(TUNED, PREFERRING.replace("Model/small", "Model/tuned")) == []
    assert faults(PREFERRING, NEXT.replace("Model/small", "Model/preferring")) == []
    assert faults(PREFERRING.replace("{model: Model/small}", "{path: vendor/base, license: MIT, origin: elsewhere}")) == []


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("  beta: 0.2", "  data: DataRecipe/small", "next.yaml:8:3: unknown key `data`; a model whose objective is dpo learns"),
        ("  preferences:", "  conversations:", "next.yaml:7:3: unknown key `conversations`; a model whose objective is dpo"),
        ("beta: 0.2", "beta: 0", "next.yaml:8:9: `beta`: Input should be greater than 0"),
        ("beta: 0.2", "beta: .inf", "next.yaml:8:9: not a finite number: .inf"),
        ("beta: 0.2", "loss_type: robust", "next.yaml:8:14: `loss_type` is 'robust', expected 'sigmoid', 'hinge' or 'ipo'"),
        ("micro_batch_sequences: 4", "micro_batch_sequences: 1", "next.yaml:5:3: `spec`: a pair is two sequences"),
        ("batch_tokens: 512", "batch_tokens: 128", "next.yaml:5:3: `spec`: a pair is two sequences"),
        ("{%- generation -%}", "", "next.yaml:5:3: `spec`: chat_template does not say what is learnt"),
        ("  adapter:", "  resources: {count: 4}\n  adapter:", "(4) processes in 2s, which are read together: "),
        ("Model/small}", "Model/preferring}", "next.yaml:6:17: Model/preferring continues itself"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(old: str, new: str, expected: str) -> None:
    assert old in PREFERRING
    found = faults(PREFERRING.replace(old, new, 1))
    assert any(expected in fault for fault in found), found


def test_preferences_of_another_objective_are_an_unknown_key_that_says_so() -> None:
    (fault, *_) = faults(TUNED.replace("  training:", "  preferences: {}\n  training:", 1))
    assert "unknown key `preferences`; preferences are what a model learns from whose objective is dpo" in fault


def test_a_supply_chain_allows_the_licence_of_preferences_too() -> None:
    roles = "{data-steward: {steps: [curate]}, trainer: {steps: [tokenizer, tokenize, train]}, "
    roles += "evaluator: {steps: [evaluate, gate]}, releaser: {steps: [release]}}"
    chain = f"""\
apiVersion: forge/v1
kind: SupplyChain
metadata: {{name: rules}}
spec: {{roles: {roles}, release: {{licenses: [GPL-2.0-or-later]}}, shapes: [dpo], expires: "2036-01-01T00:00:00Z"}}
"""
    (fault,) = faults(PREFERRING, chain)
    assert "`license` is 'CC0-1.0'; the SupplyChain allows GPL-2.0-or-later" in fault
    assert fault.startswith("next.yaml:7:")


def spec_of(text: str) -> Model:
    resource = load([("a.yaml", text.encode())]).resources[0].resource
    assert isinstance(resource, Model)
    return resource


def test_more_tokens_start_from_scratch() -> None:
    old, new = (
        json.loads(compile_resource(spec_of(text)).parameters)
        for text in (PREFERRING, PREFERRING.replace("tokens: 20k", "tokens: 40k"))
    )
    assert why_not_extended(old, new) == "fine-tuning keeps no checkpoint that a longer run may go on from"


def test_the_estimate_holds_a_forward_pass_of_the_reference() -> None:
    shape = Architecture(
        family="llama",
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=128,
        max_position_embeddings=256,
    )
    tuned, preferring = (estimate_training(spec_of(text).spec, shape, 512, Settings()) for text in (TUNED, PREFERRING))
    assert tuned.tokens == preferring.tokens == 20_480
    assert tuned.flops == 20_480 * flops_per_token(shape, 512, 128)
    assert preferring.flops == pytest.approx(tuned.flops * 4 / 3)

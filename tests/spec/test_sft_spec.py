"""Specs of fine-tuned models: what is refused, where, and with which words."""

import json

import pytest
from tests.conftest import DEPLOYMENT
from tests.spec.test_continue_spec import NEXT, faults

from forge.spec.compiled import compile_resource
from forge.spec.extend import why_not_extended
from forge.spec.load import load

TUNED = """\
apiVersion: forge/v1
kind: Model
metadata: {name: tuned}
spec:
  objective: sft
  base: {model: Model/small}
  conversations: {path: chats/*.jsonl, license: CC0-1.0, origin: written for a test, validation_fraction: 0.2}
  training:
    tokens: 20k
    sequence_length: 128
    batch_tokens: 512
    micro_batch_sequences: 4
    optimizer: {lr: 1.0e-3}
    schedule: {name: wsd, warmup_tokens: 1k, decay_tokens: 5k}
  chat_template: |-
    {%- for message in messages -%}
    {{ bos_token + message.role + ':' }}
    {%- if message.role == 'assistant' -%}
    {%- generation -%}{{ message.content + eos_token }}{%- endgeneration -%}
    {%- else -%}{{ message.content + eos_token }}{%- endif -%}
    {%- endfor -%}
    {%- if add_generation_prompt -%}{{ bos_token + 'assistant:' }}{%- endif -%}
  adapter: {lora: {rank: 2, alpha: 4, targets: [q_proj, v_proj]}}
"""


def test_a_fine_tuned_model_is_valid_and_may_be_continued() -> None:
    assert faults(TUNED) == []
    assert faults(TUNED[: TUNED.index("  adapter:")]) == []
    assert faults(TUNED, NEXT.replace("Model/small", "Model/tuned")) == []
    assert faults(TUNED.replace("{model: Model/small}", "{path: vendor/base, license: MIT, origin: elsewhere}")) == []


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "  training:",
            "  data: DataRecipe/small\n  training:",
            "next.yaml:8:3: unknown key `data`; a fine-tuned model learns from `conversations`",
        ),
        ("  training:", "  tokenizer: Tokenizer/small\n  training:", "next.yaml:8:3: unknown key `tokenizer`; a fine-tuned"),
        ("  training:", "  replay: {}\n  training:", "next.yaml:8:3: unknown key `replay`"),
        ("{%- generation -%}", "", "next.yaml:5:3: `spec`: chat_template does not say what is learnt"),
        ("{%- endgeneration -%}", "", "next.yaml:5:3: `spec`: chat_template does not say what is learnt"),
        (", license: CC0-1.0", "", "next.yaml:7:18: missing key `license`"),
        (
            "validation_fraction: 0.2",
            "validation_fraction: 1.0",
            "next.yaml:7:107: `validation_fraction`: Input should be less",
        ),
        ("rank: 2", "rank: 0", "next.yaml:23:26: `rank`: Input should be greater"),
        ("[q_proj, v_proj]", "[q_proj, lm_head]", "next.yaml:23:57: `1` is 'lm_head', expected"),
        ("[q_proj, v_proj]", "[q_proj, q_proj]", "next.yaml:23:19: `lora`: targets names a projection twice"),
        ("[q_proj, v_proj]", "[]", "next.yaml:23:48: `targets`"),
        ("  adapter:", "  resources: {count: 3}\n  adapter:", "next.yaml:5:3: `spec`: a batch of 4 sequences cannot be dealt"),
        ("sequence_length: 128", "sequence_length: 512", "next.yaml:10:22: `sequence_length` is 512, but Model/small has 256"),
        ("Model/small}", "Model/tuned}", "next.yaml:6:17: Model/tuned continues itself"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(old: str, new: str, expected: str) -> None:
    assert old in TUNED
    (fault,) = faults(TUNED.replace(old, new))
    assert fault.startswith(expected)


def test_a_deployment_is_held_to_the_positions_of_the_base() -> None:
    deployment = DEPLOYMENT.replace("Model/small", "Model/tuned") + "  engine: {max_model_len: 300}\n"
    (fault,) = faults(TUNED, deployment=deployment)
    assert "`max_model_len` is 300, but Model/tuned has 256 positions" in fault


def test_a_supply_chain_allows_the_licence_of_conversations_too() -> None:
    roles = "{data-steward: {steps: [curate]}, trainer: {steps: [tokenizer, tokenize, train]}, "
    roles += "evaluator: {steps: [evaluate, gate]}, releaser: {steps: [release]}}"
    chain = f"""\
apiVersion: forge/v1
kind: SupplyChain
metadata: {{name: rules}}
spec: {{roles: {roles}, release: {{licenses: [GPL-2.0-or-later]}}, expires: "2036-01-01T00:00:00Z"}}
"""
    (fault,) = faults(TUNED, chain)
    assert fault == "next.yaml:7:49: `license` is 'CC0-1.0'; the SupplyChain allows GPL-2.0-or-later"


def test_more_tokens_start_from_scratch() -> None:
    old, new = (
        compile_resource(load([("a.yaml", text.encode())]).resources[0].resource)
        for text in (TUNED, TUNED.replace("tokens: 20k", "tokens: 40k"))
    )
    reason = why_not_extended(json.loads(old.parameters), json.loads(new.parameters))
    assert reason == "fine-tuning keeps no checkpoint that a longer run may go on from"


def test_a_conversation_has_no_documents_to_keep_apart() -> None:
    (fault,) = faults(TUNED.replace("    tokens: 20k", "    intra_document_masking: true\n    tokens: 20k"))
    assert fault.startswith("next.yaml:9:5: unknown key `intra_document_masking`; a sequence is one conversation here")

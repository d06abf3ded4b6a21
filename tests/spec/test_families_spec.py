"""Families of architectures: what is refused, where, and with which words."""

import pytest
from tests.conftest import MODEL
from tests.spec.test_continue_spec import NEXT, faults


@pytest.mark.parametrize("family", ["family: mistral", "family: qwen3", "family: qwen3, head_dim: 32"])
def test_a_relative_of_llama_is_valid_and_may_be_continued(family: str) -> None:
    assert faults(NEXT, model=MODEL.replace("family: llama", family)) == []


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("family: qwen2", "a qwen2 cannot begin here: transformers and vLLM give every qwen2 Qwen's own tokenizer"),
        ("family: qwen4", "`family` is 'qwen4', expected 'llama', 'mistral', 'mixtral', 'qwen2' or 'qwen3'"),
        ("family: qwen3, head_dim: 31", "head_dim must be even"),
        ("family: qwen3, head_dim: 0", "`head_dim`: Input should be greater than or equal to 2"),
        ("family: qwen3, head_dim: 1000000", "`head_dim`: Input should be less than or equal to 65536"),
        ("family: mistral, rope_theta: .inf", "not a finite number: .inf"),
        ("family: mistral, num_hidden_size: 3", "unknown key `num_hidden_size`"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(family: str, expected: str) -> None:
    assert any(expected in fault for fault in faults(NEXT, model=MODEL.replace("family: llama", family)))

"""The planner's arithmetic against the model that is really built."""

import pytest

from forge.plan.compute import flops_formula, flops_per_token, num_active_parameters, num_parameters
from forge.spec.architecture import Architecture, Experts
from forge.steps.train.model import LlamaForCausalLM


def _architecture(*, tied: bool, experts: Experts | None = None) -> Architecture:
    return Architecture(
        family="mixtral" if experts else "llama",
        experts=experts,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=88,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
    )


@pytest.mark.parametrize("tied", [True, False])
def test_num_parameters_is_the_count_of_the_built_model(tied: bool) -> None:
    model = LlamaForCausalLM(_architecture(tied=tied), vocab_size=512)
    assert num_parameters(_architecture(tied=tied), 512) == sum(parameter.numel() for parameter in model.parameters())


def test_an_untied_input_embedding_costs_no_operations() -> None:
    assert flops_per_token(_architecture(tied=True), 512, 32) == flops_per_token(_architecture(tied=False), 512, 32)


def test_flops_are_six_a_parameter_and_twelve_an_attended_position() -> None:
    tied = _architecture(tied=True)
    assert flops_per_token(tied, 512, 100) == 6 * num_parameters(tied, 512) + 12 * 3 * 32 * 100


@pytest.mark.parametrize("tied", [True, False])
def test_of_experts_all_are_parameters_and_a_tokens_own_are_active(tied: bool) -> None:
    architecture = _architecture(tied=tied, experts=Experts(num_local_experts=8, num_experts_per_tok=2))
    model = LlamaForCausalLM(architecture, vocab_size=512)
    assert num_parameters(architecture, 512) == sum(parameter.numel() for parameter in model.parameters())
    assert num_parameters(architecture, 512) - num_active_parameters(architecture, 512) == 3 * 6 * 3 * 32 * 88
    more = architecture.model_copy(update={"experts": Experts(num_local_experts=64, num_experts_per_tok=2)})
    router = 6 * 3 * 32 * (64 - 8)
    assert flops_per_token(more, 512, 32) - flops_per_token(architecture, 512, 32) == router
    assert "not those of all experts" in flops_formula(architecture)


def test_a_model_without_experts_is_active_as_a_whole() -> None:
    architecture = _architecture(tied=False)
    assert num_active_parameters(architecture, 512) == num_parameters(architecture, 512)


PUBLISHED = {
    "Mistral-7B-v0.1": (7_241_732_096, 32_000, ("mistral", 4096, 32, 32, 8, 14336, None, False)),
    "Mistral-Nemo-Base-2407": (12_247_782_400, 131_072, ("mistral", 5120, 40, 32, 8, 14336, 128, False)),
    "Qwen2.5-0.5B": (494_032_768, 151_936, ("qwen2", 896, 24, 14, 2, 4864, None, True)),
    "Qwen3-0.6B": (596_049_920, 151_936, ("qwen3", 1024, 28, 16, 8, 3072, 128, True)),
}
"""Parameters, rows of the embedding, and the shape, of models on the Hugging Face hub."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_sizes_of_relatives_of_llama(name: str) -> None:
    count, rows, (family, hidden, layers, heads, key_value_heads, inner, head, tied) = PUBLISHED[name]
    architecture = Architecture(
        family=family,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads,
        intermediate_size=inner,
        head_dim=head,
        tie_word_embeddings=tied,
        max_position_embeddings=32768,
    )
    assert num_parameters(architecture, rows) == count


@pytest.mark.parametrize("family", ["mistral", "qwen2", "qwen3"])
def test_the_parameters_of_relatives_are_those_of_the_built_model(family: str) -> None:
    head = {} if family == "qwen2" else {"head_dim": 12}
    architecture = Architecture.model_validate({**_architecture(tied=True).model_dump(), "family": family, **head})
    model = LlamaForCausalLM(architecture, vocab_size=512)
    assert num_parameters(architecture, 512) == sum(parameter.numel() for parameter in model.parameters())
    assert flops_per_token(architecture, 512, 100) == 6 * num_parameters(architecture, 512) + 12 * 3 * 4 * (
        architecture.head_size * 100
    )


def test_the_published_sizes_of_mixtral_8x7b() -> None:
    """46.7 billion parameters, of which a token uses 12.9 (Jiang et al. 2024)."""
    architecture = Architecture(
        family="mixtral",
        hidden_size=4096,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        intermediate_size=14336,
        max_position_embeddings=32768,
        experts=Experts(num_local_experts=8, num_experts_per_tok=2),
    )
    assert round(num_parameters(architecture, 32000) / 1e9, 1) == 46.7
    assert round(num_active_parameters(architecture, 32000) / 1e9, 1) == 12.9

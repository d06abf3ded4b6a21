"""The planner's arithmetic against the model that is really built."""

import pytest

from forge.plan.compute import flops_per_token, num_parameters
from forge.spec.model import Architecture
from forge.steps.train.model import LlamaForCausalLM


def _architecture(*, tied: bool) -> Architecture:
    return Architecture(
        family="llama",
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

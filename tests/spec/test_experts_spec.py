"""Specs of mixtures of experts: what is refused, where, and with which words; and what tuning of one is."""

import pytest
from tests.conftest import MODEL
from tests.spec.test_continue_spec import NEXT, faults
from tests.spec.test_dpo_spec import PREFERRING
from tests.spec.test_sft_spec import TUNED

from forge.spec.extend import why_not_extended
from forge.spec.load import load
from forge.spec.meaning import REBUILD, meaningful

EXPERTS = "experts: {num_local_experts: 4, num_experts_per_tok: 2}"
SPARSE = MODEL.replace("family: llama", f"family: mixtral, {EXPERTS}")


def test_a_model_with_experts_is_valid_and_may_be_continued() -> None:
    assert faults(NEXT, model=SPARSE) == []


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("num_experts_per_tok: 2", "num_experts_per_tok: 5", "num_experts_per_tok is 5, but a layer has 4 experts"),
        (
            "num_experts_per_tok: 2",
            "num_experts_per_tok: 1",
            "`num_experts_per_tok`: Input should be greater than or equal to 2",
        ),
        ("num_local_experts: 4", "num_local_experts: 1", "`num_local_experts`: Input should be greater than or equal to 2"),
        ("num_local_experts: 4, ", "", "missing key `num_local_experts`"),
        ("num_local_experts: 4", "num_experts: 4", "unknown key `num_experts`"),
        ("num_experts_per_tok: 2", "num_experts_per_tok: 2, router_aux_loss_coef: -1", "`router_aux_loss_coef`"),
        ("num_experts_per_tok: 2", "num_experts_per_tok: 2, router_aux_loss_coef: .inf", "not a finite number"),
        ("mixtral", "llama", "a llama has no experts: set family to mixtral"),
        (f", {EXPERTS}", "", "a mixtral needs experts"),
        ("intermediate_size: 64", "intermediate_size: 60", "must be multiples of 8"),
        ("  training:", "  resources: {count: 2}\n  training:\n    parallelism: {tensor: 2}", "cuts no experts: leave it at 1"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(old: str, new: str, expected: str) -> None:
    assert old in SPARSE
    found = faults(NEXT, model=SPARSE.replace(old, new))
    assert any(fault.startswith("models/model.yaml:") and expected in fault for fault in found), found


def test_tuning_adapts_the_attention_of_a_mixture_of_experts() -> None:
    assert faults(TUNED, model=SPARSE) == []
    (fault,) = faults(TUNED.replace("[q_proj, v_proj]", "[q_proj, up_proj]"), model=SPARSE)
    assert fault.startswith("next.yaml:23:")
    assert "Model/small is a mixture of 4 experts; each layer has up_proj once for every expert" in fault
    (fault,) = faults(TUNED[: TUNED.index("  adapter:")], model=SPARSE)
    assert fault.startswith("next.yaml:6:")
    assert "no load-balancing loss, without which its router would come to use few experts" in fault


def test_preferences_are_learnt_by_its_attention_too() -> None:
    assert faults(PREFERRING, model=SPARSE) == []
    (fault,) = faults(PREFERRING[: PREFERRING.index("  adapter:")], model=SPARSE)
    assert "Model/small is a mixture of 4 experts; fine-tuning has no load-balancing loss" in fault


def test_so_does_tuning_of_a_model_that_continues_one() -> None:
    (fault,) = faults(NEXT, TUNED.replace("Model/small", "Model/next").replace("v_proj", "down_proj"), model=SPARSE)
    assert "Model/small is a mixture of 4 experts" in fault


def test_more_tokens_extend_and_other_experts_rebuild() -> None:
    def parameters(text: str) -> dict[str, object]:
        return meaningful(load([("a.yaml", text.encode())]).resources[0].resource.spec, REBUILD)

    assert why_not_extended(parameters(SPARSE), parameters(SPARSE.replace("tokens: 40k", "tokens: 80k"))) is None
    other = parameters(SPARSE.replace("num_local_experts: 4", "num_local_experts: 8").replace("tokens: 40k", "tokens: 80k"))
    assert "num_local_experts changed" in str(why_not_extended(parameters(SPARSE), other))

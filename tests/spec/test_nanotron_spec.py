"""Specs of models that nanotron trains: what is refused, where, and with which words."""

import json

import pytest
from tests.conftest import MODEL
from tests.spec.test_continue_spec import faults

from forge.spec.compiled import compile_resource
from forge.spec.load import load
from forge.spec.nanotron import NanotronLayout, why_not_nanotron
from forge.spec.training import Training

BY_NANOTRON = MODEL.replace("  objective: pretrain\n", "  objective: pretrain\n  backend: nanotron\n")
TWO_STAGES = BY_NANOTRON + "  nanotron: {pipeline_parallel: 2}\n  resources: {count: 2}\n"


def test_a_model_trained_by_nanotron_is_valid() -> None:
    assert faults(BY_NANOTRON.replace("name: small", "name: next")) == []
    assert faults(TWO_STAGES.replace("name: small", "name: next")) == []


def test_it_may_read_several_recipes_and_branch() -> None:
    mixture = "  mixture: [{data: DataRecipe/nosuch, fraction: 0.25}]\n"
    (fault,) = faults((BY_NANOTRON + mixture).replace("name: small", "name: next"))
    assert "there is no DataRecipe/nosuch" in fault
    trunk = BY_NANOTRON.replace("name: small", "name: trunk")
    branch = (BY_NANOTRON + "  from: {model: Model/trunk, step: 4}\n").replace("name: small", "name: next")
    assert faults(f"{trunk}---\n{branch}") == []
    (fault,) = faults((BY_NANOTRON + "  from: {model: Model/small, step: 4}\n").replace("name: small", "name: next"))
    assert "`backend` is not that of Model/small" in fault


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (MODEL + "  nanotron: {tensor_parallel: 1}\n", "nanotron is for `backend: nanotron`"),
        (MODEL + "  backend: megatron\n", "`backend`"),
        (BY_NANOTRON.replace("tie_word", "rope_theta: 500000.0, tie_word"), "rope_theta of 10000 only, not 500000"),
        (TWO_STAGES.replace("count: 2", "count: 3"), "resources.count is 3, no multiple of"),
        (
            TWO_STAGES.replace("pipeline_parallel: 2", "pipeline_parallel: 4").replace("count: 2", "count: 4"),
            "more stages than",
        ),
        (TWO_STAGES.replace("pipeline_parallel", "tensor_parallel"), "num_key_value_heads is 1, no multiple"),
        (BY_NANOTRON + "  resources: {count: 3}\n", "16 sequences cannot be dealt out to 3 copies"),
        (TWO_STAGES.replace("pipeline_parallel", "pipeline_paralel"), "did you mean `pipeline_parallel`"),
    ],
)
def test_what_nanotron_cannot_train_is_refused_where_it_stands(text: str, expected: str) -> None:
    (fault,) = faults(text.replace("name: small", "name: next"))
    assert fault.startswith("next.yaml:")
    assert expected in fault


def test_the_layout_is_a_matter_of_place_and_the_backend_is_not() -> None:
    texts = (MODEL, BY_NANOTRON, TWO_STAGES)
    torch, alone, staged = (compile_resource(load([("a.yaml", text.encode())]).resources[0].resource) for text in texts)
    assert alone.parameters == staged.parameters != torch.parameters
    assert json.loads(alone.parameters) == {**json.loads(torch.parameters), "backend": "nanotron"}
    assert json.loads(torch.settings) == json.loads(alone.settings) == {"training": {}}
    assert json.loads(staged.settings) == {"training": {}, "nanotron": {"pipeline_parallel": 2}}


def test_a_field_that_the_backend_does_not_know_is_refused_unless_it_is_at_its_default() -> None:
    class Later(Training):
        compiled: bool = False

    training = {"tokens": 2048, "sequence_length": 64, "batch_tokens": 1024, "optimizer": {"lr": 1e-3}}
    training["schedule"] = {"name": "wsd", "warmup_tokens": 0, "decay_tokens": 0}
    (resource,) = load([("a.yaml", BY_NANOTRON.encode())]).resources
    architecture = resource.resource.spec.architecture
    assert why_not_nanotron(architecture, Later.model_validate(training), NanotronLayout(), 1) is None
    reason = why_not_nanotron(architecture, Later.model_validate({**training, "compiled": True}), NanotronLayout(), 1)
    assert reason is not None
    assert "does not have compiled" in reason

"""Branches: whose first steps are another training's, and what that makes of their identity."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.conftest import MODEL, SPECS
from tests.spec.test_extend import BATCH, parameters

from forge.contract.messages import InputArtifact, Resources, StepRequest
from forge.spec.extend import earlier_runs, optimizer_steps, shared_steps, steps_before_decay, why_not_extended, with_trunk
from forge.spec.load import load
from forge.spec.resolve import resolve
from forge.spec.training import LargeTraining
from forge.steps.train.job import Way, read_job
from forge.steps.train.schedule import learning_rate

SHORT = {"name": "wsd", "warmup_tokens": 0, "decay_tokens": 80}
COSINE = {"name": "cosine", "warmup_tokens": 0}


def branch(step: int, *arguments: Any, **fields: Any) -> dict[str, Any]:
    return {**parameters(*arguments, **fields), "from": {"step": step}}


def test_a_branch_before_the_decay_does_not_depend_on_how_long_the_other_trains() -> None:
    own = branch(50, 1600, 100, 80)
    found = with_trunk(own, parameters(2000, 100, 400))
    assert found["trunk"] == [
        {"steps": 50, "optimizer": {"lr": 0.1}, "schedule": parameters(0, 100, 400)["training"]["schedule"]}
    ]
    assert "from" not in found
    assert found == with_trunk(own, parameters(4000, 100, 400))
    assert found != with_trunk(own, parameters(4000, 100, 400, optimizer={"lr": 0.2}))


def test_a_branch_in_the_decay_or_of_a_cosine_depends_on_it() -> None:
    own = branch(110, 3200, 100, 80)
    assert with_trunk(own, parameters(2000, 100, 400))["trunk"][0]["tokens"] == 2000
    assert with_trunk(branch(1, 3200, 0, 0), parameters(2000, schedule=COSINE))["trunk"][0]["tokens"] == 2000


def test_a_branch_inside_the_trunk_of_another_leaves_that_trunk() -> None:
    first = parameters(2000, 100, 400)
    second = with_trunk(branch(50, 1600, schedule=SHORT), first)
    third = branch(30, 1200, optimizer={"lr": 0.3})
    assert with_trunk(third, second) == with_trunk(third, first)
    later = with_trunk(branch(70, 2400, optimizer={"lr": 0.3}), second)
    assert [stretch["steps"] for stretch in later["trunk"]] == [50, 70]
    assert list(earlier_runs(later, 1600))[1:] == [{**first, "training": {**first["training"], "tokens": 1600}}, second]


def test_what_a_branch_goes_on_from() -> None:
    other = parameters(2000, 100, 400)
    own = with_trunk(branch(50, 1600, schedule=SHORT), other)
    assert shared_steps(other, own) == 50
    assert (
        shared_steps(parameters(800, 100, 400), own)
        == steps_before_decay(LargeTraining.model_validate(parameters(800, 100, 400)["training"]))
        == 25
    )
    assert why_not_extended(parameters(2000, 100, 400, seed=1), own) is not None
    assert "from its first step on" in str(
        why_not_extended(parameters(400, 0, 400), with_trunk(branch(50, 1600), parameters(2000, 0, 400)))
    )
    decaying = with_trunk(branch(110, 3200), other)
    assert shared_steps(other, decaying) == 110
    assert shared_steps(parameters(4000, 100, 400), decaying) == 100  # its rates at steps 100 to 110 were others
    longer = {**own, "training": {**own["training"], "tokens": 3200}}
    assert shared_steps(own, longer) == 95  # a branch is extended as any other training is


def way_of(found: dict[str, Any], step: int) -> float:
    """The rate of a step as the train step takes it."""
    sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size")
    architecture = {
        "family": "llama",
        **dict.fromkeys(sizes, 2),
        "hidden_size": 8,
        "intermediate_size": 8,
        "max_position_embeddings": 8,
    }
    request = StepRequest(
        step="train",
        step_version=1,
        key="sha256:" + "a" * 64,
        subject="Model/a",
        parameters={**found, "architecture": architecture},
        inputs={"tokens": InputArtifact(digest="sha256:" + "b" * 64, path=None)},
        output="",
        scratch="",
        attempt=1,
        resources=Resources(threads=1, processes=1),
    )
    way: Way = read_job(request).way_of(step)
    return learning_rate(way.schedule, way.optimizer.lr, step, BATCH, way.total_tokens)


@given(st.data())
def test_the_shared_steps_are_taken_at_the_others_rates_to_the_last_bit(data: st.DataObject) -> None:
    tokens = data.draw(st.integers(10 * BATCH, 100 * BATCH))
    warmup, decay = (data.draw(st.integers(0, tokens // 2)) for _ in range(2))  # each may end inside a step
    cosine = data.draw(st.booleans())
    other = parameters(tokens, warmup, decay, **({"schedule": COSINE} if cosine else {}))
    total = optimizer_steps(LargeTraining.model_validate(other["training"]))
    step = data.draw(st.integers(1, total))
    own = with_trunk(branch(step, (step + 7) * BATCH, 0, 3 * BATCH, optimizer={"lr": 0.3}), other)
    plain = {name: value for name, value in own.items() if name != "trunk"}
    for number in (0, step // 2, step - 1):
        assert way_of(own, number) == way_of(other, number)
    for number in (step, step + 6):
        assert way_of(own, number) == way_of(plain, number)
    assert shared_steps(other, own) == step


def faults_of(written: str) -> list[str]:
    """What is wrong with the small example where another model is added to it."""
    loaded = load([*((path, text.encode()) for path, text in SPECS.items()), ("models/other-0.yaml", written.encode())])
    return [str(each) for each in (*loaded.diagnostics, *resolve(loaded.resources, loaded.broken).diagnostics)]


def branching_model(name: str, point: str, *changes: tuple[str, str]) -> str:
    text = MODEL.replace("{name: small}", f"{{name: {name}}}").replace("  training:", f"  from: {point}\n  training:")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return text


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (branching_model("b", "{model: Model/small, step: 41}", ("tokens: 40k", "tokens: 80k")), "has 40 steps"),
        (branching_model("b", "{model: Model/small, step: 40}"), "leaves nothing to train"),
        (branching_model("b", "{model: Model/smal, step: 4}"), "there is no Model/smal; did you mean"),
        (branching_model("b", "{model: Model/b, step: 4}"), "Model/b continues itself"),
        (
            branching_model("b", "{model: Model/small, step: 4}", ("seed: 5", "seed: 6")),
            "`training.seed` is not that of Model/small",
        ),
        (
            branching_model("b", "{model: Model/small, step: 4}", ("batch_tokens: 1024", "batch_tokens: 512")),
            "`training.batch_tokens`",
        ),
        (branching_model("b", "{model: Model/small, step: 0}"), "`step`: Input should be greater than or equal to 1"),
        (branching_model("b", "{modle: Model/small, step: 4}"), "unknown key `modle`; did you mean `model`?"),
        (
            branching_model("b", "{model: Model/small, step: 4}").replace("  from:", "  form:"),
            "unknown key `form`; did you mean `from`?",
        ),
    ],
)
def test_what_is_no_branch_is_refused_where_it_is_written(written: str, said: str) -> None:
    faults = faults_of(written)
    assert any(said in fault and "models/other-0.yaml" in fault for fault in faults), faults

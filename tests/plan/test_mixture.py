"""A model of several recipes reads the tokens of each, made with its own tokenizer."""

from tests.plan.full import desired_from, mixed_documents, own_keys

from forge.plan.contamination import contamination_warnings
from forge.plan.graph import build_graph
from forge.plan.step import FromStep


def test_each_part_is_tokenized_with_the_models_tokenizer_and_is_an_input_of_the_training() -> None:
    documents = mixed_documents()
    documents["Model/a"]["spec"]["mixture"].append({"data": "DataRecipe/c", "fraction": 0.5})
    graph = build_graph(desired_from(documents))
    inputs = graph["train/a"].inputs
    assert inputs["mixture-0"] == FromStep("tokenize/b.a", "tokens")
    assert inputs["mixture-1"] == FromStep("tokenize/c.a", "tokens")
    assert graph["tokenize/b.a"].inputs["tokenizer"] == inputs["tokenizer"]
    assert list(graph).index("tokenize/c.a") < list(graph).index("train/a")
    assert [part["fraction"] for part in graph["train/a"].parameters["mixture"]] == [0.25, 0.5]


def test_the_order_of_the_parts_is_part_of_the_identity() -> None:
    documents = mixed_documents()
    parts = documents["Model/a"]["spec"]["mixture"]
    parts.append({"data": "DataRecipe/c", "fraction": 0.5})
    before = own_keys(desired_from(documents))
    parts.reverse()
    after = own_keys(desired_from(documents))
    assert {step for step in before if before[step] != after[step]} == {"train/a"}


def test_a_suite_has_to_be_taken_out_of_every_part() -> None:
    documents = mixed_documents()
    documents["DataRecipe/a"]["spec"]["decontaminate_against"] = ["EvalSuite/a"]
    (message,) = contamination_warnings(desired_from(documents).compiled)
    assert "its data, DataRecipe/b, is not cleaned of it" in message

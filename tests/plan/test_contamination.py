"""A plan knows which suites data is cleaned of."""

from typing import Any

from tests.plan.full import desired_from, full_documents, own_keys

from forge.plan.contamination import contamination_warnings
from forge.plan.graph import build_graph
from forge.plan.step import FromCommit
from forge.spec.compiled import compile_resource


def documents(cleaned_of: list[str]) -> dict[str, dict[str, Any]]:
    found = full_documents()
    found["DataRecipe/a"]["spec"]["decontaminate_against"] = cleaned_of
    return found


def warnings(found: dict[str, dict[str, Any]]) -> list[str]:
    desired = desired_from(found)
    return contamination_warnings({address: compile_resource(item) for address, item in desired.resources.items()})


def test_a_model_that_faces_a_suite_its_data_was_not_cleaned_of_is_told() -> None:
    (message,) = warnings(full_documents())
    assert message == (
        "Model/a is evaluated on EvalSuite/a, and its data, DataRecipe/a, is not cleaned of it:"
        " list EvalSuite/a in DataRecipe/a's `decontaminate_against`"
    )
    assert len(warnings(documents(["EvalSuite/b"]))) == 1
    assert warnings(documents(["EvalSuite/b", "EvalSuite/a"])) == []


def test_a_suite_that_a_search_chooses_by_is_one_that_the_model_faces() -> None:
    """What has been read chooses who has read it best."""
    found = full_documents()
    found["Deployment/a"]["spec"]["model"] = "Model/i"
    suites = [message.split(" is evaluated on ")[1].split(",")[0] for message in warnings(found)]
    assert suites == ["EvalSuite/a", found["Sweep/a"]["spec"]["objective"]["suite"]]
    found["Model/c"]["spec"]["base"] = {"model": "Model/i"}
    found["Deployment/a"]["spec"]["model"] = "Model/c"
    assert any("Model/c is evaluated on EvalSuite/c" in message for message in warnings(found))


def test_the_files_of_the_suite_are_inputs_of_the_curation() -> None:
    desired = desired_from(documents(["EvalSuite/b", "EvalSuite/a"]))
    inputs = build_graph(desired)["curate/a"].inputs
    assert inputs["suite-1"] == FromCommit("DataRecipe/a", desired.bundles["EvalSuite/a", "tasks"])
    assert set(inputs) == {"source-0", "suite-0", "suite-1"}
    before = own_keys(desired)
    changed = documents(["EvalSuite/b", "EvalSuite/a"])
    changed["EvalSuite/b"]["spec"]["include"] = ["evals/b/other"]
    after = own_keys(desired_from(changed))
    assert {step for step in before if before[step] != after[step]} == {"curate/a"}


def test_a_recipe_that_names_no_suite_reads_none() -> None:
    assert set(build_graph(desired_from(full_documents()))["curate/a"].inputs) == {"source-0"}


def test_what_the_base_of_a_model_was_trained_on_counts_too() -> None:
    found = full_documents()
    found["Deployment/a"]["spec"]["model"] = "Model/c"
    recipes = [message.split("its data, ")[1].split(",")[0] for message in warnings(found)]
    assert recipes == ["DataRecipe/c", "DataRecipe/d", "DataRecipe/a"]  # its own, what it replays, and its base's


def test_conversations_and_preferences_of_a_model_and_of_its_bases_count_too() -> None:
    found = full_documents()
    found["Deployment/a"]["spec"]["model"] = "Model/g"
    found["Model/g"]["spec"]["base"] = {"model": "Model/e"}
    told = [message for message in warnings(found) if "are not cleaned" in message]
    said = "Model/g is evaluated on EvalSuite/a, and the {} are not cleaned of it: list EvalSuite/a in their"
    learnt = ("preferences of Model/g", "conversations of Model/e")
    assert told == [f"{said.format(chats)} `decontaminate_against`" for chats in learnt]
    found["Model/g"]["spec"]["preferences"]["decontaminate_against"] = ["EvalSuite/a"]
    found["Model/e"]["spec"]["conversations"]["decontaminate_against"] = ["EvalSuite/b", "EvalSuite/a"]
    assert not [message for message in warnings(found) if "are not cleaned" in message]
    desired = desired_from(found)
    inputs = build_graph(desired)["train/e"].inputs
    assert inputs["suite-1"] == FromCommit("Model/e", desired.bundles["EvalSuite/a", "tasks"])
    found["EvalSuite/b"]["spec"]["include"] = ["evals/b/other"]
    before, after = own_keys(desired), own_keys(desired_from(found))
    assert {step for step in before if before[step] != after[step]} == {"train/e"}


def test_a_base_in_the_repository_is_said_to_be_unknown() -> None:
    found = full_documents()
    found["Deployment/a"]["spec"]["model"] = "Model/d"
    assert warnings(found)[-1] == (
        "Model/d is evaluated, and what the weights in models/base were trained on is not known here"
    )

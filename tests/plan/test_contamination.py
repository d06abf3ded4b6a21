"""A plan knows which suites data is cleaned of."""

from typing import Any

from tests.plan.full import desired_from, full_documents, own_keys

from forge.plan.contamination import contamination_warnings
from forge.plan.graph import FromCommit, build_graph
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

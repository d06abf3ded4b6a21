"""Layouts: a chain of another shape has none, and each rule that matches is followed by one that refuses the rest."""

import json
from pathlib import Path

import pytest
from tests.governed import Governed, make_governed

from forge.attest.authority import Authority
from forge.attest.layout import SHAPES, layout_of, shape_of
from forge.attest.trust import read_trust_root
from forge.contract.charter import Charter
from forge.contract.kinds import Role, StepKind
from forge.errors import TrustError
from forge.plan.step import Step
from forge.spec.supply_chain import PeopleSpec, SupplyChainSpec

MOMENT = "2026-11-23T00:00:00+00:00"


@pytest.fixture(scope="module")
def governed(tmp_path_factory: pytest.TempPathFactory) -> Governed:
    return make_governed(tmp_path_factory.mktemp("governed"))


def authority_of(governed: Governed, **changes: object) -> Authority:
    charter = Charter(
        supply_chain=SupplyChainSpec.model_validate(governed.supply_chain(**changes)),
        people=PeopleSpec.model_validate(governed.people()),
    )
    return Authority(read_trust_root(governed.config), charter, charter)


def steps(*kinds: StepKind) -> list[Step]:
    return [Step(f"{kind.value}/a", kind, "a", "Model/a", "{}", {}) for kind in kinds]


@pytest.mark.parametrize("absent", list(StepKind))
def test_a_chain_that_lacks_a_kind_of_step_has_no_shape(absent: StepKind) -> None:
    kinds = [kind for kind in SHAPES["pretrain"] if kind is not absent]
    assert shape_of(steps(*kinds, *kinds)) == ("pretrain" if absent not in SHAPES["pretrain"] else None)


def test_a_chain_with_a_kind_of_step_more_has_no_shape() -> None:
    assert shape_of(steps(*SHAPES["pretrain"])) == "pretrain"
    assert shape_of(steps(*SHAPES["pretrain-sweep"])) == "pretrain-sweep"
    assert set(StepKind) == set(SHAPES["pretrain-sweep"]), "another kind of step: which chain may have it?"
    kinds = [kind for kind in SHAPES["continue-imported"] if kind is not StepKind.TOKENIZER]
    assert shape_of(steps(*kinds)) is None
    assert shape_of(steps(*kinds, StepKind.SWEEP)) is None


def test_a_search_is_bound_to_its_evaluations_and_trainings_to_what_it_chose(governed: Governed) -> None:
    layout = json.loads(layout_of(authority_of(governed), "pretrain-sweep", MOMENT))
    rules = {step["name"]: step["expected_materials"] for step in layout["steps"]}

    def matches(*kinds: str) -> list[list[str]]:
        return [["MATCH", f"{kind}/*", "WITH", "PRODUCTS", "FROM", kind] for kind in kinds]

    assert rules["sweep"] == [*matches("evaluate", "sweep"), ["DISALLOW", "*"]]
    assert rules["train"] == [*matches("tokenize", "tokenizer", "sweep"), ["DISALLOW", "*"]]
    without = json.loads(layout_of(authority_of(governed), "pretrain", MOMENT))
    assert next(step for step in without["steps"] if step["name"] == "train")["expected_materials"] == [
        *matches("tokenize", "tokenizer"),
        ["DISALLOW", "*"],
    ]


def test_whoever_trains_searches_unless_another_role_is_given_the_sweep(governed: Governed) -> None:
    assert authority_of(governed).role_of(StepKind.SWEEP) is Role.TRAINER
    roles = governed.supply_chain()["roles"]
    roles["evaluator"]["steps"].append("sweep")
    authority = authority_of(governed, roles=roles)
    assert authority.role_of(StepKind.SWEEP) is Role.EVALUATOR
    layout = json.loads(layout_of(authority, "pretrain-sweep", MOMENT))
    keys = {step["name"]: step["pubkeys"] for step in layout["steps"]}
    assert keys["sweep"] == keys["evaluate"] != keys["train"]


def test_every_rule_that_matches_is_followed_by_one_that_refuses_the_rest(governed: Governed) -> None:
    layout = json.loads(layout_of(authority_of(governed), "pretrain", MOMENT))
    names = {step["name"] for step in layout["steps"]}
    assert names == {kind.value for kind in SHAPES["pretrain"]}
    for step in layout["steps"]:
        *materials, last = step["expected_materials"]
        assert last == ["DISALLOW", "*"], step["name"]
        assert {rule[0] for rule in materials} <= {"MATCH", "ALLOW"}
        for rule in materials:
            if rule[0] == "MATCH":
                assert rule[-1] in names
            else:
                assert rule[1].startswith("commit/"), "only files of the commit come from nowhere"
        assert step["expected_products"] == [["ALLOW", f"{step['name']}/*"], ["DISALLOW", "*"]]
        assert step["threshold"] == 1
        assert step["pubkeys"]
    assert layout["expires"] == "2099-01-01T00:00:00Z"
    assert layout["inspect"] == []


def test_a_role_without_a_valid_key_gets_no_layout(governed: Governed) -> None:
    roles = governed.supply_chain()["roles"]
    roles["evaluator"]["keys"][0]["revoked"] = "2026-01-01T00:00:00Z"
    with pytest.raises(TrustError, match="evaluator"):
        layout_of(authority_of(governed, roles=roles), "pretrain", MOMENT)


def test_the_keys_of_a_step_are_those_of_its_role_alone(governed: Governed, tmp_path: Path) -> None:
    authority = authority_of(governed)
    layout = json.loads(layout_of(authority, "pretrain", MOMENT))
    for step in layout["steps"]:
        role = authority.role_of(StepKind(step["name"]))
        ids = {signer.key.keyid for signer in authority.signers(role, MOMENT).known}
        assert set(step["pubkeys"]) <= ids


def test_a_threshold_stands_in_the_layout_and_only_keys_of_functionaries_beside_it(governed: Governed, tmp_path: Path) -> None:
    chain = governed.supply_chain()
    plain = layout_of(authority_of(governed), "pretrain", MOMENT)
    second = governed.another("trainer", "trainer-2", tmp_path / "second")
    chain["roles"]["trainer"] |= {"threshold": 2, "keys": [*chain["roles"]["trainer"]["keys"], second]}
    layout = json.loads(layout_of(authority_of(governed, roles=chain["roles"]), "pretrain", MOMENT))
    asked = {step["name"]: (step["threshold"], len(step["pubkeys"])) for step in layout["steps"]}
    assert asked == {name: ((2, 2) if name in ("tokenizer", "tokenize", "train") else (1, 1)) for name in asked}
    assert {step["threshold"] for step in json.loads(plain)["steps"]} == {1}
    assert len(next(step for step in json.loads(plain)["steps"] if step["name"] == "train")["pubkeys"]) == 2


def test_a_layout_that_too_few_could_ever_fulfil_is_not_made(governed: Governed, tmp_path: Path) -> None:
    chain = governed.supply_chain()
    second = {**governed.another("trainer", "trainer-2", tmp_path / "second"), "valid_from": "2027-01-01T00:00:00Z"}
    chain["roles"]["trainer"] |= {"threshold": 2, "keys": [*chain["roles"]["trainer"]["keys"], second]}
    with pytest.raises(TrustError, match="asks for 2 functionaries, and at 2026-11-23T00:00:00"):
        layout_of(authority_of(governed, roles=chain["roles"]), "pretrain", MOMENT)

"""Who may sign when: validity, revocation by a later charter, and what a root that is not for development never does."""

from pathlib import Path
from typing import Any

import pytest
from tests.governed import Governed, make_governed

from forge.attest.authority import Authority, is_before
from forge.attest.layout import layout_of
from forge.attest.trust import TrustRoot, read_trust_root
from forge.contract.charter import Charter
from forge.contract.kinds import Role, StepKind
from forge.errors import TrustError
from forge.spec.supply_chain import PeopleSpec, SupplyChainSpec

MOMENT = "2026-06-01T00:00:00+00:00"


@pytest.fixture(scope="module")
def governed(tmp_path_factory: pytest.TempPathFactory) -> Governed:
    return make_governed(tmp_path_factory.mktemp("governed"))


def charter_of(governed: Governed, **trainer: Any) -> Charter:
    chain = governed.supply_chain()
    chain["roles"]["trainer"]["keys"][0].update(trainer)
    return Charter(supply_chain=SupplyChainSpec.model_validate(chain), people=PeopleSpec.model_validate(governed.people()))


def refusal(authority: Authority, moment: str = MOMENT) -> str | None:
    return authority.signers(Role.TRAINER, moment).known[0].refusal


@pytest.mark.parametrize(
    ("validity", "told"),
    [
        ({}, None),
        ({"valid_from": "2026-06-01T00:00:01Z"}, "is valid only from 2026-06-01T00:00:01Z"),
        ({"valid_until": "2026-06-01T00:00:00Z"}, "expired at 2026-06-01T00:00:00Z"),
        ({"valid_until": "2026-06-01T00:00:01Z"}, None),
        ({"revoked": "2026-06-01T00:00:00Z"}, "was revoked at 2026-06-01T00:00:00Z"),
        ({"revoked": "2026-06-01T00:00:01Z"}, None),
    ],
)
def test_a_key_counts_within_its_validity(governed: Governed, validity: dict[str, str], told: str | None) -> None:
    charter = charter_of(governed, **validity)
    found = refusal(Authority(read_trust_root(governed.config), charter, charter))
    assert (found or "").startswith(told or "")
    assert (found is None) is (told is None)


def test_a_later_charter_revokes_what_an_earlier_one_allowed(governed: Governed) -> None:
    root = read_trust_root(governed.config)
    earlier, later = charter_of(governed), charter_of(governed, revoked="2026-05-01T00:00:00Z")
    assert refusal(Authority(root, earlier, earlier)) is None
    assert "was revoked" in (refusal(Authority(root, earlier, later)) or "")
    assert refusal(Authority(root, earlier, later), "2026-04-30T23:59:59+00:00") is None


def test_a_key_that_a_later_charter_no_longer_lists_keeps_what_it_signed(governed: Governed) -> None:
    chain = governed.supply_chain()
    chain["roles"]["trainer"]["keys"] = chain["roles"]["trainer"]["keys"][1:]
    later = Charter(supply_chain=SupplyChainSpec.model_validate(chain))
    assert refusal(Authority(read_trust_root(governed.config), charter_of(governed), later)) is None


def test_a_moment_in_another_time_zone_is_the_same_moment(governed: Governed) -> None:
    charter = charter_of(governed, revoked="2026-06-01T00:00:00Z")
    authority = Authority(read_trust_root(governed.config), charter, charter)
    assert refusal(authority, "2026-06-01T01:59:59+02:00") is None
    assert refusal(authority, "2026-06-01T02:00:00+02:00") is not None
    assert is_before("2026-05-31T23:59:58+00:00", "2026-06-01T01:59:59+02:00")
    with pytest.raises(TrustError, match="without its offset"):
        refusal(authority, "2026-06-01T00:00:00")


def test_a_root_that_is_not_for_development_trusts_nobody_without_a_charter(governed: Governed) -> None:
    authority = Authority(read_trust_root(governed.config))
    assert all(authority.signers(role, MOMENT).known == () for role in Role if role is not Role.ROOT)
    assert authority.weights_keys(MOMENT) == ()


def test_only_a_development_root_stands_in_for_keys_that_a_charter_leaves_out(governed: Governed, config_home: Path) -> None:
    chain = governed.supply_chain()
    chain["roles"]["evaluator"]["keys"] = []
    charter = Charter(supply_chain=SupplyChainSpec.model_validate(chain))
    development = read_trust_root(config_home)
    assert Authority(development, charter, charter).signers(Role.EVALUATOR, MOMENT).known
    serious = TrustRoot(development=False, roles=development.roles, weights=development.weights)
    assert Authority(serious, charter, charter).signers(Role.EVALUATOR, MOMENT).known == ()
    with pytest.raises(TrustError, match="evaluator has no key that is valid"):
        layout_of(Authority(serious, charter, charter), "pretrain", MOMENT)


def test_the_charter_says_who_answers_for_a_step(governed: Governed) -> None:
    chain = governed.supply_chain()
    chain["roles"]["evaluator"]["steps"], chain["roles"]["releaser"]["steps"] = ["evaluate"], ["gate", "release"]
    charter = Charter(supply_chain=SupplyChainSpec.model_validate(chain))
    assert Authority(read_trust_root(governed.config), charter, charter).role_of(StepKind.GATE) is Role.RELEASER


def test_a_revoked_key_of_a_person_is_nobodys(governed: Governed) -> None:
    people = governed.people()
    people["people"][0]["keys"][0]["revoked"] = "2026-05-01T00:00:00Z"
    now = charter_of(governed)
    later = now.model_copy(update={"people": PeopleSpec.model_validate(people)})
    root = read_trust_root(governed.config)
    assert Authority(root, now, now).person_of(governed.person("ana"), MOMENT) == "ana"
    assert Authority(root, now, later).person_of(governed.person("ana"), MOMENT) is None
    assert Authority(root, now, later).person_of(governed.person("ana"), "2026-04-01T00:00:00+00:00") == "ana"
    assert Authority(root, now, later).person_of(governed.person("ana"), None) is None
    assert Authority(root, now, now).person_of(governed.person("ben"), MOMENT) == "ben"

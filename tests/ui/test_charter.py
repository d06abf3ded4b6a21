"""What the root's keeper is shown before signing: every key, and what changes."""

import copy
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.governed import Governed, make_governed

from forge.attest.authority import public_key
from forge.contract.charter import Charter
from forge.ui.charter import to_text


@pytest.fixture(scope="module")
def governed(tmp_path_factory: pytest.TempPathFactory) -> Governed:
    return make_governed(tmp_path_factory.mktemp("governed"))


def document(governed: Governed) -> dict[str, Any]:
    found = {"supply_chain": governed.supply_chain(), "people": governed.people()}
    return Charter.from_document(copy.deepcopy(found)).to_document()


def changed(governed: Governed, now: dict[str, Any]) -> list[str]:
    """The lines that say what changes."""
    told = to_text(Charter.from_document(now), Charter.from_document(document(governed)))
    return [line for line in told.splitlines() if line.startswith(("-", "+", "!"))]


def test_keys_that_are_swapped_are_shown_as_the_tools_name_them(governed: Governed, tmp_path: Path) -> None:
    """A person's key and a role's, each under its old name: only fingerprints tell."""
    other = make_governed(tmp_path)
    now = document(governed)
    now["people"]["people"][1]["keys"][0]["public"] = other.person("ben")
    now["supply_chain"]["roles"]["evaluator"]["keys"][0]["public"] = other.public("evaluator")
    rows = changed(governed, now)
    assert len(rows) == 4
    for place, sign in ((governed, "-"), (other, "+")):
        keyid = public_key(place.public("evaluator")).keyid
        assert f"{sign} evaluator     key evaluator-1: {keyid}, valid from 2020-01-01T00:00:00Z" in rows
        listed = ["ssh-keygen", "-l", "-f", str(place.ssh / "ben.pub")]
        fingerprint = subprocess.run(listed, check=True, capture_output=True, text=True).stdout.split()[1]
        assert f"{sign} ben           {fingerprint}, valid from 2020-01-01T00:00:00Z; approver" in rows


def test_every_change_is_shown(governed: Governed) -> None:
    key = ("supply_chain", "roles", "trainer", "keys", 0)
    changes: list[tuple[tuple[str | int, ...], Any, str]] = [
        ((*key, "valid_until"), "2030-01-01T00:00:00Z", "until 2030-01-01T00:00:00Z"),
        ((*key, "revoked"), "2026-11-01T00:00:00Z", "REVOKED 2026-11-01T00:00:00Z"),
        ((*key, "holder"), "ana", "held by ana"),
        ((*key, "name"), "other", "key other"),
        (("people", "people", 0, "keys", 0, "revoked"), "2026-11-01T00:00:00Z", "REVOKED 2026-11-01T00:00:00Z"),
        (("people", "people", 0, "name"), "eve", "+ eve "),
        (("supply_chain", "approvers"), ["ana", "ben", "cleo"], "ana, ben, cleo"),
        (("supply_chain", "separation_of_duties"), [], "- kept apart"),
        (("supply_chain", "release"), {}, "none for a release"),
        (("supply_chain", "release"), {"approvals": {"local": 1}, "preregistered": False}, "may be set afterwards"),
        (("supply_chain", "release"), {"approvals": {"local": 1}, "licenses": ["MIT\x1b[2J"]}, "MIT\\x1b[2J"),
        (("supply_chain", "release"), {"approvals": {"local": 1}, "approvals_cover": "release"}, "policy and engine settings"),
        (("supply_chain", "plans"), {"approvals": 1, "above_cost": 5.0}, "that may cost more than 5"),
        (("supply_chain", "shapes"), ["sft"], "+ shapes        sft"),
        (("supply_chain", "timestamps"), "required", "+ time stamps   required"),
        (("supply_chain", "expires"), "2098-01-01T00:00:00Z", "2098"),
    ]
    for path, value, told in changes:
        now = document(governed)
        place: Any = now
        for part in path[:-1]:
            place = place[part]
        place[path[-1]] = value
        rows = changed(governed, now)
        assert any(told in row for row in rows), (path, rows)
        assert not any(row.startswith("!") for row in rows)


def test_a_first_one_and_one_that_is_in_force_say_so(governed: Governed) -> None:
    charter = Charter.from_document(document(governed))
    assert "signed no supply chain before" in to_text(charter)
    assert "nothing changes" in to_text(charter, charter)

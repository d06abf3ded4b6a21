"""An agent hears of a withdrawal: from a real ledger to its lookout, and through a whole agent to callers and status."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.admission.test_withdrawals import append, body_of, lift, withdraw
from tests.conftest import run_forge
from tests.serve.test_follow import Agent, agent
from tests.serve.test_lookout import Seen, edit, pointer, seen

from forge.attest.trust import read_trust_root
from forge.canonical import digest_of_bytes
from forge.contract.kinds import Role
from forge.errors import RefusedError, TrustError
from forge.serve.pull import WithdrawnError
from forge.serve.watch import Moved, Withdrawn, first_look

__all__ = ["agent", "seen"]


def test_what_is_served_is_told_first_and_once_whatever_became_of_the_store(
    seen: Seen, copy_of_applied: Path, config_home: Path
) -> None:
    first = seen.moved()
    withdraw(copy_of_applied, "DataRecipe/small", "Model/elsewhere")
    run_forge(copy_of_applied, config_home, "apply", code=1)
    stored = copy_of_applied / ".forge" / "store"
    shutil.move(stored, stored.with_name("away"))
    found = seen.lookout.look()
    assert isinstance(found, Withdrawn)
    assert (found.release, found.stops, [item.subject for item in found.subjects]) == (
        first.release_digest, True, ["DataRecipe/small"],
    )  # fmt: skip
    shutil.move(stored.with_name("away"), stored)
    seen.running = None  # the service has ended it
    seen.clock = 1000.0
    with pytest.raises(WithdrawnError, match="DataRecipe/small is withdrawn"):
        seen.lookout.look()
    with pytest.raises(WithdrawnError):
        first_look(Seen(copy_of_applied, config_home).lookout, seen.source, lambda _: None)
    lift(copy_of_applied)
    run_forge(copy_of_applied, config_home, "apply")
    assert seen.moved().release_digest == first.release_digest


def test_what_runs_under_refuse_is_told_and_the_pointer_is_refused_until_it_is_lifted(
    seen: Seen, copy_of_applied: Path, config_home: Path
) -> None:
    first = seen.moved()
    withdraw(copy_of_applied, "Model/small", serving="refuse")
    run_forge(copy_of_applied, config_home, "apply", code=1)
    found = seen.lookout.look()
    assert isinstance(found, Withdrawn)
    assert not found.stops
    with pytest.raises(RefusedError, match="Model/small is withdrawn"):
        seen.lookout.look()
    lift(copy_of_applied)
    run_forge(copy_of_applied, config_home, "apply")
    assert seen.lookout.look() == Withdrawn(first.release_digest, ())
    assert isinstance(seen.lookout.look(), Moved)


def test_a_release_that_is_served_still_is_judged_although_the_pointer_names_a_good_one(
    seen: Seen, copy_of_applied: Path, config_home: Path
) -> None:
    first = seen.moved()
    edit(copy_of_applied, "models/deployment.yaml", "max: 7.0", "max: 6.9")
    run_forge(copy_of_applied, config_home, "apply")
    assert pointer(copy_of_applied).release != first.release_digest
    verdict = next(  # only the release that was served rests on the first verdict
        record for record in _records(copy_of_applied) if record["step"] == "gate"
    )["products"]["verdict"]
    append(copy_of_applied, config_home, body_of(copy_of_applied, verdict), Role.RELEASER)
    found = seen.lookout.look()
    assert isinstance(found, Withdrawn)
    assert found.release == first.release_digest
    seen.running = None
    assert seen.moved().release_digest != first.release_digest


def _records(folder: Path) -> list[dict[str, dict[str, str]]]:
    from tests.admission.test_attacks import bodies_of

    return [body.model_dump(mode="json") for body in bodies_of(folder) if body.kind == "record"]


def test_an_unsigned_withdrawal_stops_nobody_and_lets_nobody_start(
    seen: Seen, copy_of_applied: Path, config_home: Path
) -> None:
    seen.moved()
    append(copy_of_applied, config_home, body_of(copy_of_applied, "Model/small"), None)
    with pytest.raises(TrustError, match="it is not signed"):
        seen.lookout.look()
    assert seen.lookout.has_read


def assert_impact_of_one_answer(agent: Agent) -> None:
    def impact(subject: str, code: int = 0) -> dict[str, Any]:
        asked = ("impact", subject, "--audit", str(agent.place / "audit"), "--format", "json")
        done = run_forge(agent.folder, agent.config, *asked, code=code)
        found: dict[str, Any] = json.loads(done.stdout) if not code else {"error": done.stderr}
        return found

    file = str(digest_of_bytes((agent.folder / "corpus" / "part.jsonl.gz").read_bytes()))
    for subject in ("DataRecipe/small", file, "Model/small", "EvalSuite/small"):
        found = impact(subject)
        assert (found["withdrawn"] is not None) == (subject == "DataRecipe/small")
        (asked,) = found["requests"]
        assert (asked["environment"], asked["role"], asked["num_answered"]) == ("local", "reader", 1)
        assert [row["step_id"] for row in found["gates"]] == ["gate/small-local"]
        assert [(row["environment"], row["until"]) for row in found["releases"]] == [("local", None)]
        assert len(found["models"]) == (subject != "EvalSuite/small")
        assert found["unread_artifacts"] == found["unread_lines"] == []
    assert impact("Model/none")["steps"] == []
    assert "did you mean `DataRecipe`?" in impact("DataRecpie/small", code=2)["error"]
    key = read_trust_root(agent.config).roles[Role.EVALUATOR][0].keyid
    steps = [row["step_id"] for row in impact(f"key:{key}")["steps"]]
    assert steps == ["evaluate/small.small", "gate/small-local", "release/small-local"]
    text = run_forge(agent.folder, agent.config, "impact", "DataRecipe/small").stdout
    assert "7 recorded steps descend from it" in text
    assert "(stop): case 0" in text


def test_a_commit_withdraws_and_the_agent_stops_and_a_commit_lifts_and_it_serves_again(agent: Agent) -> None:
    assert agent.ask(4)[0] == 200
    withdraw(agent.folder, "DataRecipe/small")
    run_forge(agent.folder, agent.config, "apply", code=1)
    agent.until(lambda: agent.is_now("withdrawn"))
    code, _, body = agent.ask(4)
    assert (code, body["error"]["code"]) == (503, "release_withdrawn")
    assert "case 0" not in json.dumps(body)
    agent.until(lambda: agent.engines() == [])
    agent.until(lambda: agent.published().status is not None and agent.published().status.state == "withdrawn")  # type: ignore[union-attr]
    status = agent.published().status
    assert status is not None
    assert (status.is_serving, status.release) == (False, None)
    assert "DataRecipe/small is withdrawn (case 0" in str(status.reason)
    assert "is withdrawn and serves nothing" in run_forge(agent.folder, agent.config, "status").stdout
    assert_impact_of_one_answer(agent)
    lift(agent.folder)
    run_forge(agent.folder, agent.config, "apply")
    agent.until(lambda: agent.is_now("ready"))
    assert agent.ask(4)[0] == 200
    assert "Traceback" not in agent.said()

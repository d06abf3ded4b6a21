"""Another policy under a running gateway: what is under way ends as it began, what arrives later meets the new one."""

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from forge.canonical import digest_of_bytes
from forge.errors import ServeError
from forge.serve.binding import AWAY, Binding, bind
from forge.serve.release import ServableRelease
from forge.spec.inference_policy import InferencePolicySpec, Redaction


@pytest.fixture
def old(rig: Any) -> Iterator[Binding]:
    """The binding in force; it is put back."""
    before = rig.gateway.binding
    yield before
    rig.gateway.switch(before)


def other(old: Binding, keys: dict[str, str], **changes: Any) -> Binding:
    """The same release under another policy."""
    policy = InferencePolicySpec.model_validate(old.release.policy.model_dump() | changes)
    release = replace(
        old.release, policy=policy, policy_digest=digest_of_bytes(b"other"), release_digest=digest_of_bytes(b"later")
    )
    return bind(release, keys, old.upstream)


def test_requests_after_the_switch_meet_the_new_limits_and_name_the_new_release(
    rig: Any, old: Binding, api_keys: dict[str, str]
) -> None:
    assert rig.chat(max_tokens=32).status == 200
    roles = [r.model_copy(update={"limits": r.limits.model_copy(update={"max_tokens": 8})}) for r in old.release.policy.roles]
    new = other(old, api_keys, roles=[role.model_dump() for role in roles])
    rig.gateway.switch(new)
    refused, answered = rig.chat(max_tokens=32), rig.chat(max_tokens=8)
    assert (refused.status, refused.code, answered.status) == (400, "limit_exceeded", 200)
    for reply in (refused, answered):
        line = rig.audit(reply)
        assert (line["release_digest"], line["policy_digest"]) == (new.release.release_digest, new.release.policy_digest)
        assert reply.headers["x-forge-policy"] == new.release.policy_digest


def test_a_key_that_the_new_policy_lacks_is_401_at_once(rig: Any, old: Binding, api_keys: dict[str, str]) -> None:
    rig.gateway.switch(other(old, {**api_keys, "KEY_READER": "another-key-9876543210"}))
    assert rig.chat("reader").status == 401
    assert rig.chat("editor").status == 200


def test_a_key_that_cannot_be_resolved_makes_no_binding(old: Binding, api_keys: dict[str, str]) -> None:
    with pytest.raises(ServeError, match="env:KEY_EDITOR"):
        other(old, {name: key for name, key in api_keys.items() if name != "KEY_EDITOR"})


def test_a_stream_keeps_the_redactions_that_it_began_with(rig: Any, old: Binding, api_keys: dict[str, str], halt: Any) -> None:
    """The address is split by the switch: one half is held back before it, the other arrives after it."""
    rig.engine.streams("Write to jane.doe@exam", halt, "ple.org now")
    new = other(old, api_keys, redactions=[Redaction(name="now", pattern="now", replacement="never").model_dump()])
    replies: list[Any] = []
    caller = threading.Thread(target=lambda: replies.append(rig.chat(stream=True)))
    caller.start()
    assert halt.arrived.wait(5)
    rig.gateway.switch(new)
    halt.go_on.set()
    caller.join(10)
    (reply,) = replies
    assert reply.text() == "Write to [email] now"
    line = rig.audit(reply)
    assert (line["policy_digest"], line["redactions"]) == (old.release.policy_digest, {"email": 1, "ipv4": 0})
    rig.engine.streams("Write to jane.doe@example.org now")
    later = rig.chat(stream=True)
    assert later.text() == "Write to jane.doe@example.org never"
    assert rig.audit(later)["redactions"] == {"now": 1}


def test_how_often_a_key_may_ask_is_counted_on_across_a_switch(rig: Any, old: Binding, api_keys: dict[str, str]) -> None:
    rig.clock[0] += 120
    assert [rig.chat("hurried").status for _ in range(2)] == [403, 403]
    rig.gateway.switch(other(old, api_keys))
    assert rig.chat("hurried").status == 429
    rig.clock[0] += 120


def test_a_retired_environment_answers_503_with_the_reason_behind_the_same_keys(rig: Any, old: Binding) -> None:
    rig.gateway.switch(replace(old, upstream=AWAY, retired="commit abc retired Deployment/tiny"))
    for reply in (rig.chat(), rig.send("GET", "/v1/models")):
        assert (reply.status, reply.code) == (503, "environment_retired")
        assert "commit abc retired Deployment/tiny" in reply.json["error"]["message"]
        assert rig.audit(reply)["reason"] == "environment_retired"
    assert rig.chat(None).status == 401
    assert b"abc" not in rig.chat(None).body
    assert rig.send("GET", "/healthz", role=None).json == {"ready": False}
    assert rig.engine.requests == []


def test_the_gateway_counts_what_may_still_ask_an_engine(rig: Any, old: Binding, hang: object) -> None:
    assert rig.gateway.under_way(old.upstream) == 0
    rig.engine.streams("Hi", hang)
    connection = rig.connect()
    body = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "a"}], "stream": True})
    connection.request("POST", "/v1/chat/completions", body, {"Authorization": "Bearer reader-key-0123456789"})
    connection.getresponse()
    rig.eventually(lambda: rig.gateway.under_way(old.upstream) == 1)
    rig.gateway.switch(old.with_upstream(AWAY))
    assert rig.gateway.under_way(old.upstream) == 1
    connection.close()
    rig.eventually(lambda: rig.gateway.under_way(old.upstream) == 0)


def test_only_weights_engine_and_name_need_another_engine(release: ServableRelease) -> None:
    assert release.needs_engine_like(replace(release, policy_digest="x", release_digest="x", trust="x", deployment="x"))
    for change in ({"weights_digest": "x"}, {"model": "x"}, {"engine": release.engine.model_copy(update={"max_num_seqs": 5})}):
        assert not release.needs_engine_like(replace(release, **change))

"""Access decisions fail closed."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from forge.serve.policy import AccessPolicy, Action
from forge.spec.inference_policy import InferencePolicySpec

CONTEXT = {"stream": False, "max_tokens": 8, "parameters": ["stream"]}


def compile_policy(access: str) -> AccessPolicy:
    """A policy that was not validated: what the validator would refuse must fail closed as well."""
    return AccessPolicy("rules", InferencePolicySpec.model_construct(roles=[], access=access, redactions=[]))


def test_a_permit_is_named_and_a_forbid_wins() -> None:
    policy = compile_policy(
        '@id("all") permit (principal, action, resource);'
        '@id("small") forbid (principal, action == Action::"chat", resource) when { context.max_tokens > 10 };'
    )
    allowed = policy.decide("reader", Action.CHAT, "tiny", CONTEXT)
    assert (allowed.allowed, allowed.policies) == (True, ("all",))
    denied = policy.decide("reader", Action.CHAT, "tiny", {**CONTEXT, "max_tokens": 11})
    assert (denied.allowed, denied.policies) == (False, ("small",))
    assert policy.explain(denied, "reader", "chat") == ("InferencePolicy/rules: policy 'small' forbids chat to role 'reader'")


def test_what_no_policy_permits_is_denied() -> None:
    policy = compile_policy('@id("x") permit (principal == Role::"other", action, resource);')
    decision = policy.decide("reader", Action.CHAT, "tiny", CONTEXT)
    assert (decision.allowed, decision.policies) == (False, ())
    assert "no policy permits chat to role 'reader'" in policy.explain(decision, "reader", "chat")


def test_a_forbid_that_meets_a_missing_attribute_denies() -> None:
    policy = compile_policy(
        '@id("all") permit (principal, action, resource);'
        '@id("no") forbid (principal, action, resource) when { context.absent };'
    )
    decision = policy.decide("reader", Action.CHAT, "tiny", CONTEXT)
    assert not decision.allowed
    assert decision.errors
    assert "cannot be evaluated" in policy.explain(decision, "reader", "chat")


@pytest.mark.parametrize(
    ("role", "action", "context"),
    [
        ("reader", "chat", {"max_tokens": 10**30}),
        ("reader", "no such action", {}),
        ("reader\ud83d", "chat", {}),
        ("reader", "chat", {"x": object()}),
        ("reader", "chat", {"x": {"__extn": {"fn": "ip", "arg": "no address"}}}),
        ("reader", "chat", {"x": 1.5}),
    ],
)
def test_a_question_that_cedar_cannot_take_is_denied(role: str, action: str, context: Any) -> None:
    policy = compile_policy('@id("all") permit (principal, action in [Action::"chat"], resource);')
    assert not policy.decide(role, action, "tiny", context).allowed


conditions = st.sampled_from(
    ["true", "false", "context.stream", "context.absent", "context.max_tokens > 4", "context.max_tokens", "principal.x",
     'context.parameters.contains("stream")', "resource.owner == principal", "context.max_tokens + 9223372036854775807 > 1"]
)  # fmt: skip
policies = st.lists(st.tuples(st.sampled_from(["permit", "forbid"]), conditions), max_size=6)


@settings(max_examples=400, deadline=None)
@given(policies=policies, stream=st.booleans(), most=st.integers(1, 9))
def test_allowed_means_a_permit_matched_no_forbid_did_and_nothing_failed(
    policies: list[tuple[str, str]], stream: bool, most: int
) -> None:
    """Against a reading of the conditions by hand: None for what cannot be evaluated."""
    access = "".join(
        f'@id("p{index}") {effect} (principal, action, resource) when {{ {condition} }};'
        for index, (effect, condition) in enumerate(policies)
    )
    decision = compile_policy(access).decide("reader", "chat", "tiny", {"stream": stream, "max_tokens": most, "parameters": []})
    truth = {
        "true": True, "false": False, "context.stream": stream, "context.max_tokens > 4": most > 4,
        'context.parameters.contains("stream")': False,
    }  # fmt: skip
    values = [(effect, truth.get(condition)) for effect, condition in policies]
    expected = ("permit", True) in values and ("forbid", True) not in values and all(value is not None for _, value in values)
    assert decision.allowed == expected


@pytest.mark.parametrize(
    "access",
    [
        "permit (principal, action, resource);",
        '@id("a") permit (principal, action, resource); @id("a") forbid (principal, action, resource);',
        '@id("") permit (principal, action, resource);',
        '@id("a") permit (principal == ?principal, action, resource);',
        '@id("a") forbid (principal, action == Action::"chat", resource) when { context.absent };',
    ],
)
def test_the_spec_refuses_policies_without_an_id_of_their_own_templates_and_unknown_attributes(access: str) -> None:
    role = {"name": "reader", "limits": {"max_tokens": 1, "requests_per_minute": 1}}
    with pytest.raises(ValidationError):
        InferencePolicySpec.model_validate({"roles": [role], "access": access})

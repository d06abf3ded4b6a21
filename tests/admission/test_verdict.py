"""A refusal names the rule, the object and what mends it."""

import re

import pytest
import typer
from typer.core import TyperGroup as Group

from forge.admission.verdict import REMEDIES, Finding, Rule, Verdict, told
from forge.cli.main import app
from forge.ui.verdict import to_data, to_text


@pytest.mark.parametrize("rule", list(Rule))
def test_each_rule_has_a_remedy_whose_commands_exist(rule: Rule) -> None:
    remedy = Finding(rule, "weights", "other bytes").remedy
    assert remedy
    top = typer.main.get_command(app)
    assert isinstance(top, Group)
    for first, second in re.findall(r"`forge ([a-z]+)(?: ([a-z-]+))?", remedy):
        command = top.commands[first]
        assert not isinstance(command, Group) or second in command.commands, remedy


def test_remedies_are_for_rules_alone() -> None:
    assert set(REMEDIES) == set(Rule)


def test_findings_are_told_with_what_mends_them_once_for_each_rule() -> None:
    findings = (Finding(Rule.BYTES, "a", "x"), Finding(Rule.BYTES, "b", "y"), Finding(Rule.GATE, "c", "z"))
    lines = told(findings).splitlines()
    assert lines == [
        "  [bytes] a: x",
        "  [bytes] b: y",
        "  [gate] c: z",
        f"  remedy [bytes]: {REMEDIES[Rule.BYTES]}",
        f"  remedy [gate]: {REMEDIES[Rule.GATE]}",
    ]
    verdict = Verdict("release/local", "a root", (), findings)
    assert f"  FAIL [bytes] a: x\n  FAIL [bytes] b: y\n  FAIL [gate] c: z\n  remedy [bytes]: {REMEDIES[Rule.BYTES]}" in to_text(
        verdict
    )
    assert [row["remedy"] for row in to_data(verdict)["findings"]] == [REMEDIES[finding.rule] for finding in findings]

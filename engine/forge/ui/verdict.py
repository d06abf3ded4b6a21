"""A verification's verdict for people and for programs."""

from typing import Any

from forge.admission.verdict import Verdict, told
from forge.errors import printable


def to_text(verdict: Verdict) -> str:
    """The answer first, then what held and what did not, a line each whatever the ledger's entries say."""
    answer = "holds" if verdict.holds else f"DOES NOT HOLD ({len(verdict.findings)} findings)"
    lines = [f"{printable(verdict.subject)}: the chain {answer}", f"rests on: {printable(verdict.trust)}"]
    if verdict.release:
        lines.append(f"released as {verdict.release}")
    lines.append("")
    lines += [told(verdict.findings, "FAIL ")] if verdict.findings else []
    lines += [f"  ok   [{check.rule}] {printable(check.message)}" for check in verdict.checks]
    return "\n".join(lines) + "\n"


def to_data(verdict: Verdict) -> dict[str, Any]:
    """The JSON form."""
    return {
        "schema_version": 1,
        "subject": verdict.subject,
        "holds": verdict.holds,
        "trust_root": verdict.trust,
        "release": verdict.release,
        "findings": [
            {
                "rule": finding.rule.value,
                "object": finding.object,
                "message": finding.message,
                "remedy": finding.remedy,
            }
            for finding in verdict.findings
        ],
        "checks": [{"rule": check.rule.value, "message": check.message} for check in verdict.checks],
    }

"""What somebody wrote into the ledger does not reach a terminal as a command of its own, nor as a line of its own."""

import pytest

from forge.admission.descent import Cause
from forge.admission.impact import Impact
from forge.admission.verdict import Check, Finding, Rule, Verdict, told
from forge.cli import main
from forge.contract.record import Withdrawal
from forge.errors import TrustError, printable_lines
from forge.executors.runs import Run, RunState
from forge.plan.action import Action, ActionKind, Plan
from forge.plan.render import to_text as plan_text
from forge.ui.impact import to_text as impact_text
from forge.ui.runs import to_text as runs_text
from forge.ui.status import to_text as status_text
from forge.ui.verdict import to_text as verdict_text

EVIL = "EVIL\x1b[2J\x1b[H\r\n  ok   [ledger] it holds\x9b"
SHOWN = "EVIL\\x1b[2J\\x1b[H\\r\\n  ok   [ledger] it holds\\x9b"


def plan() -> str:
    return plan_text(Plan("0" * 40, "EUR", (Action(ActionKind.RETIRE, f"Deployment/{EVIL}", f"Deployment/{EVIL}", ()),)))


def status() -> str:
    step = {"seconds": None, "commit": None, "running": None, "status": "retire", "step": EVIL}
    resource = {"status": "retire", "resource": EVIL, "reasons": [EVIL]}
    agents = {"local": {"said": EVIL}}
    served = {"local": {"release": EVIL, "moved": EVIL}}
    return status_text({"commit": EVIL, "steps": [step], "resources": [resource], "agents": agents, "environments": served})


def impact() -> str:
    withdrawal = Withdrawal(
        subject="Model/a", reason=EVIL, serving="stop", lifted=False, supersedes=None, commit="0" * 40, moved="x"
    )
    return impact_text(Impact("Model/a", causes=(Cause("Model/a", EVIL, EVIL),)), withdrawal, [EVIL], [EVIL])


def verdict() -> str:
    return verdict_text(Verdict(EVIL, EVIL, (Check(Rule.LEDGER, EVIL),), (Finding(Rule.LEDGER, EVIL, EVIL),)))


def runs() -> str:
    return runs_text([Run("sha256:" + "0" * 64, 1, EVIL, RunState.FAILED, EVIL, 1.0, EVIL)])


@pytest.mark.parametrize("text", [plan, status, impact, verdict, runs])
def test_a_command_for_a_terminal_is_shown_and_makes_no_line(text: object) -> None:
    shown = text()  # type: ignore[operator]
    assert SHOWN in shown or runs.__name__ == "runs"
    assert all(line.isprintable() for line in shown.split("\n"))
    assert "\n  ok   [ledger] it holds\\x9b" not in shown


def test_a_refusal_keeps_its_lines_and_shows_the_rest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    message = told([Finding(Rule.LEDGER, EVIL, "x")])
    assert len(message.split("\n")) == 2

    def refuse(**_: object) -> None:
        raise TrustError("two\nlines \x1b[2J")

    monkeypatch.setattr(main, "app", refuse)
    with pytest.raises(SystemExit):
        main.run()
    assert capsys.readouterr().err == printable_lines("two\nlines \x1b[2J") + "\n" == "two\nlines \\x1b[2J\n"

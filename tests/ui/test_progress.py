"""What people see while a step works, on a terminal and in a log."""

import io
import json

from rich.console import Console
from tests.plan.world import World, desired_of

from forge.contract.messages import Event
from forge.plan.action import Action, ActionKind
from forge.ui.progress import LiveDisplay, PlainDisplay, event_text


def test_an_event_in_one_line() -> None:
    event = Event(time=0, step=12, tokens=98304, loss=3.14159, tokens_per_second=16_600.0, bits_per_byte=1.92)
    assert event_text(event) == "step 12, 98.3 k tokens, loss 3.142, 1.920 bits/byte, 16.6 k tokens/s"


def display_all(console: Console, kind: type[PlainDisplay] | type[LiveDisplay]) -> None:
    world = World()
    plan = world.plan(desired_of())
    world.apply(desired_of())
    released = world.release("local")
    assert released is not None
    shown = kind(console)
    shown.planned(plan)
    action = plan.actions[0]
    shown.started(action, adopted=False)
    shown.progressed(action, Event(time=0, fraction=0.5, message="[red]reading[/red]"))
    shown.finished(action, world.newest[action.id])
    shown.skipped(plan.actions[1])
    shown.released(plan.actions[-1], released)
    shown.superseded(action)
    shown.noted(Action(ActionKind.RETIRE, "Model/old", "Model/old", ()))
    shown.close()


def test_a_log_gets_plain_lines_without_control_characters() -> None:
    out = io.StringIO()
    display_all(Console(file=out, width=80, soft_wrap=True), PlainDisplay)
    lines = out.getvalue().splitlines()
    assert "\x1b" not in out.getvalue()
    assert "curate/small: started" in lines
    assert "curate/small: done in 10 s" in lines
    assert "tokenizer/small: not needed, its inputs are the same" in lines
    assert "Model/old: retired; nothing is deleted" in lines
    assert any(line.startswith("release/small-local: local now serves sha256:") for line in lines)


def test_a_terminal_gets_a_bar_and_keeps_its_lines() -> None:
    out = io.StringIO()
    display_all(Console(file=out, width=100, force_terminal=True), LiveDisplay)
    plain = out.getvalue().replace("\x1b[32m", "").replace("\x1b[0m", "")
    assert "done curate/small: 10 s" in plain
    assert json.dumps(out.getvalue()).count("release/small-local") >= 1
    assert "note Model/old: retired; nothing is deleted" in plain

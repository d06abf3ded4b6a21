"""What people see while a step works, on a terminal and in a log."""

import io
import json

import pytest
from rich.console import Console
from tests.plan.world import World, desired_of

from forge.contract.messages import Event
from forge.plan.action import Action, ActionKind
from forge.ui import progress
from forge.ui.progress import LiveDisplay, PlainDisplay, event_text
from forge.ui.series import MFU_FORMULA


def test_an_event_in_one_line() -> None:
    event = Event(time=0, step=12, tokens=98304, loss=3.14159, tokens_per_second=16_600.0, bits_per_byte=1.92)
    assert event_text(event) == "step 12, 98.3 k tokens, loss 3.142, 1.920 bits/byte, 16.6 k tokens/s"


def test_memory_is_told_and_mfu_where_the_peak_is_known() -> None:
    event = Event(time=0, step=12, tokens_per_second=100.0, flops_per_second=4.0e11, memory_bytes=3 << 29)
    assert event_text(event) == "step 12, 100 tokens/s, 1.5 GiB of memory"
    assert event_text(event, 1e12) == "step 12, 100 tokens/s, MFU 40.0%, 1.5 GiB of memory"


@pytest.mark.parametrize("kind", [PlainDisplay, LiveDisplay])
def test_a_display_tells_mfu_and_once_its_formula(
    kind: type[PlainDisplay] | type[LiveDisplay], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_PLAIN_EVERY_SECONDS", 0.0)
    out = io.StringIO()
    world = World()
    plan = world.plan(desired_of())
    shown = kind(Console(file=out, width=200, force_terminal=kind is LiveDisplay, soft_wrap=True))
    shown.planned(plan)
    shown.started(plan.actions[0], adopted=False)
    event = Event(time=0, step=1, fraction=0.5, flops_per_second=4.0e11)
    shown.progressed(plan.actions[0], event)
    assert "MFU" not in out.getvalue()
    for _ in range(2):
        shown.progressed(plan.actions[0], event, 1e12)
    shown.close()
    assert "MFU 40.0%" in out.getvalue()
    assert out.getvalue().count(MFU_FORMULA) == 1


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

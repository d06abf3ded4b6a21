"""What whoever watches a step is told beside its events."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.steps.conftest import request_of

from forge.contract.messages import Event, Resources
from forge.plan.action import Action, ActionKind
from forge.reconcile.at_work import teller
from forge.spec.settings import read_settings

SETTINGS = """
[accelerators.cuda]
price_per_hour = 4.0
flops_per_second = 4e14
peak_flops_per_second = 1e15

[accelerators.cpu]
price_per_hour = 0.1
flops_per_second = 1e11
"""


@pytest.mark.parametrize(("accelerator", "peak"), [("cuda", 2e15), ("cpu", None)])
def test_an_event_comes_with_the_peak_of_all_that_the_step_runs_on(
    tmp_path: Path, accelerator: str, peak: float | None
) -> None:
    place: Any = SimpleNamespace(desired=SimpleNamespace(settings=read_settings(SETTINGS.encode(), "0.1.0")))
    resources = Resources(accelerator=accelerator, processes=2)
    request = request_of(tmp_path, "train", {}, {}).model_copy(update={"resources": resources})
    heard: list[Any] = []
    observer: Any = SimpleNamespace(progressed=lambda *given: heard.append(given))
    action, event = Action(ActionKind.RUN, "train/small", "Model/small", ()), Event(time=0)
    teller(place, action, request, observer)(event)
    assert heard == [(action, event, peak)]

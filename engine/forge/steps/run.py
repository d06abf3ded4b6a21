"""What a step's code is given: its request, a place for its products, and a way to say how far it is.

A step module offers ``run(run: StepRun) -> Metrics``. It writes every product of its kind under ``run.product(NAME)``,
raises ``StepError`` for what a user can mend, and lets everything else surface as an internal fault.
"""

import json
import time
from pathlib import Path
from typing import Any

from forge.contract.kinds import STEPS
from forge.contract.messages import EVENTS_FILE, Continued, Event, StepRequest
from forge.errors import StepError
from forge.steps.interruption import StopRequest

Metrics = dict[str, float | int | str]
_CONTINUED_FILE = "continued.json"


class StepRun:
    """One attempt, seen from inside its process."""

    def __init__(self, request: StepRequest, folder: Path, stop: StopRequest | None = None, *, tells: bool = True) -> None:
        self._tells = tells  # of several ranks, one
        self.request = request
        self.folder = folder
        self.stop = stop or StopRequest()
        self.environment: dict[str, str] = {}
        """What the step itself has to say of the environment that shaped its products."""
        self._events = (folder / EVENTS_FILE).open("a", encoding="utf-8", buffering=1)

    @property
    def parameters(self) -> dict[str, Any]:
        """The meaningful fields of the spec, those at their default left out."""
        return self.request.parameters

    @property
    def settings(self) -> dict[str, Any]:
        """Fields of the spec that do not shape the products."""
        return self.request.settings

    @property
    def scratch(self) -> Path:
        """The folder that attempts at the same key share (checkpoints live there); created when first asked for."""
        path = Path(self.request.scratch)
        path.mkdir(parents=True, exist_ok=True)
        return path

    def input(self, product: str) -> Path:
        """The folder of an input product; treat it as read-only."""
        artifact = self.request.inputs.get(product)
        if artifact is None or artifact.path is None:
            raise StepError(f"{self.request.subject}: the request lays out no input {product!r}")
        return Path(artifact.path)

    def sources(self, product: str) -> dict[str, str]:
        """What the files of an input are called in the commit, by their names in its folder; for messages only."""
        artifact = self.request.inputs.get(product)
        return {} if artifact is None else artifact.sources

    def product(self, name: str) -> Path:
        """The folder to write a product to, created empty."""
        if name not in STEPS[self.request.step].products:
            raise StepError(f"a {self.request.step} step makes no product {name!r}")
        path = Path(self.request.output) / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def byproduct(self, name: str) -> Path:
        """Where a by-product goes: a folder that does not exist yet, and whose presence says that it was made."""
        if not STEPS[self.request.step].leaves(name):
            raise StepError(f"a {self.request.step} step makes no by-product {name!r}")
        return Path(self.request.output) / name

    @property
    def continued(self) -> Continued | None:
        """What the products descend from; a file, because the rank that knows it is another process."""
        path = self.folder / _CONTINUED_FILE
        return Continued.model_validate_json(path.read_bytes()) if path.exists() else None

    @continued.setter
    def continued(self, value: Continued) -> None:
        (self.folder / _CONTINUED_FILE).write_text(value.model_dump_json(), encoding="utf-8")

    def emit(self, **fields: Any) -> None:
        """Append one event: keyword arguments are the fields of ``contract.messages.Event``."""
        if not self._tells:
            return
        event = Event(time=time.time(), **fields)
        self._events.write(json.dumps(event.model_dump(mode="json", exclude_none=True)) + "\n")

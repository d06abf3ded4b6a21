"""What is said of a step process that SIGKILL ended, where it was not this runner that sent it.

Nearly always that is the kernel, which ends a process where memory has run out and leaves it no time for a word. So the failure
is one of the machine's resources, and its message holds what is known of memory, what the next attempt goes on from, and what
would need less.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import psutil

from forge.contract.checkpoints import CHECKPOINTS, newest_checkpoint
from forge.contract.kinds import StepKind
from forge.contract.messages import REQUEST_FILE, Event, StepRequest
from forge.executors.events import read_events
from forge.executors.workspace import Workspace

_GIB = 1 << 30


def told_of_kill(space: Workspace, attempt: int) -> str:
    """The message, from the files that the attempt left and this machine's memory."""
    folder = space.attempt(attempt)
    request = StepRequest.model_validate_json((folder / REQUEST_FILE).read_bytes())
    kept = [f"{CHECKPOINTS}/{path.name}" for path in (space.scratch / CHECKPOINTS).glob("step-*-attempt-*")]
    return message_of_kill(request, read_events(folder), psutil.virtual_memory().total, newest_checkpoint(kept))


def message_of_kill(request: StepRequest, events: Iterable[Event], machine_bytes: int, checkpoint: str | None) -> str:
    """In words; ``checkpoint`` is the newest that its scratch folder holds, ``machine_bytes`` all memory of the machine."""
    held = [event.memory_bytes for event in events if event.memory_bytes is not None]
    memory = f"by its last word it had held {held[-1] / _GIB:.1f} GiB, and" if held else "it had said nothing of its memory;"
    if checkpoint is not None:
        then = f"The next attempt goes on from checkpoint {checkpoint.rpartition('/')[2]}"
    else:
        then = "The next attempt starts anew"
    return (
        f"{request.subject}: the step process was ended by SIGKILL, and not by this runner: by the kernel where memory ran "
        f"out, or by hand; {memory} the machine has {machine_bytes / _GIB:.1f} GiB. {then}. Where memory ran out, "
        f"{_remedy(request.step, request.parameters)}"
    )


def _remedy(step: StepKind, parameters: Mapping[str, Any]) -> str:
    others = "let less run beside it (executor.slots), or give it a machine with more memory"
    if step is not StepKind.TRAIN:
        return others
    smaller = "lower training.micro_batch_sequences (another identity)"
    if parameters.get("objective") in ("sft", "dpo"):
        return f"{smaller}, train an adapter of a low rank (another one too), {others}"
    if parameters.get("backend") == "nanotron":
        return f"{smaller}, spread the model by nanotron.tensor_parallel or pipeline_parallel (from the first step), {others}"
    return f"set training.activation_checkpointing (the same identity), {smaller}, {others}"

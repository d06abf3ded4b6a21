"""One request from its file to its end: what ``python -m forge.steps REQUEST`` does.

Exit status 0 and ``result.json``, or 1 and ``failure.json``. The result is renamed into place after everything else is
on disk, so that its presence means a whole set of products. A step that was asked to stop and has no result says
``stopped``, whatever went wrong on the way there.
"""

import datetime
import errno
import importlib
import os
import platform
import sys
import traceback
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pydantic import ValidationError

from forge import __version__
from forge.contract.kinds import STEPS, StepKind
from forge.contract.messages import FAILURE_FILE, RESULT_FILE, FailureCause, Message, StepFailure, StepRequest, StepResult
from forge.errors import ForgeError, StepError
from forge.steps.environment import hardware, installed
from forge.steps.interruption import StoppedError, StopReason, StopRequest
from forge.steps.run import Metrics, StepRun

_MODULES = {
    StepKind.CURATE: ("forge.steps.curate", ("datatrove",)),
    StepKind.TOKENIZER: ("forge.steps.tokenizer", ("sentencepiece", "tokenizers", "transformers")),
    StepKind.TOKENIZE: ("forge.steps.tokenize", ("datatrove", "tokenizers")),
    StepKind.TRAIN: ("forge.steps.train", ("torch", "safetensors")),
    StepKind.SWEEP: ("forge.steps.sweep", ("optuna",)),
    StepKind.EVALUATE: ("forge.steps.evaluate", ("lm-eval", "torch", "transformers")),
    StepKind.GATE: ("forge.steps.gate", ()),
    StepKind.RELEASE: ("forge.steps.release", ()),
}
_OF_TUNING = ("transformers", "trl", "peft", "accelerate")
_OF_NATIONAL_NUMBERS = ("phonenumberslite",)
_OF_NANOTRON = ("transformers",)
"""nanotron names itself, by its files (``nanotron.wheel``)."""
_FULL = {errno.ENOSPC, errno.EDQUOT}
_TRANSIENT = _FULL | {errno.ENOMEM, errno.EMFILE}
_RESERVED_BYTES = 16 * 1024
"""Of the disk, for the last word of a step that fills it."""


def process_request(argv: list[str], stop: StopRequest) -> int:
    """Run the request file named by the only argument; returns the exit status. SIGTERM is listened for and deferred."""
    if len(argv) != 1:
        print("usage: python -m forge.steps REQUEST", file=sys.stderr)
        return 2
    path = Path(argv[0]).resolve()
    try:
        request = StepRequest.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        print(f"{path}: not a step request: {error}", file=sys.stderr)
        return 2
    known = STEPS[request.step].version
    if request.step_version != known:
        print(f"{path}: asks for {request.step} version {request.step_version}, this engine has {known}", file=sys.stderr)
        return 2
    _reserve(path.parent / FAILURE_FILE)
    failure = _carry_out(request, path.parent, stop)
    if failure is None:
        _temporary(path.parent / FAILURE_FILE).unlink(missing_ok=True)
        return 0
    with suppress(OSError):  # the log may be on a disk that is full
        print(failure.message, file=sys.stderr)
    _write(path.parent / FAILURE_FILE, failure)
    return 1


def _carry_out(request: StepRequest, folder: Path, stop: StopRequest) -> StepFailure | None:
    """Run the step and write its result; returns why there is none."""

    def give_up() -> None:
        _write(folder / FAILURE_FILE, _stopped(request, f"stopped by {StopReason.SIGTERM} in code that did not answer"))
        os._exit(1)

    try:
        with stop.undeferred(give_up):
            result = _run(request, folder, stop)
        _write(folder / RESULT_FILE, result)
    except StoppedError as error:
        return _stopped(request, str(error))
    except Exception as error:  # noqa: BLE001 (the process boundary: whatever went wrong becomes a message with its cause)
        cause = _cause_of(error)
        message = str(error) or type(error).__name__
        if (full := _full(error)) is not None:
            message = f"{request.subject}: {_no_room(request, full)} ({message})"
            cause = FailureCause.RESOURCE
        elif cause is not FailureCause.INPUT:
            message = f"{type(error).__name__}: {message}"
        if cause is FailureCause.INTERNAL:
            traceback.print_exc()
        if stop.reason:
            return _stopped(request, f"stopped by {stop.reason} ({message})")
        return StepFailure(key=request.key, attempt=request.attempt, cause=cause, message=message)
    return None


def _run(request: StepRequest, folder: Path, stop: StopRequest) -> StepResult:
    started = _now()
    definition, (module, libraries) = STEPS[request.step], _MODULES[request.step]
    output = Path(request.output)
    output.mkdir(parents=True, exist_ok=True)
    run = StepRun(request, folder, stop)
    environment = _environment(request, libraries)  # before the work: what is missing is refused, and costs nothing
    metrics: Metrics = importlib.import_module(module).run(run)
    left = sorted(path.name for path in output.iterdir() if path.is_dir() and definition.leaves(path.name))
    result = StepResult(
        key=request.key,
        attempt=request.attempt,
        products={name: name for name in definition.products},
        metrics=metrics,
        started=started,
        finished=_now(),
        environment=environment | run.environment,
        byproducts={name: name for name in left},
        continued=run.continued,
        lock=installed(),
        hardware=hardware(),
    )
    for name in (*result.products, *result.byproducts):
        _sync(output / name)
    return result


def _stopped(request: StepRequest, message: str) -> StepFailure:
    where = (
        "the next attempt goes on from its last checkpoint"
        if request.step is StepKind.TRAIN
        else "the next attempt starts anew"
    )
    return StepFailure(
        key=request.key,
        attempt=request.attempt,
        cause=FailureCause.STOPPED,
        message=f"{request.subject}: {message}; {where}",
    )


def _full(error: BaseException) -> OSError | None:
    """The error that says that a disk is full, where one stands in the chain of causes."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, OSError) and link.errno in _FULL:
            return link
        link = link.__cause__ or link.__context__
    return None


def _no_room(request: StepRequest, error: OSError) -> str:
    folders = [str(error.filename)] if error.filename else [request.output, request.scratch]
    place = " or ".join(dict.fromkeys(folders))
    return f"the {request.step} step found no room left to write in {place}: free some space on that disk and apply again"


def _cause_of(error: BaseException) -> FailureCause:
    """A step's own word counts; else look down the chain of causes for a machine that ran out of something."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, MemoryError) or (isinstance(link, OSError) and link.errno in _TRANSIENT):
            return FailureCause.RESOURCE
        link = link.__cause__ or link.__context__
    return FailureCause.INPUT if isinstance(error, ForgeError) else FailureCause.INTERNAL


def _environment(request: StepRequest, libraries: tuple[str, ...]) -> dict[str, str]:
    """What made the products; raises ``StepError`` where a library that the step rests on is not installed."""
    if request.step is StepKind.TRAIN and request.parameters.get("objective") in ("sft", "dpo"):
        libraries += _OF_TUNING
    elif request.step is StepKind.TRAIN and request.parameters.get("backend") == "nanotron":
        libraries += _OF_NANOTRON
    people = [request.parameters, *(request.parameters.get(chats, {}) for chats in ("conversations", "preferences"))]
    if any(each.get("pii", {}).get("phone_regions") for each in people):
        libraries += _OF_NATIONAL_NUMBERS
    versions: dict[str, str] = {}
    missing = []
    for library in libraries:
        try:
            versions[library] = version(library)
        except PackageNotFoundError:
            missing.append(library)
    if missing:
        raise StepError(
            f"{request.subject}: this {request.step} step needs {', '.join(missing)}, not installed for {sys.executable}: run "
            f"`{sys.executable} -m pip install {' '.join(missing)}`, in the versions of pyproject.toml's extra cpu"
        )
    return {
        "forge": __version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": str(request.resources.threads),
        "processes": str(request.resources.processes),
        **versions,
    }


def _sync(folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def _temporary(path: Path) -> Path:
    return path.with_suffix(".tmp")


def _reserve(path: Path) -> None:
    """Take the room that ``_write`` needs for this file, as far as there is any now."""
    with suppress(OSError), _temporary(path).open("wb") as file:
        file.write(bytes(_RESERVED_BYTES))
        file.flush()
        os.fsync(file.fileno())


def _write(path: Path, message: Message) -> None:
    temporary = _temporary(path)
    with temporary.open("r+b" if temporary.exists() else "wb") as file:  # over what was reserved, not beside it
        file.write(message.model_dump_json(indent=1).encode() + b"\n")
        file.truncate()
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")

"""Task files of a suite -> task configurations that are data and nothing else.

lm-eval's task YAML can name Python functions, other files, data sets and metrics of the Hugging Face hub, and templates
that reach Python objects. Here every key, metric, filter and template is checked against a list of what is allowed, data
files have to lie in the suite's own folder, and what passes is written anew for lm-eval: it never reads the author's
file, so two parsers cannot disagree about it.
"""

import difflib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from forge.canonical import Digest, digest_of_chunks, digest_of_json
from forge.errors import StepError
from forge.spec.document import read_documents
from forge.steps.evaluate.templates import fault_of_template

_KEYS = {
    "task", "task_alias", "tag", "dataset_path", "dataset_kwargs", "training_split", "validation_split", "test_split",
    "fewshot_split", "fewshot_config", "output_type", "doc_to_text", "doc_to_target", "doc_to_choice", "description",
    "target_delimiter", "fewshot_delimiter", "gen_prefix", "num_fewshot", "metric_list", "generation_kwargs", "repeats",
    "filter_list", "metadata",
}  # fmt: skip
_BUILDERS = {"json": (".json", ".jsonl"), "csv": (".csv",), "parquet": (".parquet",), "text": (".txt",)}
_OUTPUT_TYPES = {"loglikelihood", "multiple_choice", "loglikelihood_rolling", "generate_until"}
_METRICS = {
    "acc", "acc_bytes", "acc_mutual_info", "acc_norm", "bits_per_byte", "byte_perplexity", "exact_match", "perplexity",
    "word_perplexity",
}  # fmt: skip
_AGGREGATIONS = {"mean", "median", "nanmean", "perplexity", "weighted_perplexity", "bits_per_byte"}
_METRIC_KEYS = {"metric", "aggregation", "higher_is_better", "ignore_case", "ignore_punctuation", "ignore_numbers"}
_FILTER_FUNCTIONS = {"regex", "take_first", "take_first_k", "majority_vote", "remove_whitespace", "lowercase", "uppercase"}
_GENERATION_KEYS = {"until", "max_gen_toks", "do_sample", "temperature"}


@dataclass(frozen=True)
class Task:
    """One checked task."""

    name: str
    file: str
    config: dict[str, Any]
    data: dict[str, tuple[str, ...]]
    """Split -> files, relative to the suite's folder."""


class _RefusedError(Exception):
    """Why a task file is not used; becomes a StepError that names the file."""


def read_tasks(folder: Path, wanted: list[str]) -> list[Task]:
    """Check every task file of a folder and return the wanted tasks in their order.

    Raises StepError that names the file and the reason, or the names that are near to one that does not exist.
    """
    tasks: dict[str, Task] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix not in {".yaml", ".yml"}:
            continue
        name = path.relative_to(folder).as_posix()
        try:
            task = _task(folder, path, name)
        except _RefusedError as refused:
            raise StepError(f"{name}: {refused}") from refused
        if task.name in tasks:
            raise StepError(f"{name}: the task {task.name!r} is also defined by {tasks[task.name].file}")
        tasks[task.name] = task
    for name in wanted:
        if name not in tasks:
            near = difflib.get_close_matches(name, tasks, n=3, cutoff=0.4)
            hint = f"did you mean {', '.join(near)}?" if near else f"the suite defines: {', '.join(sorted(tasks)) or 'none'}"
            raise StepError(f"no task {name!r} in the suite; {hint}")
    return [tasks[name] for name in wanted]


def task_digest(task: Task, folder: Path) -> Digest:
    """The identity of what is asked: the checked configuration and the bytes of its data."""
    data = {split: [_digest_of_file(folder / file) for file in files] for split, files in task.data.items()}
    return digest_of_json({"config": task.config, "data": data})


def lay_out(tasks: list[Task], folder: Path, target: Path) -> None:
    """Write the tasks for lm-eval: data copied, its paths absolute, each configuration as JSON (which is YAML)."""
    target.mkdir(parents=True)
    for task in tasks:
        paths: dict[str, list[str]] = {}
        for split, files in task.data.items():
            for number, file in enumerate(files):
                copy = target / f"{task.name}-{split}-{number}{PurePosixPath(file).suffix}"
                shutil.copyfile(folder / file, copy)
                paths.setdefault(split, []).append(str(copy))
        config = {**task.config, "dataset_kwargs": {"data_files": paths}}
        (target / f"{task.name}.yaml").write_text(json.dumps(config), encoding="utf-8")


def _task(folder: Path, path: Path, name: str) -> Task:
    config = _merged(folder, path, name, seen=())
    unknown = sorted(set(config) - _KEYS)
    if unknown:
        raise _RefusedError(f"{unknown[0]!r} is not allowed in a task file: a task is data, and runs no code of its own")
    task = config.get("task")
    if not isinstance(task, str) or not task or not set(task) <= _NAME_CHARACTERS:
        raise _RefusedError(f"task: expected a name of letters, digits, '_', '-' and '.', found {task!r}")
    for text in _strings(config):
        if fault := fault_of_template(text):
            raise _RefusedError(f"the template {_shortened(text)!r} {fault}, which is not allowed")
    _check_kinds(config)
    data = _data_files(folder, path, config)
    del config["dataset_kwargs"]
    return Task(task, name, config, data)


_NAME_CHARACTERS = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.")


def _merged(folder: Path, path: Path, name: str, seen: tuple[Path, ...]) -> dict[str, Any]:
    """A file's mapping over that of the file it includes."""
    if path in seen or len(seen) > 8:
        raise _RefusedError("its chain of include: never ends")
    if path.is_symlink():
        raise _RefusedError("a symbolic link; put the file itself into the suite")
    documents, diagnostics = read_documents(name, path.read_bytes())
    if diagnostics:
        first = diagnostics[0]
        runs_python = " (it would run Python)" if "function" in first.message or "python" in first.message else ""
        raise _RefusedError(f"line {first.line}, column {first.column}: {first.message}{runs_python}")
    if len(documents) != 1 or not isinstance(documents[0].value, dict):
        raise _RefusedError("expected one YAML mapping")
    own: dict[str, Any] = documents[0].value
    included = own.pop("include", None)
    if included is None:
        return own
    if not isinstance(included, str):
        raise _RefusedError("include: expected the name of one file")
    base = _inside(folder, path, included)
    return {**_merged(folder, base, base.relative_to(folder).as_posix(), (*seen, path)), **own}


def _inside(folder: Path, path: Path, name: str) -> Path:
    """The file that a name in a task file stands for; refused where it lies outside the suite."""
    parts = PurePosixPath(name).parts
    if (
        not parts
        or name.startswith(("/", "~"))
        or ".." in parts
        or any(mark in name for mark in (":", "\\", "*", "?", "[", "\0"))
    ):
        raise _RefusedError(f"{name!r}: expected the plain name of a file in the suite's folder, relative to the task file")
    found = path.parent
    for part in parts:
        found /= part
        if found.is_symlink():
            raise _RefusedError(f"{name!r} is a symbolic link; put the file itself into the suite")
    if not found.is_file() or not found.resolve().is_relative_to(folder.resolve()):
        raise _RefusedError(f"{name!r}: no such file in the suite (does include: of the EvalSuite name it?)")
    return found


def _data_files(folder: Path, path: Path, config: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    builder = config.get("dataset_path")
    if builder not in _BUILDERS:
        raise _RefusedError(f"dataset_path {builder!r}: expected a reader of local files ({', '.join(_BUILDERS)})")
    arguments = config.get("dataset_kwargs")
    if not isinstance(arguments, dict) or set(arguments) != {"data_files"} or not isinstance(arguments["data_files"], dict):
        raise _RefusedError("dataset_kwargs: expected data_files alone, with a file name (or a list of them) for each split")
    found: dict[str, tuple[str, ...]] = {}
    for split, names in arguments["data_files"].items():
        listed = names if isinstance(names, list) else [names]
        if not set(split) <= _NAME_CHARACTERS or not listed or not all(isinstance(name, str) for name in listed):
            raise _RefusedError(f"data_files.{split}: expected a file name or a list of them")
        files = tuple(_inside(folder, path, name).relative_to(folder).as_posix() for name in listed)
        for file in files:
            if not file.endswith(_BUILDERS[builder]):
                raise _RefusedError(f"{file!r}: dataset_path {builder} reads {', '.join(_BUILDERS[builder])}")
        found[split] = files
    return found


def _check_kinds(config: dict[str, Any]) -> None:
    """Values that lm-eval looks up by name, or passes on to a function."""
    if config.get("output_type") not in _OUTPUT_TYPES:
        raise _RefusedError(f"output_type: expected one of {', '.join(sorted(_OUTPUT_TYPES))}")
    metrics = config.get("metric_list")
    if not isinstance(metrics, list) or not metrics:
        raise _RefusedError("metric_list: expected at least one metric")
    for metric in metrics:
        _check_entry(metric, "metric_list", "metric", _METRICS, _METRIC_KEYS)
        if metric.get("aggregation") not in _AGGREGATIONS:
            raise _RefusedError(f"aggregation of {metric['metric']}: expected one of {', '.join(sorted(_AGGREGATIONS))}")
        if not isinstance(metric.get("higher_is_better"), bool):
            raise _RefusedError(f"higher_is_better of {metric['metric']}: expected true or false")
    for pipeline in config.get("filter_list") or []:
        if not isinstance(pipeline, dict) or set(pipeline) != {"name", "filter"} or not isinstance(pipeline["filter"], list):
            raise _RefusedError("filter_list: expected entries with a name and a list of filters")
        for entry in pipeline["filter"]:
            _check_entry(entry, "filter_list", "function", _FILTER_FUNCTIONS, None)
    sampling = config.get("fewshot_config") or {}
    if (
        not isinstance(sampling, dict)
        or not set(sampling) <= {"sampler"}
        or sampling.get("sampler", "default") not in {"default", "first_n"}
    ):
        raise _RefusedError("fewshot_config: expected sampler alone, default or first_n")
    generation = config.get("generation_kwargs") or {}
    if not isinstance(generation, dict) or not set(generation) <= _GENERATION_KEYS:
        raise _RefusedError(f"generation_kwargs: expected only {', '.join(sorted(_GENERATION_KEYS))}")


def _check_entry(entry: object, where: str, key: str, names: set[str], keys: set[str] | None) -> None:
    if not isinstance(entry, dict) or entry.get(key) not in names:
        found = entry.get(key) if isinstance(entry, dict) else entry
        raise _RefusedError(f"{where}: {found!r} is not a known {key}; expected one of {', '.join(sorted(names))}")
    unknown = sorted(set(entry) - keys) if keys is not None else []
    nested = [name for name, value in entry.items() if isinstance(value, dict | list)]
    if unknown or nested:
        raise _RefusedError(f"{where}: {(unknown + nested)[0]!r} is not allowed in {entry[key]}")


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _strings(key)
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def _shortened(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def _digest_of_file(path: Path) -> Digest:
    with path.open("rb") as file:
        return digest_of_chunks(iter(lambda: file.read(1 << 20), b""))

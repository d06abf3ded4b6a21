"""Weights and task files -> a report of metrics, and each item's outcome.

lm-eval runs in this process, on the CPU in float32, with the network switched off. What it returns holds dates and paths;
the products hold neither: equal weights, tasks and parameters give equal bytes on one machine.

    report/report.json           metrics, standard errors, items and digest of each task, and the settings
    report/samples/TASK.jsonl    doc_id and scores of each item, in order: what a paired test of two models needs

Every training document ends with </s>, so that is what stands before the first token of a text here too (lm-eval would
take <s>, which no Forge model has ever read).

A model of fewer than SMALL_MODEL_PARAMETERS is evaluated with one thread, whatever the request allows: its matrices are
so small that a second thread mostly waits for the first (on a busy machine it made the example's suite three times
slower), and the report is then the same for every number of threads. A larger model gets the request's threads.
"""

import json
import math
import os
import random
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

from forge.canonical import canonical_json
from forge.contract.verdict import DIVERGED, DIVERGED_FILE
from forge.errors import StepError
from forge.spec.eval_suite import EvalSuiteSpec
from forge.steps.evaluate.tasks import Task, lay_out, read_tasks, task_digest
from forge.steps.imports import quick_imports
from forge.steps.run import Metrics, StepRun

_OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_EVALUATE_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",  # progress goes to events
    "DISABLE_MULTIPROC": "1",  # lm-eval's bootstrap: its result would depend on how it is cut among processes
}
SMALL_MODEL_PARAMETERS = 10_000_000
_WEIGHTED = {"bits_per_byte", "byte_perplexity", "word_perplexity"}
"""Metrics of (log-likelihood, size) pairs, for which lm-eval gives no standard error."""


def run(run: StepRun) -> Metrics:
    """Write the product ``report``; raises StepError for task files that are refused and weights that do not load."""
    settings = _settings(run.parameters)
    folder, weights = run.input("tasks"), run.input("weights")
    tasks = read_tasks(folder, run.parameters["tasks"])
    scratch = run.scratch / f"evaluate-{run.request.attempt}"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    try:
        lay_out(tasks, folder, scratch / "tasks")
        os.environ.update(_OFFLINE, HF_HOME=str(scratch / "home"), HF_DATASETS_CACHE=str(scratch / "home" / "datasets"))
        run.emit(message="loading the model", fraction=0.0)
        model = _load(weights, settings.batch_size, run.request.resources.threads, run.request.subject)
        report: dict[str, Any] = {}
        for number, task in enumerate(tasks):
            run.emit(message=f"evaluating {task.name}", fraction=number / len(tasks))
            outcome = _evaluate(model, task, scratch / "tasks", settings)
            report[task.name] = {**_summary(outcome, task, settings), "task_digest": task_digest(task, folder)}
            _write_samples(run.product("report") / "samples" / f"{task.name}.jsonl", outcome["samples"][task.name], task)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    product = {
        "schema_version": 1,
        "tasks": report,
        "settings": {
            **settings.model_dump(exclude={"include", "tasks"}),
            "backend": "hf",
            "dtype": "float32",
            "lm_eval": version("lm-eval"),
            **_divergence(run.input("weights")),
        },
    }
    (run.product("report") / "report.json").write_bytes(canonical_json(product) + b"\n")
    run.emit(message="report written", fraction=1.0)
    return {
        f"{name}.{metric}": value
        for name, entry in report.items()
        for metric, value in entry["metrics"].items()
        if value is not None
    }


def _divergence(weights: Path) -> dict[str, int]:
    """Where a trial's training ended because it diverged: no gate passes such a model, whatever is measured of it."""
    path = weights / DIVERGED_FILE
    return {DIVERGED: json.loads(path.read_bytes())[DIVERGED]} if path.exists() else {}


def _settings(parameters: dict[str, Any]) -> EvalSuiteSpec:
    """The suite with its defaults; ``include`` is no parameter, because its files are an input."""
    return EvalSuiteSpec.model_validate({**parameters, "include": ["tasks"]})


def _load(weights: Path, batch_size: int, threads: int, subject: str) -> Any:
    if not list(weights.glob("*.safetensors")):
        raise StepError(f"{subject}: the weights hold no .safetensors file; other formats can run code when they load")
    with quick_imports():
        import torch
        from lm_eval import evaluator, tasks  # noqa: F401 (used further down: loaded here with the rest)
        from lm_eval.models.huggingface import HFLM

    torch.use_deterministic_algorithms(mode=True)
    try:
        model = HFLM(
            pretrained=str(weights),
            device="cpu",
            dtype="float32",
            batch_size=batch_size,
            trust_remote_code=False,
            use_safetensors=True,
            local_files_only=True,
        )
    except (OSError, ValueError, KeyError) as error:
        raise StepError(f"{subject}: the weights do not load with transformers: {error}") from error
    small = sum(parameter.numel() for parameter in model.model.parameters()) < SMALL_MODEL_PARAMETERS
    torch.set_num_threads(1 if small else threads)
    end = model.tokenizer.eos_token_id
    if end is None:
        raise StepError(f"{subject}: the tokenizer beside the weights names no eos_token")
    model.custom_prefix_token_id = end
    return model


def _evaluate(model: Any, task: Task, folder: Path, settings: EvalSuiteSpec) -> dict[str, Any]:
    """lm-eval's ``simple_evaluate`` without its report on the machine, for which it runs pip and git each time."""
    import numpy as np
    import torch
    from lm_eval.evaluator import evaluate
    from lm_eval.tasks import TaskManager

    random.seed(settings.seed)
    np.random.seed(settings.seed)  # lm-eval draws from the global generators
    torch.manual_seed(settings.seed)
    try:
        loaded = TaskManager(include_path=str(folder), include_defaults=False).load([task.name])
        for entry in loaded["tasks"].values():
            if entry.get_config("num_fewshot") != 0:  # a task that asks for none gets none
                entry.set_config(key="num_fewshot", value=settings.num_fewshot)
            entry.set_fewshot_seed(seed=settings.seed)
        outcome = evaluate(lm=model, task_dict=loaded, bootstrap_iters=settings.bootstrap_iters, log_samples=True)
    except Exception as error:  # lm-eval, datasets and Jinja raise errors of any type for a task that does not fit its data
        if isinstance(error, OSError | MemoryError) and not isinstance(error, FileNotFoundError):
            raise
        raise StepError(f"{task.file}: lm-eval cannot run the task: {type(error).__name__}: {error}") from error
    result: dict[str, Any] = outcome
    return result


def _summary(outcome: dict[str, Any], task: Task, settings: EvalSuiteSpec) -> dict[str, Any]:
    """Metrics under lm-eval's names; the filter is left out where a metric has only one."""
    results = outcome["results"][task.name]
    pairs = [key.split(",", 1) for key in results if "," in key and "_stderr," not in key]
    names = [metric for metric, _ in pairs]
    metrics: dict[str, float | None] = {}
    errors: dict[str, float] = {}
    better: dict[str, bool] = {}
    for metric, filter_name in pairs:
        name = metric if names.count(metric) == 1 else f"{metric},{filter_name}"
        metrics[name] = _finite(results[f"{metric},{filter_name}"])
        better[name] = outcome["higher_is_better"][task.name][metric]
        error = results.get(f"{metric}_stderr,{filter_name}")
        if metric in _WEIGHTED:
            error = _bootstrap(metric, [sample[metric] for sample in outcome["samples"][task.name]], settings)
        if isinstance(error, float) and math.isfinite(error):
            errors[name] = error
    return {
        "metrics": metrics,
        "stderr": errors,
        "higher_is_better": better,
        "items": outcome["n-samples"][task.name]["effective"],
    }


def _bootstrap(metric: str, pairs: list[tuple[float, float]], settings: EvalSuiteSpec) -> float | None:
    """Standard error of a ratio of sums (Efron 1979): documents are drawn with replacement."""
    import numpy as np

    if settings.bootstrap_iters < 2:
        return None
    loglikelihood, size = np.array(pairs, dtype=np.float64).T
    generator = np.random.default_rng(settings.seed)
    values = np.empty(settings.bootstrap_iters)
    for number in range(settings.bootstrap_iters):
        drawn = generator.integers(0, len(size), len(size))
        values[number] = -loglikelihood[drawn].sum() / size[drawn].sum()
    values = values / math.log(2) if metric == "bits_per_byte" else np.exp(values)
    return float(values.std(ddof=1))


def _write_samples(path: Path, samples: list[dict[str, Any]], task: Task) -> None:
    path.parent.mkdir(exist_ok=True)
    metrics = [metric["metric"] for metric in task.config["metric_list"]]
    with path.open("wb") as file:
        for sample in sorted(samples, key=lambda sample: (sample["doc_id"], sample["filter"])):
            scores = {metric: _plain(sample[metric]) for metric in metrics if metric in sample}
            row = {"doc_id": sample["doc_id"], "filter": sample["filter"], "scores": scores}
            file.write(canonical_json(row) + b"\n")


def _plain(score: Any) -> Any:
    if isinstance(score, list | tuple):
        return [_plain(part) for part in score]
    return _finite(score)


def _finite(value: Any) -> float | None:
    """JSON has no NaN; a metric that is none is None here, which no gate passes."""
    number = float(value)
    return number if math.isfinite(number) else None

"""The sweep step: reports of trials become the values that a further trial, or the model itself, is trained with.

Invariant: what is chosen depends on the parameters and inputs alone, and on the version of Optuna where a sampler draws: each
choice has a generator of its own, seeded by the sampler's seed and the trial's number in its round, so none depends on which
process made the others, or when.
"""

from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from forge.contract.hyperparameters import HYPERPARAMETERS, HYPERPARAMETERS_FILE, Hyperparameters, Pick
from forge.contract.search import best_of, score_of
from forge.contract.verdict import REPORT_FILE, Report
from forge.errors import StepError
from forge.spec.sweep import WHOLE, Dimension, GridSampler, RandomSampler, Round, TpeSampler
from forge.spec.trials import Value, contains, grid_point, nearest_point, point_of
from forge.steps.hyperparameters import read_hyperparameters
from forge.steps.imports import quick_imports
from forge.steps.run import Metrics, StepRun

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial


def run(run: StepRun) -> Metrics:
    """Write the product ``hyperparameters``; raises StepError for inputs that are none of a search, or hold no figure."""
    parameters, metrics = run.parameters, dict[str, float | int | str]()
    match Pick(parameters["pick"]):
        case Pick.WRITTEN:
            chosen = Hyperparameters(values=parameters["values"])
        case Pick.NEXT:
            chosen = Hyperparameters(values=_next(run))
        case Pick.BEST:
            objective = parameters["objective"]
            reports = _reports(run)
            best = best_of(reports, objective)
            if best is None:
                raise StepError(f"{run.request.subject}: {_why_none(reports, objective)}")
            number, score = best
            chosen = read_hyperparameters(run.input(f"{HYPERPARAMETERS}-{number}"))
            first = score_of(reports[0], objective)
            metrics = {
                "trials": len(reports),
                "trial": number,
                "value": score,
                **({} if first is None else {"as_written": first}),
            }
            name = f"{objective['task']} {objective['metric']}"
            run.emit(message=f"trial {number} of {len(reports)} is the best: {name} {score:g}")
    told = ", ".join(f"{field} {value:g}" for field, value in chosen.values.items())
    run.emit(message=told, fraction=1.0)
    (run.product(HYPERPARAMETERS) / HYPERPARAMETERS_FILE).write_bytes(chosen.to_bytes())
    return {**metrics, **chosen.values}


def _why_none(reports: Sequence[Report], objective: Mapping[str, Any]) -> str:
    """Why no trial has a figure, and what to do."""
    name, task = objective["metric"], reports[0].tasks.get(objective["task"])
    if task is not None and name not in task.metrics:
        known = ", ".join(sorted(task.metrics)) or "nothing"
        return f"the suite measures {known} of the task {objective['task']}, and no {name}: name one of those in the Sweep"
    return (
        f"none of the {len(reports)} trials has a finite {name} of the task {objective['task']}: they diverged, or what they "
        "say is no number; search lower learning rates"
    )


def _reports(run: StepRun) -> list[Report]:
    """Those of the trials that are known, the first one first."""
    found = []
    for number in range(sum(name.startswith("report-") for name in run.request.inputs)):
        folder = run.input(f"report-{number}")
        try:
            found.append(Report.model_validate_json((folder / REPORT_FILE).read_bytes()))
        except (OSError, ValidationError) as error:
            raise StepError(f"{folder}: expected the product of an evaluate step, {REPORT_FILE}: {error}") from error
    return found


def _next(run: StepRun) -> dict[str, Value]:
    """The values of a further trial."""
    drawn = {name: run.parameters[name] for name in ("sampler", "space")}
    each = Round.model_validate(drawn if drawn["sampler"]["name"] == "grid" else {**drawn, "trials": 1})
    number: int = run.parameters["number"]
    space = {str(field): dimension for field, dimension in each.space.items()}
    if isinstance(each.sampler, GridSampler):
        return grid_point(space, number)
    return _drawn(run, each.sampler, space, number)


def _drawn(run: StepRun, sampler: RandomSampler | TpeSampler, space: dict[str, Dimension], number: int) -> dict[str, Value]:
    """What Optuna draws, knowing the trials before."""
    with quick_imports():
        import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    seed = _seed(sampler.seed, run.parameters["round"], number)
    distributions = {field: _distribution(field, space[field]) for field in sorted(space)}
    drawing: optuna.samplers.BaseSampler
    if isinstance(sampler, RandomSampler):
        drawing = optuna.samplers.RandomSampler(seed=seed)
    else:
        drawing = optuna.samplers.TPESampler(
            seed=seed,
            n_startup_trials=sampler.startup_trials,
            n_ei_candidates=sampler.ei_candidates,
            multivariate=sampler.multivariate,
            group=False,
            constant_liar=sampler.trials_at_once > 1,
        )
    objective = run.parameters.get("objective")
    study = optuna.create_study(sampler=drawing, direction=objective["direction"] if objective else "minimize")
    if objective:
        study.add_trials(list(_past(run, objective, space, distributions)))
    drawn: dict[str, Value] = study.ask(distributions).params
    return {field: _exact(space[field], field, value) for field, value in drawn.items()}


def _exact(dimension: Dimension, field: str, value: Value) -> Value:
    """A value as a grid of the same steps would have it: three times 0.1 is 0.3, and so the same training."""
    return nearest_point(dimension, value, whole=field in WHOLE) if dimension.step is not None else value


def _seed(seed: int, part: int, number: int) -> int:
    """A generator's seed of 32 bits for each trial of each round: two rounds with one seed draw other values."""
    return int.from_bytes(sha256(f"{seed}/{part}/{number}".encode()).digest()[:4])


def _distribution(field: str, dimension: Dimension) -> "BaseDistribution":
    """Where a field is drawn from, as Optuna has it."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if dimension.choices is not None:
        return CategoricalDistribution(dimension.choices)
    low, high, step = dimension.low, dimension.high, dimension.step
    if low is None or high is None:
        raise StepError(f"{field}: a range has two ends")
    whole = field in WHOLE
    last = point_of(dimension, dimension.num_points - 1, whole=whole) if whole or step is not None else high
    if whole:
        return IntDistribution(int(low), int(last), log=dimension.log, step=int(step or 1))
    return FloatDistribution(low, last, log=dimension.log, step=step)


def _past(
    run: StepRun, objective: Mapping[str, Any], space: Mapping[str, Dimension], distributions: Mapping[str, "BaseDistribution"]
) -> Iterator["FrozenTrial"]:
    """The trials before, as Optuna knows them: with a figure, without one, or with none yet.

    One that lies outside of the present space says nothing of it, and is left out.
    """
    from optuna.trial import TrialState, create_trial

    reports = _reports(run)
    for number in range(sum(name.startswith(f"{HYPERPARAMETERS}-") for name in run.request.inputs)):
        values = read_hyperparameters(run.input(f"{HYPERPARAMETERS}-{number}")).values
        if not all(contains(space[field], field, values[field]) for field in distributions):
            continue
        chosen: dict[str, Any] = {"params": dict(values), "distributions": dict(distributions)}
        score = score_of(reports[number], objective) if number < len(reports) else None
        if score is not None:
            yield create_trial(value=score, **chosen)
        else:  # one that diverged is worse than any that did not; one at work counts as such until it is known
            yield create_trial(state=TrialState.PRUNED if number < len(reports) else TrialState.RUNNING, **chosen)

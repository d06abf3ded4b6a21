"""Specs of searches: what is refused, where, and with which words."""

from typing import get_args

import pytest
from tests.conftest import DEPLOYMENT, MODEL, SPECS, SUITE
from tests.searching import searched
from tests.spec.test_branch import branching_model
from tests.spec.test_continue_spec import MORE, NEXT
from tests.spec.test_dpo_spec import PREFERRING
from tests.spec.test_sft_spec import TUNED

from forge.spec.load import load
from forge.spec.resolve import resolve
from forge.spec.schema import schemas
from forge.spec.sweep import MOST_TRIALS, Searched

SWEEP = """\
apiVersion: forge/v1
kind: Sweep
metadata: {name: small}
spec:
  objective: {suite: EvalSuite/search, task: search_bpb, metric: bits_per_byte, direction: minimize}
  rounds:
    - trials: 4
      sampler: {name: tpe, startup_trials: 2}
      space:
        training.optimizer.lr: {low: 1.0e-3, high: 1.0e-2, log: true}
        training.seed: {choices: [5, 6]}
  trial: {training.tokens: 20k}
"""
SEARCH = SUITE.replace("small_bpb", "search_bpb").replace("name: small", "name: search")
LR = "training.optimizer.lr: {low: 1.0e-3, high: 1.0e-2, log: true}"
SEED = "training.seed: {choices: [5, 6]}"
TPE = "trials: 4\n      sampler: {name: tpe, startup_trials: 2}"
GRID = "sampler: {name: grid}"
ENOUGH = "  trial: {training.tokens: 20k}\n"


def faults(sweep: str = SWEEP, *, model: str = "", more: dict[str, str] | None = None) -> list[str]:
    """Diagnostics of the small example whose model names a sweep; ``more``: files by path, in the place of its own, too."""
    written = {
        **SPECS,
        "models/model.yaml": model or searched(MODEL),
        "models/more.yaml": MORE,
        "search.yaml": SEARCH,
        "sweep.yaml": sweep,
    }
    loaded = load((path, text.encode()) for path, text in {**written, **(more or {})}.items())
    found = [*loaded.diagnostics, *resolve(loaded.resources, loaded.broken).diagnostics]
    return [str(item) for item in sorted(found)]


def changed(*pairs: tuple[str, str], text: str = SWEEP) -> str:
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    return text


def test_a_search_is_valid() -> None:
    assert faults() == []
    assert faults(changed((ENOUGH, ""))) == []
    grid = changed((TPE, GRID), (LR, "training.optimizer.lr: {low: 1.0e-3, high: 1.0e-2, step: 1.0e-3}"))
    assert faults(grid) == []
    assert faults(changed((SEED, "training.seed: {low: 0, high: 3}"), text=grid)) == []  # whole numbers are counted
    assert faults(changed((SEED, "training.schedule.warmup_tokens: {low: 0, high: 2k, step: 1k}"))) == []


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "training.optimizer.lr:",
            "training.optimizer.lrr:",
            "sweep.yaml:10:9: unknown key `training.optimizer.lrr`; did you mean `training.optimizer.lr`?",
        ),
        (
            "training.tokens",
            "training.tokns",
            "sweep.yaml:12:11: unknown key `training.tokns`; did you mean `training.tokens`?",
        ),
        ("log: true", "logs: true", "sweep.yaml:10:60: unknown key `logs`; did you mean `log`?"),
        ("trials: 4", "trails: 4", "sweep.yaml:7:7: unknown key `trails`; did you mean `trials`?"),
        ("name: tpe", "name: tree", "sweep.yaml:8:23: `name` is 'tree', expected 'grid' or 'random' or 'tpe'"),
        ("name: tpe, ", "", "sweep.yaml:8:16: missing key `name`"),
        ("minimize", "lower", "sweep.yaml:5:92: `direction` is 'lower', expected 'minimize' or 'maximize'"),
        (
            "EvalSuite/search",
            "EvalSuite/serch",
            "sweep.yaml:5:22: there is no EvalSuite/serch; did you mean `EvalSuite/search`?",
        ),
        (
            "task: search_bpb",
            "task: search_bbp",
            "sweep.yaml:5:46: EvalSuite/search has no task `search_bbp`; did you mean `search_bpb`?",
        ),
        ("low: 1.0e-3, ", "", "sweep.yaml:10:32: `training.optimizer.lr`: give a list of choices, or both low and high"),
        ("low: 1.0e-3", "low: 1.0e-2", "sweep.yaml:10:32: `training.optimizer.lr`: low is not below high"),
        ("low: 1.0e-3", "low: 0", "`training.optimizer.lr`: on a logarithmic scale low is above 0, and there is no step"),
        (
            "log: true",
            "log: true, step: 1.0e-3",
            "`training.optimizer.lr`: on a logarithmic scale low is above 0, and there is",
        ),
        ("[5, 6]", "[5, 5]", "sweep.yaml:11:24: `training.seed`: a choice stands twice"),
        ("[5, 6]", "[]", "sweep.yaml:11:34: `choices`: List should have at least 1 item"),
        ("[5, 6]", "[5, 6], low: 5", "`training.seed`: choices and low: give a list of choices, or a range from low to high"),
        (
            "[5, 6]",
            "[5, 6], log: true",
            "`training.seed`: choices and log: give a list of choices, or a range from low to high",
        ),
        ("[5, 6]", "[5, 0.5]", "training.seed holds whole numbers, and 0.5 is none"),
        (SEED, "training.seed: {low: 0, high: 9.5}", "training.seed holds whole numbers, and 9.5 is none"),
        ("20k", "0.5", "sweep.yaml:5:3: `spec`: training.tokens holds whole numbers, and 0.5 is none"),
        ("20k", "a few", "`training.tokens`: expected a count such as 2000000, 100k, 2M or 1.5B, found 'a few'"),
        (
            "training.tokens: 20k",
            "training.seed: 7",
            "sweep.yaml:5:3: `spec`: training.seed is searched: `trial` cannot set it",
        ),
        ("trials: 4\n      ", "", "how many trials? `sampler: {name: tpe}` needs `trials`"),
        (TPE, "sampler: {name: random}", "how many trials? `sampler: {name: random}` needs `trials`"),
        ("name: tpe, startup_trials: 2", "name: grid", "a grid has as many trials as points: leave `trials` out"),
        (TPE, GRID, "a grid over training.optimizer.lr has no end: give it choices, or a step"),
        ("trials: 4", "trials: 501", "sweep.yaml:7:15: `trials`: Input should be less than or equal to 500, found 501"),
        ("trials: 4", "trials: 0", "sweep.yaml:7:15: `trials`: Input should be greater than or equal to 1, found 0"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(old: str, new: str, expected: str) -> None:
    found = faults(changed((old, new)))
    assert expected in found[0], found
    assert found[0].startswith("sweep.yaml:")
    assert len(found) == 1


def test_a_grid_of_whole_numbers_on_a_logarithmic_scale_has_no_steps_to_count() -> None:
    sweep = changed(
        (TPE, GRID), (LR, "training.optimizer.lr: {choices: [1.0e-3]}"), (SEED, "training.seed: {low: 1, high: 9, log: true}")
    )
    (fault,) = faults(sweep)
    assert "a grid over training.seed has no end: give it choices, or a step" in fault


def test_all_rounds_search_the_same_fields() -> None:
    other = f"    - {GRID}\n      space: {{training.optimizer.lr: {{choices: [1.0e-3]}}}}\n{ENOUGH}"
    (fault,) = faults(changed((ENOUGH, other)))
    assert fault == (
        "sweep.yaml:5:3: `spec`: round 2 and the first do not search the same fields: training.seed is only in one of them"
    )


def test_the_trials_of_all_rounds_are_counted_together_and_a_large_grid_before_it_is_walked() -> None:
    space = f"{{{LR.replace('log: true', 'step: 1.0e-3')}, training.seed: {{low: 1, high: {10**12}}}}}"
    begin = SWEEP.index(TPE)
    (fault,) = faults(SWEEP[:begin] + f"{GRID}\n      space: {space}\n")
    told = "10,000,000,000,000 trials in all rounds together: a search has 500 at most"
    assert (fault, MOST_TRIALS) == (f"sweep.yaml:5:3: `spec`: {told}", 500)
    space = f"\n      space:\n        {LR}\n        {SEED}\n"
    rounds = [f"    - trials: {trials}\n      sampler: {{name: random}}{space}" for trials in (MOST_TRIALS, 1)]
    head = SWEEP[: SWEEP.index("    - trials")]
    assert faults(head + rounds[0]) == []
    assert "501 trials in all rounds together: a search has 500 at most" in faults(head + "".join(rounds))[0]


def fit(model: str, *fields: str, trial: str = "") -> list[str]:
    """What is said of a model, the example's own or one beside it, whose sweep searches some fields."""
    space = "".join(f"\n        {field}" for field in fields)
    sweep = SWEEP[: SWEEP.index("\n        training")] + space + (f"\n  trial: {{{trial}}}" if trial else "") + "\n"
    is_own = "{name: small}" in model
    found = faults(sweep, model=searched(model) if is_own else MODEL, more={} if is_own else {"next.yaml": searched(model)})
    return [fault.split("Sweep/small does not fit ", 1)[-1] for fault in found]


COSINE = MODEL.replace("{name: wsd, warmup_tokens: 2k, decay_tokens: 10k}", "{name: cosine, warmup_tokens: 2k}")
PLAIN = TUNED[: TUNED.index("  adapter:")]
UNCLIPPED = MODEL.replace("{lr: 5.0e-3}", "{lr: 5.0e-3, gradient_clip_norm: null}")


@pytest.mark.parametrize(
    ("model", "field", "expected"),
    [
        (COSINE, "training.schedule.decay_tokens: {low: 0, high: 9k}", "training.schedule.decay_tokens"),
        (UNCLIPPED, "training.optimizer.gradient_clip_norm: {choices: [0.5, 2]}", "training.optimizer.gradient_clip_norm"),
        (MODEL, "beta: {choices: [0.1, 0.3]}", "beta"),
        (TUNED, "beta: {choices: [0.1, 0.3]}", "beta"),
        (MODEL, "replay.fraction: {choices: [0.1, 0.3]}", "replay.fraction"),
        (MODEL, "adapter.lora.rank: {choices: [2, 4]}", "adapter.lora.rank"),
        (PLAIN, "adapter.lora.rank: {choices: [2, 4]}", "adapter.lora.rank"),
    ],
)
def test_a_model_without_the_field_is_not_searched_for_it(model: str, field: str, expected: str) -> None:
    (found,) = fit(model, field)
    assert found.endswith(f": it has no {expected}, or none is set")
    assert found.startswith("Model/")


def test_what_trials_alone_are_to_have_has_to_be_a_field_too() -> None:
    (fault,) = fit(MODEL, LR, trial="beta: 0.2")
    assert fault == "Model/small: it has no beta, or none is set"


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        (PREFERRING, ["beta: {choices: [0.1, 0.3]}", "adapter.lora.alpha: {low: 1, high: 8}"]),
        (TUNED, ["adapter.lora.rank: {low: 1, high: 8}", "adapter.lora.dropout: {low: 0, high: 0.5}"]),
        (NEXT, ["replay.fraction: {low: 0.1, high: 0.5}", "training.batch_tokens: {choices: [512, 1024]}"]),
    ],
)
def test_each_objective_is_searched_for_its_own_fields(model: str, fields: list[str]) -> None:
    assert fit(model, *fields) == []


LONGER = "the schedule's warm-up and decay are longer than the training (tokens)"
SHARED = TUNED.replace("  adapter:", "  resources: {count: 4}\n  adapter:")


@pytest.mark.parametrize(
    ("model", "field", "value", "expected"),
    [
        (MODEL, "training.batch_tokens: {choices: [1024, 1000]}", "1000", "batch_tokens must be a multiple of sequence_length"),
        (MODEL, "training.schedule.decay_tokens: {low: 10k, high: 39k}", "39000", LONGER),
        (MODEL, "training.optimizer.weight_decay: {low: -1, high: 0.5}", "-1", "Input should be greater than or equal to 0"),
        (MODEL, "training.schedule.final_lr_fraction: {low: 0, high: 2}", "2", "Input should be less than or equal to 1"),
        (TUNED, "adapter.lora.dropout: {low: 0, high: 1}", "1", "Input should be less than 1"),
        (TUNED, "adapter.lora.rank: {low: 0, high: 8}", "0", "Input should be greater than or equal to 1"),
        (SHARED, "training.batch_tokens: {choices: [512, 256]}", "256", "a batch of 2 sequences cannot be dealt out to"),
        (PREFERRING, "beta: {low: 0, high: 1}", "0", "Input should be greater than 0"),
        (PREFERRING, "training.batch_tokens: {choices: [512, 128]}", "128", "a pair is two sequences, which are read together"),
        (NEXT, "replay.fraction: {low: 1.0e-4, high: 0.5}", "0.0001", "replay.fraction of the training's sequences is not one"),
        (NEXT, "replay.fraction: {low: 0.1, high: 1}", "1", "Input should be less than 1"),
    ],
)
def test_every_value_is_one_that_the_model_could_be_written_with(model: str, field: str, value: str, expected: str) -> None:
    (fault,) = fit(model, field)
    name = field.partition(":")[0]
    place = f"{name}: " if expected.startswith("Input") else ""
    assert fault.partition(": ")[2].startswith(f"with {name} {value}: {place}{expected}")


def test_of_a_range_the_values_are_tried_that_it_has_and_not_what_lies_beyond_its_last_step() -> None:
    assert fit(MODEL, "training.batch_tokens: {low: 512, high: 1100, step: 512}") == []
    (fault,) = fit(MODEL, "training.batch_tokens: {low: 512, high: 1024}")
    assert fault == "Model/small: with training.batch_tokens 513: batch_tokens must be a multiple of sequence_length"
    (fault,) = fit(MODEL, "training.batch_tokens: {low: 512, high: 1024, step: 100}")
    assert fault == "Model/small: with training.batch_tokens 612: batch_tokens must be a multiple of sequence_length"
    (fault,) = fit(MODEL, "training.batch_tokens: {low: 512, high: 1024, log: true}")
    assert "batch_tokens 513" in fault


def test_steps_between_the_ends_are_tried_where_they_are_few() -> None:
    """3,072 tokens are 48 sequences, which 32 of a forward pass do not divide; neither end says so."""
    (fault,) = fit(
        MODEL.replace("    seed: 5\n", "    seed: 5\n    micro_batch_sequences: 32\n").replace(
            "batch_tokens: 1024", "batch_tokens: 2048"
        ),
        "training.batch_tokens: {low: 2048, high: 4096, step: 1024}",
    )
    assert "with training.batch_tokens 3072: " in fault


def test_whole_numbers_may_be_written_as_floats() -> None:
    assert fit(MODEL, "training.batch_tokens: {choices: [1024.0, 2.048e+3]}", trial="training.tokens: 2.0e+4") == []


def test_values_are_tried_together() -> None:
    fields = [f"training.schedule.{name}_tokens: {{low: 0, high: 30k}}" for name in ("warmup", "decay")]
    (fault,) = fit(MODEL, *fields)
    told = "with training.schedule.decay_tokens 30000, training.schedule.warmup_tokens 30000"
    assert fault == f"Model/small: {told}: {LONGER}"


def test_trials_are_to_fit_with_what_they_alone_have_and_the_model_without_it() -> None:
    """The schedule as it is written, in fewer tokens; and the longest that is searched, in the tokens of the model itself."""
    (fault,) = fit(MODEL, LR, trial="training.tokens: 5k")
    assert fault == f"Model/small: with training.tokens 5000, training.optimizer.lr 0.005: {LONGER}"
    (fault,) = fit(MODEL, "training.schedule.decay_tokens: {choices: [1k, 2k]}", trial="training.tokens: 5k")
    assert fault == f"Model/small: with training.tokens 5000, training.schedule.decay_tokens 10000: {LONGER}"
    (fault,) = fit(MODEL, "training.schedule.decay_tokens: {low: 1k, high: 50k}", trial="training.tokens: 80k")
    assert fault == f"Model/small: with training.schedule.decay_tokens 50000: {LONGER}"


def test_each_end_is_tried_however_many_fields_there_are() -> None:
    """They have more corners than are tried: still, the first field's highest value is, and all the highest together are."""
    names = ("eps", "gradient_clip_norm", "lr", "weight_decay")
    rates = [f"training.optimizer.{name}: {{low: 1.0e-9, high: 0.5}}" for name in names]
    rest = ["training.schedule.final_lr_fraction: {low: 0, high: 1}", "training.schedule.warmup_tokens: {low: 0, high: 9k}"]
    assert fit(MODEL, "training.batch_tokens: {choices: [512, 1024]}", *rates, *rest) == []
    (fault,) = fit(MODEL, "training.batch_tokens: {choices: [512, 1024, 1000]}", *rates, *rest)
    assert fault.startswith("Model/small: with training.batch_tokens 1000, ")
    decay = "training.schedule.decay_tokens: {low: 0, high: 32k}"
    (fault,) = fit(MODEL, "training.batch_tokens: {choices: [512, 1024]}", *rates, *rest, decay)
    assert fault.endswith(LONGER)


def test_a_model_says_which_sweep_there_is_and_where() -> None:
    assert faults(model=searched(MODEL, "smal")) == [
        "models/model.yaml:6:10: there is no Sweep/smal; did you mean `Sweep/small`?"
    ]
    (fault,) = faults(model=searched(MODEL).replace("Sweep/small", "small"))
    assert fault == "models/model.yaml:6:10: `sweep` is 'small', expected a reference such as Sweep/NAME"
    assert faults(model=searched(MODEL).replace("Sweep/small", "null")) == []


OTHER = SUITE.replace("small_bpb", "other_bpb").replace("name: small", "name: other")
TOLD = "(Sweep/small), so that says nothing of it: gate on one that no search reads"


def gate(suite: str, task: str, model: str = "small") -> dict[str, str]:
    """The deployment, gated on another suite."""
    text = DEPLOYMENT.replace("EvalSuite/small", f"EvalSuite/{suite}").replace("small_bpb", task)
    return {"models/deployment.yaml": text.replace("Model/small", f"Model/{model}"), "other.yaml": OTHER}


def test_no_gate_asks_for_the_suite_that_the_search_chose_by() -> None:
    assert faults(more=gate("other", "other_bpb")) == []
    (fault,) = faults(more=gate("search", "search_bpb"))
    assert fault == f"models/deployment.yaml:9:14: Model/small was chosen by EvalSuite/search {TOLD}"
    another = {"search.yaml": SEARCH.replace("[search_bpb]", "[search_bpb, more_bpb]")}
    (fault,) = faults(more={**gate("search", "more_bpb"), **another})  # another task of the suite
    assert "was chosen by EvalSuite/search" in fault


def test_no_gate_asks_for_the_task_that_the_search_chose_by_in_another_suite() -> None:
    shared = {"other.yaml": OTHER.replace("[other_bpb]", "[other_bpb, search_bpb]")}
    assert faults(more={**gate("other", "other_bpb"), **shared}) == []
    (fault,) = faults(more={**gate("other", "search_bpb"), **shared})
    assert fault == f"models/deployment.yaml:9:14: Model/small was chosen by the task search_bpb {TOLD}"


def test_no_gate_of_a_model_asks_for_what_its_base_was_chosen_by() -> None:
    third = NEXT.replace("{name: next}", "{name: third}").replace("Model/small", "Model/next")
    models = {"next.yaml": NEXT, "third.yaml": third}
    for model in ("next", "third"):
        (fault,) = faults(more={**models, **gate("search", "search_bpb", model)})
        assert fault.endswith(f"Model/small was chosen by EvalSuite/search {TOLD}")
    of_next = {"next.yaml": searched(NEXT), **gate("search", "search_bpb")}
    assert faults(model=MODEL, more=of_next) == []  # its base was not chosen


def test_a_branch_is_not_searched_and_what_is_searched_is_not_branched_from() -> None:
    branch = branching_model("b", "{model: Model/small, step: 4}", ("lr: 5.0e-3", "lr: 1.0e-3"))
    (fault,) = faults(model=MODEL, more={"branch.yaml": searched(branch)})
    told = "a branch is not searched: it shares its first steps with another training; leave `from` or `sweep` out"
    assert fault == f"branch.yaml:6:10: {told}"
    (fault,) = faults(more={"branch.yaml": branch})
    told = "Model/b branches from it: a training that is searched for is not known by its steps; leave `sweep` out"
    assert fault == f"models/model.yaml:6:10: {told}"


def test_editors_know_the_fields_that_can_be_searched() -> None:
    schema = schemas()["Sweep"]
    assert schema["$defs"]["Round"]["properties"]["space"]["propertyNames"]["enum"] == list(get_args(Searched))
    assert set(schema["$defs"]["Round"]["required"]) == {"sampler", "space"}

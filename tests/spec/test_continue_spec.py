"""Specs of models that continue others: what is refused, where, and with which words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.conftest import DATA, DEPLOYMENT, MODEL, SPECS

from forge.spec.lineage import lineages
from forge.spec.load import load
from forge.spec.resolve import resolve
from forge.spec.schema import schemas

MORE = DATA.replace("name: small", "name: more").replace("seed: 3", "seed: 4")
NEXT = """\
apiVersion: forge/v1
kind: Model
metadata: {name: next}
spec:
  objective: continue
  base: {model: Model/small}
  data: DataRecipe/more
  replay: {data: DataRecipe/small, fraction: 0.25}
  training:
    tokens: 20k
    sequence_length: 64
    batch_tokens: 1024
    optimizer: {lr: 1.0e-3}
    schedule: {name: wsd, warmup_tokens: 1k, decay_tokens: 5k}
"""


def faults(text: str, *others: str, **replaced: str) -> list[str]:
    """Diagnostics of the small example, a recipe, and one more file that is called next.yaml."""
    specs = {**SPECS, "models/more.yaml": MORE, "next.yaml": text, **{f"{n}.yaml": each for n, each in enumerate(others)}}
    specs |= {f"models/{name}.yaml": each for name, each in replaced.items()}
    loaded = load((path, each.encode()) for path, each in specs.items())
    found = [*loaded.diagnostics, *resolve(loaded.resources, loaded.broken).diagnostics]
    return [str(item) for item in sorted(found)]


def test_a_continued_model_is_valid() -> None:
    assert faults(NEXT) == []
    assert faults(NEXT.replace("{model: Model/small}", "{path: vendor/base, license: MIT, origin: elsewhere}")) == []


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "  data: DataRecipe/more",
            "  tokenizer: Tokenizer/small\n  data: DataRecipe/more",
            ["next.yaml:7:3: unknown key `tokenizer`; a continued model has its base's tokenizer: leave it out"],
        ),
        (
            "  data: DataRecipe/more",
            "  architecture: {hidden_size: 64}\n  data: DataRecipe/more",
            ["next.yaml:7:3: unknown key `architecture`; a continued model has its base's architecture: leave it out"],
        ),
        (
            "objective: continue",
            "objective: contine",
            ["next.yaml:5:14: `objective` is 'contine', expected 'pretrain' or 'continue' or 'sft' or 'dpo'"],
        ),
        ("  objective: continue\n", "", ["next.yaml:5:3: missing key `objective`"]),
        ("  base: {model: Model/small}\n", "", ["next.yaml:5:3: missing key `base`"]),
        (
            "{model: Model/small}",
            "{}",
            ["next.yaml:6:9: `base`: expected `model: Model/NAME`, or `path: FOLDER` with its licence and origin"],
        ),
        (
            "{model: Model/small}",
            "Model/small",
            [
                (
                    "next.yaml:6:9: `base`: expected `model: Model/NAME`, or `path: FOLDER` with its licence and origin, found "
                    "'Model/small'"
                )
            ],
        ),
        (
            "{model: Model/small}",
            "{model: Model/small, path: vendor}",
            ["next.yaml:6:30: unknown key `path`; a base is a model or a folder: leave out `model` or `path`"],
        ),
        (
            "{model: Model/small}",
            "{path: vendor}",
            ["next.yaml:6:9: missing key `license`", "next.yaml:6:9: missing key `origin`"],
        ),
        (
            "{model: Model/small}",
            "{model: small}",
            ["next.yaml:6:17: `model` is 'small', expected a reference such as Model/NAME"],
        ),
        (
            "{model: Model/small}",
            "{model: Model/smal}",
            ["next.yaml:6:17: there is no Model/smal; did you mean `Model/small`?"],
        ),
        (
            "base: {model",
            "bass: {model",
            ["next.yaml:5:3: missing key `base`", "next.yaml:6:3: unknown key `bass`; did you mean `base`?"],
        ),
        ("Model/small}", "Model/next}", ["next.yaml:6:17: Model/next continues itself: a chain of bases begins with"]),
        ("fraction: 0.25", "fraction: 1.0", ["next.yaml:8:46: `fraction`: Input should be less than 1, found 1.0"]),
        ("fraction: 0.25", "fraction: .nan", ["next.yaml:8:46: not a finite number: .nan"]),
        ("DataRecipe/small, f", "DataRecipe/more, f", ["next.yaml:5:3: `spec`: replay.data is DataRecipe/more, which"]),
        ("fraction: 0.25", "fraction: 0.001", ["next.yaml:5:3: `spec`: replay.fraction of the training's"]),
        (
            "sequence_length: 64",
            "sequence_length: 512",
            ["next.yaml:11:22: `sequence_length` is 512, but Model/small has 256 positions (max_position_embeddings)"],
        ),
    ],
)
def test_what_is_wrong_is_named_with_its_place(old: str, new: str, expected: list[str]) -> None:
    assert old in NEXT
    found = faults(NEXT.replace(old, new))
    assert len(found) == len(expected), found
    for fault, beginning in zip(found, expected, strict=True):
        assert fault.startswith(beginning)


def test_a_base_in_a_pretraining_is_no_key_of_it() -> None:
    assert "unknown key `base`" in faults(NEXT, model=MODEL.replace("spec:\n", "spec:\n  base: {model: Model/next}\n"))[0]


def test_a_circle_of_bases_is_refused_at_each_of_its_models() -> None:
    models = [NEXT.replace("name: next", f"name: m{n}").replace("Model/small", f"Model/m{(n + 1) % 3}") for n in range(3)]
    found = faults(NEXT.replace("Model/small", "Model/m0"), *models)
    assert [fault.split(": ", 1)[0] for fault in found] == ["0.yaml:6:17", "1.yaml:6:17", "2.yaml:6:17"]
    assert "Model/m1 continues Model/m2, which continues Model/m0, which continues Model/m1: a chain" in found[1]


def test_a_deployment_is_held_to_the_positions_of_the_base() -> None:
    deployment = DEPLOYMENT.replace("Model/small", "Model/next") + "  engine: {max_model_len: 300}\n"
    (fault,) = faults(NEXT, deployment=deployment)
    assert "`max_model_len` is 300, but Model/next has 256 positions" in fault


def test_a_supply_chain_allows_the_licence_of_a_folder_too() -> None:
    roles = {
        "data-steward": "curate",
        "trainer": "tokenizer, tokenize, train",
        "evaluator": "evaluate, gate",
        "releaser": "release",
    }
    listed = "".join(f"    {name}: {{steps: [{steps}]}}\n" for name, steps in roles.items())
    chain = f"""\
apiVersion: forge/v1
kind: SupplyChain
metadata: {{name: rules}}
spec:
  roles:
{listed}  release: {{licenses: [GPL-2.0-or-later]}}
  expires: "2036-01-01T00:00:00Z"
"""
    base = "{path: vendor/base, license: CC-BY-NC-4.0, origin: elsewhere}"
    (fault,) = faults(NEXT.replace("{model: Model/small}", base), chain)
    assert fault == "next.yaml:6:38: `license` is 'CC-BY-NC-4.0'; the SupplyChain allows GPL-2.0-or-later"


@given(st.dictionaries(st.integers(0, 9), st.none() | st.integers(0, 9), max_size=10))
def test_every_model_has_a_root_a_circle_or_a_base_that_is_not_there(numbers: dict[int, int | None]) -> None:
    bases = {str(name): None if base is None else str(base) for name, base in numbers.items()}
    found = lineages(bases)
    for name in bases:
        seen: list[str] = []
        at: str | None = name
        while at is not None and at in bases and at not in seen:
            seen.append(at)
            at = bases[at]
        assert found.roots.get(name) == (seen[-1] if at is None else None)
        assert any(name in circle for circle in found.circles) is (at == name)
    assert all(bases[name] == circle[(n + 1) % len(circle)] for circle in found.circles for n, name in enumerate(circle))


def test_editors_get_a_schema_for_each_objective() -> None:
    schema = schemas()["Model"]
    assert schema["properties"]["spec"]["discriminator"]["mapping"].keys() == {"pretrain", "continue", "sft", "dpo"}
    assert set(schema["$defs"]["ContinueSpec"]["required"]) == {"objective", "base", "data", "training"}
    assert len(schema["$defs"]["ContinueSpec"]["properties"]["base"]["oneOf"]) == 2


def test_no_circle_reaches_the_planner() -> None:
    loaded = load([("a.yaml", NEXT.replace("Model/small", "Model/next").encode())])
    assert len(resolve(loaded.resources).diagnostics) == 3  # and no error is raised for it; both recipes are missing

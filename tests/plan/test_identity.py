"""Step keys that no upgrade may change: a corpus of committed (spec, key) pairs, and the laws they follow."""

import json
from pathlib import Path
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.plan.full import (
    desired_from,
    full_documents,
    later_documents,
    mixed_documents,
    nanotron_documents,
    own_keys,
    remote_documents,
)
from tests.plan.world import World, desired_of

from forge.canonical import canonical_json, digest_of_bytes
from forge.contract.kinds import STEPS, StepKind
from forge.plan.desired import Bundle, BundleFile
from forge.plan.step import Step, key_of, step_key
from forge.spec.load import load

CORPUS = Path(__file__).with_name("step_keys.json")


def keys_of_the_small_example() -> dict[str, str]:
    world = World()
    world.apply(desired_of(), product=lambda step, key: step.id)
    return {step_id: record.key for step_id, record in world.newest.items()}


def test_no_upgrade_changes_a_step_key() -> None:
    """To accept a deliberate change (a raised step version), write the printed keys to step_keys.json."""
    found = keys_of_the_small_example()
    found |= {f"every field written: {step}": key for step, key in own_keys(desired_from(full_documents())).items()}
    later = own_keys(desired_from(later_documents()))
    written = (("datarecipe", "curate/a"), ("conversations", "train/e"), ("preferences", "train/g"))
    found |= {f"later fields written: {what}": later[step] for what, step in written}
    found["documents apart: train/a"] = own_keys(desired_from(later_documents("spec.training")))["train/a"]
    found["experts written: train/a"] = own_keys(desired_from(later_documents("spec.architecture")))["train/a"]
    found["trained by nanotron: train/a"] = own_keys(desired_from(nanotron_documents()))["train/a"]
    found["sources from outside written: curate/a"] = own_keys(desired_from(remote_documents()))["curate/a"]
    regions = full_documents()
    regions["DataRecipe/a"]["spec"]["pii"]["phone_regions"] = ["US", "DE"]
    found["telephone regions written: curate/a"] = own_keys(desired_from(regions))["curate/a"]
    found["a mixture written: train/a"] = own_keys(desired_from(mixed_documents()))["train/a"]
    assert found == json.loads(CORPUS.read_text()), json.dumps(found, indent=2)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=8), values, max_size=5))
def test_the_order_of_keys_does_not_change_an_identity(parameters: dict[str, object]) -> None:
    turned = dict(reversed(list(parameters.items())))
    assert step_key(StepKind.TRAIN, 1, parameters, {}) == step_key(StepKind.TRAIN, 1, turned, {})


@given(st.integers(1, 9), st.integers(1, 9))
def test_kind_version_and_inputs_are_part_of_an_identity(first: int, second: int) -> None:
    same = first == second
    assert (step_key(StepKind.TRAIN, first, {}, {}) == step_key(StepKind.TRAIN, second, {}, {})) is same
    assert (step_key(StepKind.TRAIN, 1, {}, {"a": str(first)}) == step_key(StepKind.TRAIN, 1, {}, {"a": str(second)})) is same
    assert step_key(StepKind.TRAIN, 1, {}, {}) != step_key(StepKind.GATE, 1, {}, {})


@given(
    st.dictionaries(st.text(max_size=8), values, max_size=5),
    st.dictionaries(st.sampled_from(["weights", "source-0", "tasks"]), st.just("sha256:" + "0" * 64)),
)
def test_the_key_made_of_canonical_parameters_is_the_step_key(parameters: dict[str, object], inputs: dict[str, str]) -> None:
    step = Step("gate/x", StepKind.GATE, "x", "Deployment/x", canonical_json(parameters).decode(), {})
    assert key_of(step, inputs) == step_key(StepKind.GATE, STEPS[StepKind.GATE].version, parameters, inputs)
    assert step_key(StepKind.GATE, 1, step.parameters, {}) == step_key(StepKind.GATE, 1, parameters, {})


@given(st.dictionaries(st.text('abc/"\\\u2028é\x01.', min_size=1, max_size=6), st.integers(0, 2**53 - 1), max_size=4))
def test_a_bundles_digest_is_its_manifests(sizes: dict[str, int]) -> None:
    bundle = Bundle({path: BundleFile(size, digest_of_bytes(path.encode())) for path, size in sizes.items()})
    try:
        expected = bundle.manifest.digest
    except ValueError:
        return  # no artifact can have such a path
    assert bundle.digest == expected


@settings(deadline=None)  # every kind is loaded: on a busy machine that takes longer than the default allows
@given(st.randoms(use_true_random=False), st.text(st.sampled_from("# abc:-{}[]"), max_size=20))
def test_order_comments_and_white_space_change_no_identity(random: Random, comment: str) -> None:
    documents = full_documents()
    expected = own_keys(desired_from(documents))
    found = {}
    order = list(documents)
    random.shuffle(order)
    for address in order:
        text = _written(documents[address], random, "# " + comment)
        (located,) = load([(f"{random.random()}.yaml", text.encode())]).resources
        found[address] = located.document.value
    assert own_keys(desired_from(found)) == expected


def _written(value: object, random: Random, comment: str, depth: int = 0) -> str:
    """YAML of a value, with its keys in any order, comments between them, and any width of indentation."""
    if not isinstance(value, dict) or not value:
        return f" {json.dumps(value)}{random.choice(['', '  ', ' ' + comment])}\n"
    keys = list(value)
    random.shuffle(keys)
    indent = " " * (depth * random.choice([2, 3]) if depth < 2 else depth * 3)
    rows = [f"{indent}{json.dumps(key)}:{_written(value[key], random, comment, depth + 1)}" for key in keys]
    return "\n" + random.choice(["", indent + comment + "\n"]) + "".join(rows)

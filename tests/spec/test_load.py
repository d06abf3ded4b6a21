"""Specs that are wrong: every fault in one run, each with its place and what to do."""

import pytest
from tests.conftest import MODEL, SPECS, TOKENIZER

from forge.errors import PlanError
from forge.spec.load import load
from forge.spec.resolve import order, resolve


def faults(text: str, path: str = "m.yaml") -> list[str]:
    return [str(diagnostic) for diagnostic in sorted(load([(path, text.encode())]).diagnostics)]


def all_faults(changes: dict[str, tuple[str, str]]) -> list[str]:
    """Diagnostics of the small example with (old, new) replaced in some of its files."""
    files = []
    for path, text in SPECS.items():
        old, new = changes.get(path, ("", ""))
        assert old in text
        files.append((path, text.replace(old, new).encode()))
    loaded = load(files)
    return [str(item) for item in sorted([*loaded.diagnostics, *resolve(loaded.resources, loaded.broken).diagnostics])]


def test_the_small_example_is_valid() -> None:
    assert all_faults({}) == []


def test_unknown_key_suggests_the_near_one() -> None:
    (missing, unknown) = faults(MODEL.replace("hidden_size: 32", "hiden_size: 32"))
    assert missing == "m.yaml:8:17: missing key `hidden_size`"
    assert unknown == "m.yaml:8:33: unknown key `hiden_size`; did you mean `hidden_size`?"


def test_all_faults_of_all_files_are_reported_at_once() -> None:
    found = all_faults(
        {
            "models/model.yaml": ("seed: 5", "sed: 5"),
            "models/tokenizer.yaml": ("vocab_size: 512", "vocab_size: many"),
            "policies/small.yaml": ("max_tokens: 32", "max_tokens: 0"),
        }
    )
    assert [fault.split(": ", 1)[1].split(",")[0] for fault in found] == [
        "unknown key `sed`; did you mean `seed`?",
        "`vocab_size`: expected a count such as 2000000",
        "`max_tokens`: Input should be greater than or equal to 1",
    ]


def test_the_references_of_a_broken_spec_are_checked_too() -> None:
    broken = MODEL.replace("hidden_size: 32", "hiden_size: 32").replace("Tokenizer/small", "Tokenizer/smal")
    found = all_faults({"models/model.yaml": (MODEL, broken)})
    assert [fault.split(": ", 1)[1] for fault in found] == [
        "there is no Tokenizer/smal; did you mean `Tokenizer/small`?",
        "missing key `hidden_size`",
        "unknown key `hiden_size`; did you mean `hidden_size`?",
    ]


def test_unknown_key_inside_a_schedule_names_the_schedules_own_keys() -> None:
    found = faults(MODEL.replace("warmup_tokens", "warmup_token"))
    assert "m.yaml:15:27: unknown key `warmup_token`; did you mean `warmup_tokens`?" in found


def test_wrong_type_shows_what_was_found() -> None:
    (fault,) = faults(MODEL.replace("num_hidden_layers: 2", 'num_hidden_layers: "2"'))
    assert fault == "m.yaml:8:69: `num_hidden_layers`: Input should be a valid integer, found '2'"


def test_a_bare_name_is_no_reference() -> None:
    (fault,) = faults(MODEL.replace("DataRecipe/small", "small"))
    assert fault.endswith("`data` is 'small', expected a reference such as DataRecipe/NAME")


def test_missing_reference_suggests_a_near_name() -> None:
    (fault,) = all_faults({"models/model.yaml": ("Tokenizer/small", "Tokenizer/smal")})
    assert fault == "models/model.yaml:7:14: there is no Tokenizer/smal; did you mean `Tokenizer/small`?"


def test_duplicate_name_points_to_the_first() -> None:
    files = [("a.yaml", MODEL.encode()), ("b.yaml", b"# moved down\n" + MODEL.encode())]
    diagnostics = resolve(load(files).resources).diagnostics
    assert any(str(item) == "b.yaml:4:18: Model/small is defined twice; first at a.yaml:1" for item in diagnostics)


def test_a_secret_in_yaml_is_refused() -> None:
    (fault,) = all_faults({"policies/small.yaml": ("env:FORGE_TEST_KEY", "sk-0123456789abcdef")})
    assert "a secret itself never stands in YAML" in fault


def test_a_threshold_for_an_unknown_task_is_refused() -> None:
    (fault,) = all_faults({"models/deployment.yaml": ("task: small_bpb", "task: small_bbp")})
    assert "EvalSuite/small has no task `small_bbp`; did you mean `small_bpb`?" in fault


def test_unknown_kind_and_version() -> None:
    assert faults("kind: Modell\n") == ["m.yaml:1:7: unknown kind `Modell`; did you mean `Model`?"]
    (fault,) = faults(MODEL.replace("forge/v1", "forge/v2"))
    assert fault == "m.yaml:1:13: unknown apiVersion `forge/v2`; this engine reads forge/v1"


def test_a_path_out_of_the_repository_is_refused() -> None:
    for path in ("../secrets/*.jsonl", "/etc/passwd", "a/../../b"):
        (fault,) = all_faults({"models/data.yaml": ("corpus/*.jsonl.gz", path)})
        assert "expected a path inside the repository" in fault


def test_numbers_are_normalised() -> None:
    values = []
    for text in ("40k", "40_000", "40000", "0.04M"):
        loaded = load([("m.yaml", MODEL.replace("tokens: 40k", f"tokens: {text}").encode())])
        assert not loaded.diagnostics
        values.append(loaded.resources[0].resource.spec.training.tokens)
    assert values == [40_000] * 4


def test_a_circle_of_references_is_named() -> None:
    with pytest.raises(PlanError, match=r"refer to each other in a circle: a -> c -> b -> a|a -> b -> c -> a"):
        order({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": set()})
    assert order({"b": {"a"}, "c": set(), "a": set()}) == ["a", "c", "b"]


@pytest.mark.parametrize("kind", ["People", "SupplyChain", "Withdrawals"])
def test_what_a_commit_says_of_people_rules_and_withdrawals_cannot_be_suspended(kind: str) -> None:
    paused = f'apiVersion: forge/v1\nkind: {kind}\nmetadata: {{name: a, annotations: {{forge/suspend: "true"}}}}\nspec: {{}}\n'
    assert any(f"`forge/suspend` has no effect on {kind}: " in fault for fault in faults(paused))
    assert not any("forge/suspend" in fault for fault in faults(paused.replace('"true"', '"false"')))


def metadata_faults(metadata: str) -> list[str]:
    return faults(MODEL.replace("metadata: {name: small}", f"metadata:\n  name: small\n{metadata}"))


def test_the_engines_own_annotations_are_checked_and_others_are_free() -> None:
    assert metadata_faults('  annotations: {forge/suspend: "true", team.example/note: anything}\n') == []
    assert metadata_faults("  annotations:\n    note: x\n    forge/suspnd: x\n") == [
        "m.yaml:7:5: unknown annotation `forge/suspnd`; did you mean `forge/suspend`? No other begins with forge/"
    ]
    (fault,) = metadata_faults("  annotations: {Forge/Suspend: x}\n")
    assert "did you mean `forge/suspend`?" in fault
    (fault,) = metadata_faults("  annotations:\n    forge/suspend: yes\n")
    assert fault == 'm.yaml:6:20: `forge/suspend` is \'yes\', expected "true" or "false"'
    (fault,) = metadata_faults("  annotations:\n    forge/suspend: true\n")
    assert fault == 'm.yaml:6:20: `forge/suspend` is True, expected "true" or "false": put it in quotes'


def test_a_previous_name_has_to_be_free_and_leads_to_one_heir() -> None:
    name = "name: small}"
    (fault,) = all_faults({"models/model.yaml": (name, "name: small, previous_name: small}")})
    assert fault.startswith("models/model.yaml:3:40: `previous_name` is small's own name")
    (fault,) = all_faults({"models/model.yaml": (name, "name: small, previous_name: Small}")})
    assert "expected lower-case letters" in fault
    files = [(path, text.encode()) for path, text in SPECS.items()]
    second = MODEL.replace(name, "name: second, previous_name: small}").encode()
    (found,) = resolve(load([*files, ("b.yaml", second)]).resources).diagnostics
    assert str(found).startswith("b.yaml:3:41: Model/small still exists: a name that is in use has its own history")
    third = MODEL.replace(name, "name: third, previous_name: gone}").encode()
    fourth = MODEL.replace(name, "name: fourth, previous_name: gone}").encode()
    (found,) = resolve(load([*files, ("b.yaml", third), ("c.yaml", fourth)]).resources).diagnostics
    assert str(found) == "c.yaml:3:41: Model/gone is already the previous name of Model/third: one history has one heir"


def test_a_missing_reference_that_thousands_have_is_reported_without_comparing_everything() -> None:
    files = [(f"{n}.yaml", TOKENIZER.replace("name: small}", f"name: t{n}}}").encode()) for n in range(300)]
    files = [(path, data.replace(b"DataRecipe/small", b"DataRecipe/x%d" % n)) for n, (path, data) in enumerate(files)]
    assert len(resolve(load(files).resources).diagnostics) == 300

"""The evaluate step: right numbers, equal bytes, and task files that can do nothing but ask."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.steps.conftest import RunStep

from forge.contract.verdict import Report
from forge.errors import StepError
from forge.steps import evaluate
from forge.steps.evaluate.tasks import read_tasks, task_digest
from forge.steps.evaluate.templates import fault_of_template

CHOICE = {
    "task": "small_choice",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "small.jsonl"}},
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "context",
    "doc_to_choice": "choices",
    "doc_to_target": "gold",
    "metric_list": [
        {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
        {"metric": "acc_norm", "aggregation": "mean", "higher_is_better": True},
    ],
}
ROLLING = {
    **{key: CHOICE[key] for key in ("dataset_path", "dataset_kwargs", "test_split")},
    "task": "small_bpb",
    "output_type": "loglikelihood_rolling",
    "doc_to_text": "",
    "doc_to_target": "{{context}} {{choices[0].strip()}}",
    "metric_list": [{"metric": "bits_per_byte", "aggregation": "bits_per_byte", "higher_is_better": False}],
}
GENERATE = {
    **{key: CHOICE[key] for key in ("dataset_path", "dataset_kwargs", "test_split", "doc_to_text")},
    "task": "small_generate",
    "output_type": "generate_until",
    "doc_to_target": "{{choices[1]}}",
    "generation_kwargs": {"until": ["\n"], "max_gen_toks": 8, "do_sample": False},
    "filter_list": [{"name": "word", "filter": [{"function": "regex", "regex_pattern": "(\\w+)"}, {"function": "take_first"}]}],
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
}
ROWS = [
    {
        "context": f"Packages of section {number} are kept in the archive",
        "choices": ["by maintainers", "for a long time", "and removed", "when " * (1 + number % 3) + "orphaned"],
        "gold": number % 4,
    }
    for number in range(10)
]


def write_tasks(folder: Path, *tasks: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "small.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    for task in tasks:
        (folder / f"{task['task']}.yaml").write_text(json.dumps(task))
    return folder


@pytest.fixture(scope="module")
def weights(tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama that has learnt nothing."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("weights")
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "intermediate_size": 64,
    }
    config = LlamaConfig(
        vocab_size=600, max_position_embeddings=64, bos_token_id=1, eos_token_id=2, initializer_range=0.4, **sizes
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copyfile(tokenizer / name, folder / name)
    return folder


def test_two_processes_give_equal_reports_with_the_numbers_of_transformers(
    weights: Path, tmp_path: Path, run_step: RunStep
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tasks = write_tasks(tmp_path / "tasks", CHOICE, ROLLING, GENERATE)
    parameters = {"tasks": ["small_choice", "small_bpb", "small_generate"], "batch_size": 4, "bootstrap_iters": 50}
    inputs = {"weights": weights, "tasks": tasks}
    one, other = run_step("evaluate", parameters, inputs), run_step("evaluate", parameters, inputs, attempt=2)
    assert one.status == other.status == 0, one.stderr
    assert one.digests() == other.digests()
    product = one.product("report")
    report = Report.model_validate_json((product / "report.json").read_bytes())
    assert str(tmp_path) not in (product / "report.json").read_text()
    assert {name: task.items for name, task in report.tasks.items()} == dict.fromkeys(parameters["tasks"], 10)
    assert set(report.tasks["small_generate"].metrics) == {"exact_match"}
    assert report.tasks["small_choice"].higher_is_better == {"acc": True, "acc_norm": True}
    assert report.settings["num_fewshot"] == 0
    assert not list((one.folder / "scratch").iterdir())

    model, tokenizer = AutoModelForCausalLM.from_pretrained(weights, dtype="float32"), AutoTokenizer.from_pretrained(weights)

    def log_likelihood(context: list[int], text: list[int]) -> float:
        with torch.no_grad():
            scores = torch.log_softmax(model(torch.tensor([context + text])).logits[0], dim=-1)
        places = range(len(context), len(context) + len(text))
        return sum(scores[place - 1, token].item() for place, token in zip(places, text, strict=True))

    def ids(text: str) -> list[int]:
        found: list[int] = tokenizer(text)["input_ids"]
        return found

    texts = [f"{row['context']} {row['choices'][0]}" for row in ROWS]
    nats = -sum(log_likelihood([2], ids(text)) for text in texts)
    expected = nats / sum(len(text.encode()) for text in texts) / math.log(2)
    assert report.tasks["small_bpb"].metrics["bits_per_byte"] == pytest.approx(expected, rel=1e-5)
    assert 0 < report.tasks["small_bpb"].stderr["bits_per_byte"] < 1

    samples = [json.loads(line) for line in (product / "samples" / "small_choice.jsonl").open()]
    assert [sample["doc_id"] for sample in samples] == list(range(10))
    for row, sample in zip(ROWS, samples, strict=True):
        context = ids(row["context"])
        scores = [log_likelihood(context, ids(f"{row['context']} {choice}")[len(context) :]) for choice in row["choices"]]
        assert sample["scores"]["acc"] == float(scores.index(max(scores)) == row["gold"])
    assert report.tasks["small_choice"].metrics["acc"] == sum(sample["scores"]["acc"] for sample in samples) / 10


def test_a_model_that_says_nothing_finite_has_no_figure(weights: Path, tmp_path: Path, run_step: RunStep) -> None:
    """A trial that diverged is measured like any other: its perplexity is no number, and no gate passes it."""
    from safetensors.torch import load_file, save_file

    lost = shutil.copytree(weights, tmp_path / "lost")
    tensors = load_file(lost / "model.safetensors")
    save_file({name: tensor * float("nan") for name, tensor in tensors.items()}, lost / "model.safetensors", {"format": "pt"})
    tasks = write_tasks(tmp_path / "tasks", ROLLING)
    done = run_step("evaluate", {"tasks": ["small_bpb"], "bootstrap_iters": 50}, {"weights": lost, "tasks": tasks})
    report = Report.model_validate_json((done.product("report") / "report.json").read_bytes())
    assert report.tasks["small_bpb"].metrics == {"bits_per_byte": None}
    assert done.metrics == {}


@pytest.mark.parametrize(("limit", "expected"), [(evaluate.SMALL_MODEL_PARAMETERS, 1), (0, 3)])
def test_a_small_model_gets_one_thread_whatever_the_request_allows(
    limit: int, expected: int, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    monkeypatch.setattr(evaluate, "SMALL_MODEL_PARAMETERS", limit)
    try:
        evaluate._load(weights, batch_size=1, threads=3, subject="Model/small")
        assert torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])


def test_weights_in_pickle_are_refused(weights: Path, tmp_path: Path, run_step: RunStep) -> None:
    shutil.copytree(weights, tmp_path / "weights")
    (tmp_path / "weights" / "model.safetensors").rename(tmp_path / "weights" / "pytorch_model.bin")
    tasks = write_tasks(tmp_path / "tasks", CHOICE)
    done = run_step("evaluate", {"tasks": ["small_choice"]}, {"weights": tmp_path / "weights", "tasks": tasks})
    assert done.status == 1
    assert "hold no .safetensors file" in done.failure["message"]


def test_an_unknown_task_names_those_that_are_near(tmp_path: Path) -> None:
    folder = write_tasks(tmp_path, CHOICE, ROLLING)
    with pytest.raises(StepError, match=r"no task 'smal_choice' in the suite; did you mean small_choice"):
        read_tasks(folder, ["smal_choice"])


def test_a_task_may_include_a_file_of_the_suite(tmp_path: Path) -> None:
    folder = write_tasks(tmp_path)
    (folder / "base").write_text(json.dumps({**CHOICE, "task": "base", "test_split": "other"}))
    (folder / "derived.yaml").write_text("include: base\ntask: derived\ntest_split: test\n")
    (task,) = read_tasks(folder, ["derived"])
    assert task.config["test_split"] == "test"
    assert task.config["metric_list"] == CHOICE["metric_list"]


def test_the_digest_of_a_task_is_its_meaning_and_its_data(tmp_path: Path) -> None:
    folder = write_tasks(tmp_path, CHOICE)
    before = task_digest(*read_tasks(folder, ["small_choice"]), folder)
    (folder / "small_choice.yaml").write_text("# a comment\n" + json.dumps(dict(reversed(CHOICE.items())), indent=2))
    assert task_digest(*read_tasks(folder, ["small_choice"]), folder) == before
    (folder / "small.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS[:-1]))
    assert task_digest(*read_tasks(folder, ["small_choice"]), folder) != before


def test_two_files_may_not_define_one_task(tmp_path: Path) -> None:
    folder = write_tasks(tmp_path, CHOICE)
    shutil.copyfile(folder / "small_choice.yaml", folder / "again.yaml")
    with pytest.raises(StepError, match=r"small_choice.yaml: the task 'small_choice' is also defined by again.yaml"):
        read_tasks(folder, ["small_choice"])


DATA = "dataset_kwargs"
MEAN = {"aggregation": "mean", "higher_is_better": True}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"process_docs": "x"}, "'process_docs' is not allowed"),
        ({"process_results": "x"}, "'process_results' is not allowed"),
        ({"unsafe_code": True}, "'unsafe_code' is not allowed"),
        ({"class": "x"}, "'class' is not allowed"),
        ({"custom_dataset": "x"}, "'custom_dataset' is not allowed"),
        ({"use_prompt": "promptsource:x"}, "'use_prompt' is not allowed"),
        ({"dataset_name": "x"}, "'dataset_name' is not allowed"),
        ({"group": "g"}, "'group' is not allowed"),
        ({"task": ["a", "b"]}, "expected a name"),
        ({"task": "../x"}, "expected a name"),
        ({"dataset_path": "wikitext"}, "expected a reader of local files"),
        ({"dataset_path": "./script.py"}, "expected a reader of local files"),
        ({"dataset_path": None}, "expected a reader of local files"),
        ({DATA: {"data_files": {"test": "small.jsonl"}, "trust_remote_code": True}}, "expected data_files alone"),
        ({DATA: {"data_files": "small.jsonl"}}, "expected data_files alone"),
        ({DATA: {"data_files": {"test": "/etc/passwd"}}}, "expected the plain name of a file"),
        ({DATA: {"data_files": {"test": "../secret.jsonl"}}}, "expected the plain name of a file"),
        ({DATA: {"data_files": {"test": "~/x.jsonl"}}}, "expected the plain name of a file"),
        ({DATA: {"data_files": {"test": "https://example.org/x.jsonl"}}}, "expected the plain name of a file"),
        ({DATA: {"data_files": {"test": "zip://x.jsonl::a.zip"}}}, "expected the plain name of a file"),
        ({DATA: {"data_files": {"test": "*.jsonl"}}}, "expected the plain name of a file"),
        ({DATA: {"data_files": {"test": "absent.jsonl"}}}, "no such file in the suite"),
        ({DATA: {"data_files": {"test": "link.jsonl"}}}, "is a symbolic link"),
        ({DATA: {"data_files": {"test": "links/secret.jsonl"}}}, "is a symbolic link"),
        ({DATA: {"data_files": {"test": "code.py"}}}, "dataset_path json reads .json, .jsonl"),
        ({"include": "/etc/passwd"}, "expected the plain name of a file"),
        ({"include": "../base.yaml"}, "expected the plain name of a file"),
        ({"include": "refused.yaml"}, "chain of include: never ends"),
        ({"include": ["a"]}, "expected the name of one file"),
        ({"output_type": "python"}, "output_type: expected one of"),
        ({"metric_list": [{"metric": "code_eval", **MEAN}]}, "'code_eval' is not a known metric"),
        ({"metric_list": [{"metric": "acc", **MEAN, "hf_evaluate": True}]}, "'hf_evaluate' is not"),
        ({"metric_list": [{"metric": "acc", **MEAN, "aggregation": "evil"}]}, "aggregation of acc: expected one of"),
        ({"metric_list": []}, "expected at least one metric"),
        ({"filter_list": [{"name": "x", "filter": [{"function": "custom"}]}]}, "'custom' is not a known function"),
        ({"fewshot_config": {"sampler": "default", "process_docs": "x"}}, "fewshot_config: expected sampler alone"),
        ({"generation_kwargs": {"stopping_criteria": "x"}}, "generation_kwargs: expected only"),
        ({"doc_to_text": "{{ ''.__class__.__mro__ }}"}, "reaches for the attribute"),
        ({"description": "{{ lipsum.__globals__ }}"}, "reaches for the attribute"),
        ({"doc_to_choice": ["a", "{{ self._TemplateReference__context }}"]}, "reaches for the attribute"),
    ],
)  # fmt: skip
def test_a_task_that_could_do_more_than_ask_is_refused(change: dict[str, Any], reason: str, tmp_path: Path) -> None:
    folder = write_tasks(tmp_path / "suite")
    (tmp_path / "secret.jsonl").write_text(json.dumps(ROWS[0]) + "\n")
    (folder / "link.jsonl").symlink_to(tmp_path / "secret.jsonl")
    (folder / "links").symlink_to(tmp_path)
    (folder / "code.py").write_text("")
    (folder / "refused.yaml").write_text(json.dumps({**CHOICE, **change}))
    with pytest.raises(StepError) as caught:
        read_tasks(folder, ["small_choice"])
    assert str(caught.value).startswith("refused.yaml: ")
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "task: x\nprocess_docs: !function utils.process\n",
        "task: x\ndoc_to_text: !!python/object/apply:os.system ['true']\n",
        "task: x\ndoc_to_text: !!python/name:os.system\n",
    ],
)
def test_tags_that_run_python_are_refused_with_their_place(text: str, tmp_path: Path) -> None:
    folder = write_tasks(tmp_path)
    (folder / "refused.yaml").write_text(text)
    with pytest.raises(StepError, match=r"refused.yaml: line 2, column \d+: .*it would run Python"):
        read_tasks(folder, ["x"])


@pytest.mark.parametrize("text", ["a: &a [x]\nb: [*a, *a]\n<<: {c: d}\n", "a: 1\na: 2\n", "- a\n", "", "\xff"])
def test_task_files_of_odd_yaml_are_refused(text: str, tmp_path: Path) -> None:
    folder = write_tasks(tmp_path)
    (folder / "refused.yaml").write_bytes(text.encode("latin-1"))
    with pytest.raises(StepError, match=r"^refused.yaml: "):
        read_tasks(folder, ["x"])


@pytest.mark.parametrize(
    "text",
    [
        "{{ ''['__class__'] }}",
        "{% set a = '__cla' ~ 'ss__' %}{{ ''[a] }}",
        "{{ ''['__cla' ~ 'ss__'] }}",
        "{{ ''|attr('x') }}",
        "{{ [x]|map(attribute='x')|list }}",
        "{{ [x]|join(attribute='x') }}",
        "{{ x|first(attribute='y') }}",
        "{{ '%s'|format(x) }}",
        "{{ '{0.x}'.format(x) }}",
        "{{ 'a' * 10 }}",
        "{{ 9 ** 9 }}",
        "{{ range(9) }}",
        "{{ cycler(1) }}",
        "{{ (x.y)() }}",
        "{{ x()() }}",
        "{% include 'x' %}",
        "{% import 'x' as y %}",
        "{% extends 'x' %}",
        "{% macro m() %}{% endmacro %}",
        "{% filter upper %}x{% endfilter %}",
        "{% set ns.x = 1 %}",
        "{{ broken",
        "{{ x is callable }}",
    ],
)
def test_templates_that_reach_further_are_refused(text: str) -> None:
    assert fault_of_template(text)


@pytest.mark.parametrize(
    "text",
    [
        "Question: {{question.strip()}}\nAnswer:",
        "{% if passage is defined %}{{passage|trim}}{% else %}none{% endif %}",
        "{{choices[0]}} {{doc['key']}} {{text[:20]}} {{words[-1]}}",
        "{% for c in choices %}{{ loop.index }}. {{ c|replace('a', 'b') }}\n{% endfor %}",
        "{{ ['A', 'B', 'C'] }}",
        "plain text with { braces }",
        "{# a comment #}",
    ],
)
def test_templates_that_tasks_need_are_allowed(text: str) -> None:
    assert fault_of_template(text) is None


def test_the_example_is_allowed() -> None:
    folder = Path(__file__).resolve().parents[2] / "evals" / "tasks"
    assert [task.name for task in read_tasks(folder, ["handbook_bpb", "handbook_cloze"])] == ["handbook_bpb", "handbook_cloze"]

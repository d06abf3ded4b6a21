"""The tokenizer step: a vocabulary that gives every text back."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.steps.conftest import MakeRun, RunStep
from tokenizers import Tokenizer

from forge.contract.control_tokens import neutralise
from forge.errors import StepError
from forge.steps import tokenizer as step

LETTERS = [chr(letter) for letter in range(ord("a"), ord("z") + 1)]


def documents(folder: Path, texts: list[str]) -> Path:
    for split in ("train", "validation"):
        (folder / split).mkdir(parents=True)
        lines = "".join(json.dumps({"id": str(number), "text": text}) + "\n" for number, text in enumerate(texts))
        (folder / split / "00000.jsonl").write_text(lines)
    return folder


@pytest.mark.parametrize("algorithm", ["bpe", "unigram"])
def test_two_runs_in_two_processes_give_equal_products(algorithm: str, curated: Path, run_step: RunStep) -> None:
    parameters = {"vocab_size": 512, "algorithm": algorithm}
    one = run_step("tokenizer", parameters, {"documents": curated})
    other = run_step("tokenizer", parameters, {"documents": curated}, attempt=2)
    assert one.digests() == other.digests()
    assert one.metrics["vocab_size"] == 512
    assert Tokenizer.from_file(str(one.product("tokenizer") / "tokenizer.json")).get_vocab_size() == 512


def test_the_product_names_no_path_and_no_thread_count(tokenizer: Path) -> None:
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto.FromString((tokenizer / "sentencepiece.model").read_bytes())
    assert not model.trainer_spec.input
    assert not model.trainer_spec.HasField("model_prefix")
    assert not model.trainer_spec.HasField("num_threads")
    for path in tokenizer.iterdir():
        assert str(tokenizer.parent).encode() not in path.read_bytes()


@pytest.fixture(scope="module")
def library(tokenizer: Path) -> Tokenizer:
    return Tokenizer.from_file(str(tokenizer / "tokenizer.json"))


@settings(max_examples=300)
@given(text=st.text())
def test_any_text_without_control_tokens_comes_back(library: Tokenizer, text: str) -> None:
    text, _ = neutralise(text)
    assert library.decode(library.encode(text).ids, skip_special_tokens=False) == text


@pytest.mark.parametrize("text", step.HARD_LINES)
def test_hard_lines_come_back(library: Tokenizer, text: str) -> None:
    assert library.decode(library.encode(text).ids, skip_special_tokens=False) == text


def test_transformers_loads_it_with_the_same_ids_and_adds_nothing(tokenizer: Path, library: Tokenizer) -> None:
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(str(tokenizer))
    for text in ("The package", " The package", "two  spaces\n\tand a tab ", "caf\u00e9 \U0001f600"):
        assert loaded(text)["input_ids"] == library.encode(text).ids
        assert loaded.decode(loaded(text)["input_ids"]) == text
    assert (loaded.unk_token_id, loaded.bos_token_id, loaded.eos_token_id) == (0, 1, 2)
    assert loaded.convert_ids_to_tokens([0, 1, 2]) == ["<unk>", "<s>", "</s>"]


def test_a_text_like_a_byte_piece_is_no_byte(curated: Path, make_run: MakeRun, tmp_path: Path) -> None:
    """Even where the corpus teaches every part of the spelling, no merge leads to the byte piece itself."""
    folder = documents(tmp_path / "d", ["< 0x0A> <0x0 A> 0x0A> <0x0A " * 30 + " ".join(LETTERS)] * 20)
    run = make_run("tokenizer", {"vocab_size": 512}, {"documents": folder})
    with pytest.raises(StepError, match="cannot learn 512 pieces"):
        step.run(run)
    run = make_run("tokenizer", {"vocab_size": 300}, {"documents": folder})
    step.run(run)
    library = Tokenizer.from_file(str(run.product("tokenizer") / "tokenizer.json"))
    assert library.decode(library.encode("<0x0A>").ids, skip_special_tokens=False) == "<0x0A>"


def test_lines_over_sentencepieces_limit_are_learnt_from(make_run: MakeRun, tmp_path: Path) -> None:
    line = "".join(f"{a}{b}quixotic " for a in LETTERS for b in LETTERS)
    folder = documents(tmp_path / "d", [line * 3])
    run = make_run("tokenizer", {"vocab_size": 400}, {"documents": folder})
    step.run(run)
    vocabulary = Tokenizer.from_file(str(run.product("tokenizer") / "tokenizer.json")).get_vocab()
    assert any("quixotic" in piece for piece in vocabulary)


@pytest.mark.parametrize("vocab_size", [520, 200_000])
def test_a_vocabulary_that_the_corpus_cannot_give_is_refused(vocab_size: int, make_run: MakeRun, tmp_path: Path) -> None:
    folder = documents(tmp_path / "d", ["a few words"])
    run = make_run("tokenizer", {"vocab_size": vocab_size}, {"documents": folder})
    with pytest.raises(StepError, match=f"cannot learn {vocab_size} pieces"):
        step.run(run)


def test_text_that_does_not_come_back_stops_the_step(make_run: MakeRun, curated: Path, tmp_path: Path) -> None:
    lines = (curated / "train" / "00000.jsonl").read_text().splitlines()
    texts = ["a document that ends </s> itself", *(json.loads(line)["text"] for line in lines[:80])]
    texts[1:1] = ["and one that holds a \u2581 mark"]
    run = make_run("tokenizer", {"vocab_size": 512}, {"documents": documents(tmp_path / "d", texts)})
    with pytest.raises(StepError, match="does not give text back"):
        step.run(run)


def test_documents_of_another_kind_are_refused(make_run: MakeRun, tmp_path: Path) -> None:
    folder = documents(tmp_path / "d", ["x"])
    (folder / "train" / "00000.jsonl").write_text('{"id": "a"}\n')
    with pytest.raises(StepError, match=r"train/00000.jsonl, line 1: not a curated document"):
        step.run(make_run("tokenizer", {"vocab_size": 512}, {"documents": folder}))
    with pytest.raises(StepError, match=r"no train/\*.jsonl"):
        step.run(make_run("tokenizer", {"vocab_size": 512}, {"documents": tmp_path}))

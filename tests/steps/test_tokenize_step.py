"""The tokenize step: token files that hold the documents and nothing of the machine."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from tests.steps.conftest import MakeRun, RunStep
from tokenizers import Tokenizer, models, normalizers

from forge.errors import StepError
from forge.steps import tokenize as step


def save(tokenizer: Tokenizer, folder: Path) -> None:
    """A tokenizer with the names of its control tokens."""
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"}))


def texts_of(curated: Path, split: str) -> list[str]:
    return [json.loads(line)["text"] for line in (curated / split / "00000.jsonl").open(encoding="utf-8")]


def test_two_runs_in_two_processes_give_equal_products(curated: Path, tokenizer: Path, run_step: RunStep) -> None:
    inputs = {"documents": curated, "tokenizer": tokenizer}
    one, other = run_step("tokenize", {}, inputs), run_step("tokenize", {}, inputs, attempt=2)
    assert one.digests() == other.digests()
    product = one.product("tokens")
    names = {"train.ds", "train.ds.index", "validation.ds", "validation.ds.index", "meta.json"}
    assert {path.name for path in product.iterdir()} == names
    for path in product.iterdir():
        assert str(one.folder).encode() not in path.read_bytes()
        assert str(tokenizer).encode() not in path.read_bytes()


def test_files_hold_the_documents_in_order_each_ended(curated: Path, tokenizer: Path, make_run: MakeRun) -> None:
    run = make_run("tokenize", {}, {"documents": curated, "tokenizer": tokenizer})
    metrics = step.run(run)
    library = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    meta = json.loads((run.product("tokens") / "meta.json").read_text())
    assert {key: meta[key] for key in ("schema_version", "dtype", "vocab_size", "eos_token_id", "bos_token_id")} == {
        "schema_version": 1, "dtype": "uint16", "vocab_size": 600, "eos_token_id": 2, "bos_token_id": 1,
    }  # fmt: skip
    for split in ("train", "validation"):
        ids = np.fromfile(run.product("tokens") / f"{split}.ds", dtype="<u2")
        ends = np.fromfile(run.product("tokens") / f"{split}.ds.index", dtype="<u8")
        texts = texts_of(curated, split)
        assert meta["splits"][split] == {
            "documents": len(texts),
            "tokens": len(ids),
            "bytes": sum(len(text.encode()) for text in texts),
        }
        assert ends[-1] == len(ids)
        start = 0
        for text, end in zip(texts, ends.tolist(), strict=True):
            assert ids[end - 1] == 2
            assert library.decode(ids[start : end - 1].tolist(), skip_special_tokens=False) == text
            start = end
        assert (ids == 2).sum() == len(texts)
    assert metrics["tokens_train"] == meta["splits"]["train"]["tokens"]


def test_more_than_65536_ids_take_four_bytes(curated: Path, tokenizer: Path, make_run: MakeRun, tmp_path: Path) -> None:
    large = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    large.add_tokens([f"zzz{number}q" for number in range(65_536)])
    save(large, tmp_path / "large")
    run = make_run("tokenize", {}, {"documents": curated, "tokenizer": tmp_path / "large"})
    step.run(run)
    meta = json.loads((run.product("tokens") / "meta.json").read_text())
    assert meta["dtype"] == "uint32"
    assert meta["vocab_size"] == 66_136
    assert (run.product("tokens") / "train.ds").stat().st_size == 4 * meta["splits"]["train"]["tokens"]


def test_a_tokenizer_that_loses_text_is_refused(curated: Path, make_run: MakeRun, tmp_path: Path) -> None:
    lossy = Tokenizer(models.WordLevel({"<unk>": 0, "<s>": 1, "</s>": 2}, unk_token="<unk>"))
    save(lossy, tmp_path)
    with pytest.raises(StepError, match=r"train document .* does not come back"):
        step.run(make_run("tokenize", {}, {"documents": curated, "tokenizer": tmp_path}))


def test_text_that_is_lost_in_the_last_document_alone_is_refused(make_run: MakeRun, tokenizer: Path, tmp_path: Path) -> None:
    normalising = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    normalising.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(" ", "\u2581")])
    save(normalising, tmp_path / "tokenizer")
    texts = [*(f"plain text number {number}" for number in range(600)), "the \ufb01rst"]
    for split in ("train", "validation"):
        (tmp_path / "documents" / split).mkdir(parents=True)
        lines = "".join(json.dumps({"id": str(number), "text": text}) + "\n" for number, text in enumerate(texts))
        (tmp_path / "documents" / split / "00000.jsonl").write_text(lines)
    message = "train document '600' does not come back from its tokens: the tokenizer's normalizer (NFKC) changes text"
    with pytest.raises(StepError, match=re.escape(message)):
        step.run(make_run("tokenize", {}, {"documents": tmp_path / "documents", "tokenizer": tmp_path / "tokenizer"}))


def test_control_tokens_that_the_vocabulary_lacks_are_refused(curated: Path, make_run: MakeRun, tmp_path: Path) -> None:
    save(Tokenizer(models.WordLevel({"<unk>": 0, "</s>": 1}, unk_token="<unk>")), tmp_path)
    with pytest.raises(StepError, match=r"<s> and </s> have ids \[None, 1\]"):
        step.run(make_run("tokenize", {}, {"documents": curated, "tokenizer": tmp_path}))


def test_a_tokenizer_without_its_file_is_refused(curated: Path, make_run: MakeRun, tmp_path: Path) -> None:
    with pytest.raises(StepError, match=r"holds no tokenizer.json"):
        step.run(make_run("tokenize", {}, {"documents": curated, "tokenizer": tmp_path}))

"""What is no preference, where it is refused, and which tokens are compared."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.steps.finetune.conftest import TEMPLATE, preferred, write_conversations
from tokenizers import normalizers

from forge.errors import StepError
from forge.steps.finetune.conversations import Conversation, Message
from forge.steps.finetune.examples import read_tokenizer
from forge.steps.finetune.pairs import Pair, make_pairs
from forge.steps.finetune.preferences import Preference, check_agreement, read_preferences, split
from forge.steps.finetune.template import ChatTemplate

USER, ANSWER = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}


def line(**fields: Any) -> str:
    return json.dumps({**preferred("q", "good", "bad"), **fields})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[1]", "expected a JSON object with `prompt`, `chosen`, `rejected`, found list"),
        ('{"chosen": "a", "chosen": "b"}', "a key is written twice"),
        ('{"prompt": [], "chosen": NaN}', "lacks the field `rejected`"),
        (line(score=NAN) if (NAN := float("nan")) else "", "has the field 'score'"),
        (line(chosen=float("nan")), "the content of the chosen answer is empty, or no text"),
        (line(chosen=" \n"), "the content of the chosen answer is empty"),
        (line(rejected=None), "the content of the rejected answer is empty, or no text"),
        (line(rejected=[{"role": "assistant", "content": "bad"}]), "the content of the rejected answer is empty, or no text"),
        (line(rejected="\ud800"), "half of a surrogate pair"),
        (line(rejected=" good\n"), "chosen and rejected are the same text"),
        (line(prompt="q"), "`prompt` is no list of messages"),
        (line(prompt=[USER, ANSWER]), "the prompt's last message is the assistant's; expected the user's"),
        (line(prompt=[{"role": "system", "content": "s"}]), "the prompt's last message is the system's"),
        (line(prompt=[USER, USER]), "message 2 is the user's, expected the assistant's"),
    ],
)
def test_what_is_no_preference_is_refused_with_its_place(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "00000.jsonl").write_text(line() + "\n" + text + "\n")
    with pytest.raises(StepError) as error:
        read_preferences(tmp_path, {"00000.jsonl": "models/x/pairs.jsonl"})
    assert str(error.value).startswith("models/x/pairs.jsonl:2: ")
    assert expected in str(error.value)


def test_no_preference_at_all_is_refused(tmp_path: Path) -> None:
    (tmp_path / "00000.jsonl").write_text("\n")
    with pytest.raises(StepError, match="holds no preference"):
        read_preferences(tmp_path)


def test_a_pair_that_stands_twice_is_refused(tmp_path: Path) -> None:
    write_conversations(tmp_path, preferred("q", "a", "b"), preferred("other", "a", "b"), preferred("q", "a ", "b"))
    with pytest.raises(StepError, match=r"00000\.jsonl:3: the pair stands already in 00000\.jsonl:1"):
        read_preferences(tmp_path)


def test_pairs_that_contradict_each_other_are_refused_with_both_places(tmp_path: Path) -> None:
    write_conversations(tmp_path, preferred("q", "a", "b"), preferred("q", "c", "a"), preferred("q", "b", "a"))
    with pytest.raises(StepError, match=r"00000\.jsonl:3: contradicts 00000\.jsonl:1: there, of the same prompt"):
        read_preferences(tmp_path)


def test_a_circle_of_preferences_is_refused_with_all_its_places(tmp_path: Path) -> None:
    rows = [preferred("q", "a", "b"), preferred("q", "b", "c"), preferred("q", "c", "d"), preferred("q", "d", "a")]
    write_conversations(tmp_path, *rows)
    with pytest.raises(StepError, match=r":4: contradicts 00000\.jsonl:1, 00000\.jsonl:2, 00000\.jsonl:3: there"):
        read_preferences(tmp_path)


def test_the_same_answers_to_another_prompt_are_another_matter(tmp_path: Path) -> None:
    write_conversations(tmp_path, preferred("q", "a", "b"), preferred("q", "b", "a", system="be contrary"))
    assert len(read_preferences(tmp_path)) == 2


def preference(prompt: str, chosen: str, rejected: str) -> Preference:
    answers = [Conversation("x:1", (Message("user", prompt), Message("assistant", text)), 0) for text in (chosen, rejected)]
    return Preference("x:1", *answers)


@given(
    st.permutations(range(6)), st.sets(st.tuples(st.integers(0, 5), st.integers(0, 5)).filter(lambda pair: pair[0] < pair[1]))
)
def test_whatever_agrees_with_an_order_is_taken_and_one_step_back_is_not(order: list[int], pairs: set[tuple[int, int]]) -> None:
    said = [preference("q", f"answer {order[better]}", f"answer {order[worse]}") for better, worse in sorted(pairs)]
    check_agreement(said)
    reachable = {(a, b) for a, b in pairs}
    while more := {(a, d) for a, b in reachable for c, d in reachable if b == c} - reachable:
        reachable |= more
    for better, worse in reachable:
        with pytest.raises(StepError, match="contradicts"):
            check_agreement([*said, preference("q", f"answer {order[worse]}", f"answer {order[better]}")])


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 99)), min_size=8, max_size=40, unique=True))
def test_the_pairs_of_one_prompt_never_stand_on_both_sides(rows: list[tuple[int, int]]) -> None:
    try:
        parts = split([preference(f"prompt {prompt}", f"answer {answer}", "no") for prompt, answer in rows], 0.5)
    except StepError:
        return  # few prompts: all on one side
    assert len(parts.train) + len(parts.validation) == len(rows)
    assert not {each.prompt for each in parts.train} & {each.prompt for each in parts.validation}


def pairs(tokenizer_folder: Path, folder: Path, limit: int = 200, source: str = TEMPLATE) -> list[Pair]:
    template = ChatTemplate(source, with_system=False, subject="Model/tiny")
    return make_pairs(read_preferences(folder), template, read_tokenizer(tokenizer_folder), limit, 2)


def test_what_is_compared_are_the_two_last_answers_and_their_ends(tokenizer_folder: Path, tmp_path: Path) -> None:
    asked = [USER, {"role": "assistant", "content": "first"}, {"role": "user", "content": "and?"}]
    write_conversations(tmp_path, {"prompt": asked, "chosen": "naïve", "rejected": "日本, or not"})
    closing = TEMPLATE.replace(
        "{{ message.content + eos_token }}{%- endgeneration -%}",
        "{{ message.content + eos_token }}{%- endgeneration -%}{{ '\\n' }}",
    )
    for source in (TEMPLATE, closing):
        (found,) = pairs(tokenizer_folder, tmp_path, source=source)
        tokenizer = read_tokenizer(tokenizer_folder)
        texts = [tokenizer.decode(list(ids), skip_special_tokens=False) for ids in (found.prompt, found.chosen, found.rejected)]
        assert texts[0].startswith("<s>user\nq</s><s>assistant\nfirst</s>")
        assert texts[0].endswith("<s>user\nand?</s><s>assistant\n")
        assert texts[1:] == ["naïve</s>", "日本, or not</s>"]


def test_a_pair_that_is_too_long_is_refused_not_cut(tokenizer_folder: Path, tmp_path: Path) -> None:
    write_conversations(tmp_path, preferred("q", "a", "b"), preferred("q", "a", "b" * 50))
    with pytest.raises(StepError, match=r"00000\.jsonl:2: is \d+ tokens long, training\.sequence_length is 40"):
        pairs(tokenizer_folder, tmp_path, 40)
    write_conversations(tmp_path, preferred("q" * 50, "a", "b"))
    with pytest.raises(StepError, match=r"00000\.jsonl:1: is \d+ tokens long"):
        pairs(tokenizer_folder, tmp_path, 40)


def test_answers_whose_difference_the_tokenizer_drops_are_refused(tokenizer_folder: Path, tmp_path: Path) -> None:
    tokenizer = read_tokenizer(tokenizer_folder)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), tokenizer.normalizer])
    write_conversations(tmp_path, preferred("q", "six x", "six X"))
    template = ChatTemplate(TEMPLATE, with_system=False, subject="Model/tiny")
    with pytest.raises(StepError, match=r"00000\.jsonl:1: chosen and rejected are the same tokens"):
        make_pairs(read_preferences(tmp_path), template, tokenizer, 200, 2)


def test_a_prompt_that_depends_on_its_answer_is_refused(tokenizer_folder: Path, tmp_path: Path) -> None:
    leaking = "{%- if 'good' in messages[-1].content -%}{{ bos_token + 'hint' + eos_token }}{%- endif -%}" + TEMPLATE
    write_conversations(tmp_path, preferred("q", "good", "bad"))
    with pytest.raises(StepError, match=r"00000\.jsonl:1: the chat template writes the prompt otherwise"):
        pairs(tokenizer_folder, tmp_path, source=leaking)


def test_an_answer_cannot_end_itself_early(tokenizer_folder: Path, tmp_path: Path) -> None:
    write_conversations(tmp_path, preferred("q</s><s>assistant\nb", "a</s>", "b</s><s>user\nq"))
    (found,) = pairs(tokenizer_folder, tmp_path)
    assert found.chosen.count(2) == found.rejected.count(2) == 1
    assert found.prompt.count(1) == 2

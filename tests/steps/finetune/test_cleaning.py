"""Personal data and items of evaluation suites in people's words: replaced, left out, counted, and never shown."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.steps.finetune.conftest import chat, preferred, write_conversations

from forge.contract.messages import InputArtifact
from forge.errors import StepError
from forge.steps.finetune.cleaning import Cleaning
from forge.steps.finetune.conversations import Conversation, read_conversations
from forge.steps.finetune.preferences import Preference, read_preferences
from forge.steps.run import StepRun

Make = Callable[..., Any]
ITEM = "which of the seven old bridges of the town was the last one to be rebuilt"
ANSWER = "the stone bridge below the mill was"
ALL = {"emails": True, "ip_addresses": True}


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    folder = tmp_path / "suite"
    folder.mkdir()
    (folder / "items.jsonl").write_text(json.dumps({"question": ITEM, "answer": ANSWER}) + "\n")
    return folder


def cleaning(make: Make, objective: str, suite: Path | None = None, **asked: Any) -> Cleaning:
    """The rules of a request that asks for them."""
    attempt = make(objective=objective, chats={**asked, **({"decontaminate_against": ["EvalSuite/s"]} if suite else {})})
    request = attempt.request()
    if suite is not None:
        inputs = {**request.inputs, "suite-0": InputArtifact(digest="sha256:" + "2" * 64, path=str(suite))}
        request = request.model_copy(update={"inputs": inputs})
    return Cleaning(StepRun(request, attempt.folder), {"sft": "conversations", "dpo": "preferences"}[objective])


def conversations(folder: Path, *rows: dict[str, Any]) -> list[Conversation]:
    return read_conversations(write_conversations(folder, *rows))


def preferences(folder: Path, *rows: dict[str, Any]) -> list[Preference]:
    return read_preferences(write_conversations(folder, *rows))


def test_personal_data_is_replaced_in_every_turn_and_counted(new_tuning: Make, tmp_path: Path) -> None:
    rules = cleaning(new_tuning, "sft", pii=ALL)
    read = conversations(
        tmp_path / "chats", chat("I am ana@example.org at 8.8.8.8", "write to ben@example.org", system="for cleo@example.org")
    )
    (found,) = rules.of_conversations(read)
    assert [message.content for message in found.messages] == [
        "for [EMAIL]",
        "I am [EMAIL] at [IP_ADDRESS]",
        "write to [EMAIL]",
    ]
    assert rules.metrics() == {"replaced.emails": 3, "replaced.ip_addresses": 1}


def test_telephone_numbers_of_the_regions_that_are_named_are_replaced(new_tuning: Make, tmp_path: Path) -> None:
    rules = cleaning(new_tuning, "sft", pii={"phone_numbers": True, "phone_regions": ["DE", "FR"]})
    read = conversations(tmp_path / "chats", chat("Ring 030 901820", "or 01 42 68 53 00, or 415 555 2671"))
    (found,) = rules.of_conversations(read)
    assert [message.content for message in found.messages] == [
        "Ring [PHONE_NUMBER]",
        "or [PHONE_NUMBER], or 415 555 2671",
    ]
    assert rules.metrics() == {"replaced.phone_numbers": 2}


def test_nothing_is_done_that_nobody_asks_for(new_tuning: Make, tmp_path: Path) -> None:
    rules = cleaning(new_tuning, "sft")
    read = conversations(tmp_path / "chats", chat(f"ana@example.org: {ITEM}?", ANSWER))
    assert rules.of_conversations(read) == read
    assert rules.metrics() == {}


def test_a_conversation_that_repeats_an_item_goes_as_a_whole(new_tuning: Make, tmp_path: Path, suite: Path) -> None:
    rules = cleaning(new_tuning, "sft", suite)
    read = conversations(
        tmp_path / "chats",
        chat("hello", "hi"),
        chat("hello", "hi", f"Tell me: {ITEM.upper()}?", "no"),
        chat("which of the seven old bridges", "is it"),
    )
    assert [each.messages[0].content for each in rules.of_conversations(read)] == [
        "hello",
        "which of the seven old bridges",
    ]
    assert rules.metrics() == {"contaminated.s": 1}
    events = (rules.run.folder / "events.jsonl").read_text()
    assert "1 of 3 conversations repeat an item of a suite and are left out" in events
    assert "bridges" not in events


def test_the_second_edition_finds_more_spellings_and_words_that_a_line_break_cuts(
    new_tuning: Make, tmp_path: Path, suite: Path
) -> None:
    """As a recipe's does; whoever says nothing keeps the first."""
    cut = ITEM.replace("bridges", "brid-\nges")
    read = conversations(tmp_path / "chats", chat(cut, "the second"), chat("ring 0049 30 123456", "card 4111.1111.1111.1111"))
    asked = {"pii": {"phone_numbers": True, "credit_cards": True}, "decontamination_ngram": 13}
    first, second = (cleaning(new_tuning, "sft", suite, **asked, **edition) for edition in ({}, {"edition": 2}))
    assert first.of_conversations(read) == read
    (found,) = second.of_conversations(read)
    assert [message.content for message in found.messages] == ["ring [PHONE_NUMBER]", "card [CREDIT_CARD]"]
    assert second.metrics() == {"contaminated.s": 1, "replaced.credit_cards": 1, "replaced.phone_numbers": 1}


def test_an_item_that_two_turns_share_is_found(new_tuning: Make, tmp_path: Path) -> None:
    suite = tmp_path / "suite"
    suite.mkdir()
    (suite / "items.jsonl").write_text(json.dumps({"text": f"{ITEM}? {ANSWER}"}) + "\n")
    rules = cleaning(new_tuning, "sft", suite, decontamination_ngram=20)
    assert rules.of_conversations(conversations(tmp_path / "chats", chat(f"{ITEM}?", ANSWER), chat("hello", "hi")))[1:] == []
    assert rules.metrics() == {"contaminated.s": 1}


@pytest.mark.parametrize("place", ["question", "chosen", "rejected"])
def test_a_preference_that_repeats_an_item_anywhere_goes(new_tuning: Make, tmp_path: Path, suite: Path, place: str) -> None:
    rules = cleaning(new_tuning, "dpo", suite)
    bad = preferred(**{"question": "q", "chosen": "a", "rejected": "b", place: ITEM})
    found = rules.of_preferences(preferences(tmp_path / "pairs", bad, preferred("other", "a", "b")))
    assert [each.prompt[0].content for each in found] == ["other"]
    assert rules.metrics() == {"contaminated.s": 1}


def test_a_prompt_that_both_answers_follow_is_counted_once(new_tuning: Make, tmp_path: Path) -> None:
    rules = cleaning(new_tuning, "dpo", pii=ALL)
    row = preferred("who is ana@example.org?", "ask ben@example.org", "no idea")
    (found,) = rules.of_preferences(preferences(tmp_path / "pairs", row))
    assert [message.content for message in found.chosen.messages] == ["who is [EMAIL]?", "ask [EMAIL]"]
    assert [message.content for message in found.rejected.messages] == ["who is [EMAIL]?", "no idea"]
    assert rules.metrics() == {"replaced.emails": 2, "replaced.ip_addresses": 0}


def test_answers_that_differ_in_personal_data_alone_are_refused_without_showing_it(new_tuning: Make, tmp_path: Path) -> None:
    read = preferences(tmp_path / "pairs", preferred("who?", "ana@example.org", "ben@example.org"))
    with pytest.raises(StepError, match=r"00000\.jsonl:1: chosen and rejected differ in personal data alone") as error:
        cleaning(new_tuning, "dpo", pii=ALL).of_preferences(read)
    assert "example" not in str(error.value)


def test_pairs_that_contradict_each_other_without_their_personal_data_are_refused(new_tuning: Make, tmp_path: Path) -> None:
    rows = [preferred("I am ana@example.org", "yes", "no"), preferred("I am ben@example.org", "no", "yes")]
    read = preferences(tmp_path / "pairs", *rows)
    with pytest.raises(StepError, match=r"00000\.jsonl:2: contradicts 00000\.jsonl:1"):
        cleaning(new_tuning, "dpo", pii=ALL).of_preferences(read)


def test_what_is_learnt_holds_no_personal_data_and_the_metrics_say_how_much_there_was(
    new_preferring: Make, tmp_path: Path
) -> None:
    """The same bytes as of a training on text that never held any."""
    named, plain = (
        write_conversations(tmp_path / name, *(preferred(f"may {word} {number}?", "yes", "never") for number in range(20)))
        for name, word in (("named", "ana@example.org"), ("plain", "[EMAIL]"))
    )
    training = {"tokens": 64 * 4, "schedule": {"name": "wsd", "warmup_tokens": 0, "decay_tokens": 0}}
    one = new_preferring("one", tokens=named, chats={"pii": {"emails": True}}, training=training)
    two = new_preferring("two", tokens=plain, training=training)
    assert one.run()["replaced.emails"] == 20
    two.run()
    assert one.weights_digest() == two.weights_digest()

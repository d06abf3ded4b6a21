"""The conversations and preferences of the examples: what the script makes of the corpus, and what they say of themselves."""

import sys
from pathlib import Path
from typing import Any

from forge.spec.document import read_documents
from forge.steps.finetune.conversations import read_conversations
from forge.steps.finetune.preferences import read_preferences

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "models" / "examples"
ANSWERS, PREFERRED = EXAMPLES / "handbook-answers", EXAMPLES / "handbook-preferred"
sys.path.insert(0, str(ANSWERS))
import make_chats  # noqa: E402 (a script beside its data, which is no package)


def spec_of(folder: Path) -> dict[str, Any]:
    documents, diagnostics = read_documents("model.yaml", (folder / "model.yaml").read_bytes())
    assert not diagnostics
    return documents[0].value


def test_the_committed_files_are_what_the_script_writes(tmp_path: Path) -> None:
    import json

    for path, rows in ((make_chats.CHATS, make_chats.conversations()), (make_chats.PAIRS, make_chats.preferences())):
        assert path.read_text(encoding="utf-8") == "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def test_they_are_read_and_no_question_has_two_answers() -> None:
    conversations, preferences = read_conversations(make_chats.CHATS.parent), read_preferences(make_chats.PAIRS.parent)
    asked = [each.messages[0].content for each in conversations]
    assert len(set(asked)) == len(asked) == len(preferences)
    answers = {each.messages[0].content: each.messages[1].content for each in conversations}
    for each in preferences:
        assert each.chosen.messages[-1].content == answers[each.prompt[0].content]
        assert each.rejected.messages[-1].content != answers[each.prompt[0].content]


def test_their_licence_is_that_of_every_manual_that_they_are_drawn_from() -> None:
    documents, _ = read_documents("data.yaml", (ROOT / "models" / "handbook" / "data.yaml").read_bytes())
    licenses = {Path(item["path"]).name: item["license"] for item in documents[0].value["spec"]["sources"]}
    assert {licenses[f"{manual}.jsonl.gz"] for manual in make_chats.MANUALS} == {"GPL-2.0-or-later"}
    assert spec_of(ANSWERS)["spec"]["conversations"]["license"] == "GPL-2.0-or-later"
    assert spec_of(PREFERRED)["spec"]["preferences"]["license"] == "GPL-2.0-or-later"


def test_the_second_asks_as_the_first_was_taught_and_begins_with_it() -> None:
    answers, preferred = spec_of(ANSWERS), spec_of(PREFERRED)
    assert answers["spec"]["chat_template"] == preferred["spec"]["chat_template"]
    assert preferred["spec"]["base"] == {"model": "Model/handbook-answers"}

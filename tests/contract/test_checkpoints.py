"""How the control plane finds a checkpoint, and that values which do not use a new field keep their bytes."""

import json

from forge.contract.checkpoints import checkpoint_name, lineage_of, newest_checkpoint
from forge.contract.kinds import StepKind
from forge.contract.messages import Continued, FailureCause, StepRequest, StepResult
from forge.contract.record import Attempt, Record, Spent

DIGEST = "sha256:" + "a" * 64
FOLDERS = [
    f"checkpoints/{checkpoint_name(20, 1)}",
    f"checkpoints/{checkpoint_name(100, 2)}",
    f"checkpoints/{checkpoint_name(100, 10)}",
    f"checkpoints/{checkpoint_name(200, 1)}.damaged",
    f"checkpoints/{checkpoint_name(300, 1)}.tmp",
    f"elsewhere/{checkpoint_name(400, 1)}",
    f"before-decay/{checkpoint_name(60, 1)}",
]


def test_the_furthest_whole_checkpoint_within_the_bound_is_found() -> None:
    assert newest_checkpoint(FOLDERS) == f"checkpoints/{checkpoint_name(100, 10)}"
    assert newest_checkpoint(FOLDERS, 99) == f"before-decay/{checkpoint_name(60, 1)}"
    assert newest_checkpoint(FOLDERS, 59) == f"checkpoints/{checkpoint_name(20, 1)}"
    assert newest_checkpoint(FOLDERS, 19) is None
    assert newest_checkpoint([]) is None


def test_a_lineage_covers_all_of_the_key_but_the_tokens() -> None:
    def lineage(version: int = 1, tokens: int = 10, seed: int = 0, template: str = "a", data: str = DIGEST) -> str:
        parameters = {"training": {"tokens": tokens, "seed": seed}, "chat_template": template}
        return lineage_of(version, parameters, {"tokens": data})

    assert lineage() == lineage(tokens=20)
    others = [lineage(version=2), lineage(seed=1), lineage(template="b"), lineage(data="sha256:" + "b" * 64)]
    assert len({lineage(), *others}) == 5


def record(**fields: object) -> Record:
    return Record(
        key=DIGEST,
        step=StepKind.TRAIN,
        step_version=1,
        step_id="train/x",
        subject="Model/x",
        parameters={},
        inputs={},
        products={},
        commit="0" * 40,
        attempt=1,
        started="",
        finished="",
        environment={},
        actual=Spent(seconds=1.0),
        attestations={},
        **fields,
    )


def test_fields_that_were_added_later_leave_the_bytes_of_values_without_them_alone() -> None:
    failed = Attempt(
        key=DIGEST,
        step=StepKind.TRAIN,
        step_id="train/x",
        subject="Model/x",
        commit="0" * 40,
        attempt=1,
        cause=FailureCause.STOPPED,
        message="",
        seconds=1.0,
    )
    result = StepResult(key="k", attempt=1, products={}, metrics={}, started="", finished="", environment={})
    request = StepRequest(
        step=StepKind.TRAIN, step_version=1, key="k", subject="", parameters={}, inputs={}, output="", scratch="", attempt=1
    )
    added = {"byproducts", "continued", "continues"}
    for value in (record(), failed, result, request):
        assert not added & value.model_dump(mode="json").keys()
        assert not added & json.loads(value.model_dump_json()).keys()
        assert type(value).model_validate_json(value.model_dump_json()) == value


def test_fields_that_were_added_later_are_written_where_they_say_something() -> None:
    full = record(byproducts={"checkpoint": DIGEST}, continued=Continued(key=DIGEST, checkpoint=DIGEST, tokens=5))
    written = full.model_dump(mode="json")
    assert written["byproducts"] == {"checkpoint": DIGEST}
    assert written["continued"] == {"key": DIGEST, "checkpoint": DIGEST, "tokens": 5}
    assert Record.model_validate(written) == full

"""The comment of a pull request: what strangers wrote stays text, and it is never longer than GitHub takes."""

import re

from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from tests.conftest import SETTINGS
from tests.plan.world import World, desired_of

from forge.contract.kinds import StepKind
from forge.plan.action import Action, ActionKind, Plan
from forge.plan.cost import Estimate
from forge.plan.markdown import COMMENT_MARK, to_markdown
from forge.plan.reason import Reason, ReasonKind
from forge.plan.review import Compute, Finding, FindingKind, Review, review

GITHUB_LIMIT = 65_536
STRANGER = "\N{SNOWMAN}"
"""Stands in every text of a stranger: where it appears, their text does."""
PARSER = MarkdownIt("commonmark").enable("table")
hostile = st.lists(
    st.sampled_from(
        [
            "</details>", "<details>", "<!-- forge plan -->", "-->", "@everyone", "[x](http://e.invalid)", "![x](y)", "`", "``",
            "```\n", "|", "\\|", "\\", "\n", "\n\n", "\r", "\u2028", "\u202e", "\u200b", "\x1b[2J", "&lt;", "# ", "> ", "- ",
            "$", "~~", "**", "_", "<img src=x onerror=y>", "http://e.invalid", "\ud800", STRANGER, " ", "a", "\t",
        ]
    ),
    max_size=12,
).map(lambda parts: STRANGER + "".join(parts))  # fmt: skip


def plan_of(text: str) -> tuple[Plan, Review]:
    """A plan in which every text that can come from a repository is this one."""
    reason = Reason(ReasonKind.FIELD_CHANGED, text, old=text, new=text)
    estimate = Estimate(seconds=2.0, cost=0.5)
    actions = (
        Action(ActionKind.RUN, text, text, (reason, reason), StepKind.TRAIN, estimate=estimate),
        Action(ActionKind.BLOCKED, text, text, (Reason(ReasonKind.GATE, text),), StepKind.RELEASE),
        Action(ActionKind.RETIRE, text, text, (Reason(ReasonKind.REMOVED),), environment=text),
    )
    findings = tuple(Finding(kind, text, text, text, text) for kind in FindingKind)
    compute = (Compute(text, 1e24), Compute(text, 1e22, text, 2e22), Compute(text, None, text))
    return Plan("c" * 40, "USD", actions, (text, text), base="b" * 40), Review(findings, compute, ("A note.",))


def shape(markdown: str) -> list[str]:
    """What a reader's browser makes of it, without the words."""
    return [f"{token.type} {[child.type for child in token.children or ()]}" for token in PARSER.parse(markdown)]


@given(hostile)
@example(STRANGER + "`</details>\n\n<!-- forge plan -->\n@everyone|\\|[x](y)\u202e")
@example(STRANGER + "\\")
def test_what_strangers_wrote_appears_in_code_only(text: str) -> None:
    markdown = to_markdown(*plan_of(text))
    assert shape(markdown) == shape(to_markdown(*plan_of(STRANGER)))
    for token in PARSER.parse(markdown):
        if token.type == "html_block":
            assert re.fullmatch(
                r"<!-- forge plan -->|<details><summary>\d+ actions, and why</summary>|</details>", token.content.strip()
            )
        for child in token.children or ():
            assert child.type in ("text", "softbreak", "strong_open", "strong_close", "em_open", "em_close", "code_inline")
            assert STRANGER not in child.content or child.type == "code_inline"
            assert child.content.isprintable()
    assert markdown.startswith(COMMENT_MARK + "\n")
    assert [line for line in markdown.splitlines() if line.startswith("<!--")] == [COMMENT_MARK]
    markdown.encode()


def test_an_empty_name_closes_no_other_span() -> None:
    for empty in (" ", "\n", "\u2028"):
        assert shape(to_markdown(*plan_of(empty))) == shape(to_markdown(*plan_of("a")))


def test_ten_thousand_actions_fit_into_a_comment_and_the_rest_is_counted() -> None:
    reason = Reason(ReasonKind.FIELD_CHANGED, "training." + "x" * 5_000, old="\N{GRINNING FACE}" * 3_000, new="y" * 3_000)
    actions = tuple(
        Action(ActionKind.RUN, f"train/{'n' * 60}-{number}", "Model/x", (reason,) * 3, StepKind.TRAIN, estimate=Estimate(1, 2))
        for number in range(10_000)
    )
    findings = tuple(
        Finding(FindingKind.ACCESS, "s" * 900, "d" * 900, "\N{PILE OF POO}" * 900, "n" * 900) for _ in range(5_000)
    )
    compute = tuple(Compute(f"train/{'n' * 900}", 1e20) for _ in range(5_000))
    markdown = to_markdown(Plan("c" * 40, "USD", actions, ("r" * 9_000,) * 500), Review(findings, compute, ("note",)))
    assert len(markdown.encode()) < GITHUB_LIMIT - 1_000
    shown = markdown.count("| + | run |")
    assert shown > 10
    assert f"{10_000 - shown} more: `forge plan` lists them." in markdown
    assert markdown.endswith("</details>\n")


def test_the_cost_is_a_range_and_what_nobody_knows_is_said() -> None:
    decided = Action(ActionKind.RUN, "train/a", "Model/a", (), StepKind.TRAIN, key="k", estimate=Estimate(1, 2.0))
    later = Action(ActionKind.RUN, "train/b", "Model/b", (), StepKind.TRAIN, estimate=Estimate(1, 3.0))
    unknown = Action(ActionKind.RELEASE, "release/a", "Deployment/a", (), StepKind.RELEASE)
    markdown = to_markdown(Plan(None, "EUR", (decided, later, unknown)))
    assert "| to run | 2 | 2.0000 EUR to 5.0000 EUR |" in markdown
    assert "| to release | 1 | not known |" in markdown
    assert "| **together** | **3** | 2.0000 EUR to 5.0000 EUR, and 1 not known |" in markdown


def test_compute_is_held_against_the_marks_of_the_law() -> None:
    model = ("tokens: 40k", "tokens: 9000000000000000")
    desired = desired_of({"models/model.yaml": model})
    plan = World().plan(desired)
    judged = review(plan, desired)
    assert judged.compute[0].flops > 1e20
    over = Review((), (Compute("train/a", 2.5e25), Compute("train/b", 5e23)))
    markdown = to_markdown(plan, over)
    assert "| `train/a` | 2.50e+25 | **2.5e+02 times** | **2.5 times** |" in markdown
    assert "| `train/b` | 5.00e+23 | **5 times** | 5.0e-02 |" in markdown


def test_a_continued_training_counts_from_its_beginning() -> None:
    """The law counts what went into the model; an extension pays only for the rest."""
    world = World()
    world.apply(desired_of())
    desired = desired_of({"models/model.yaml": ("tokens: 40k", "tokens: 80k")})
    plan = world.plan(desired)
    (train,) = (action for action in plan.changes if action.step is StepKind.TRAIN)
    assert train.kind is ActionKind.EXTEND
    assert train.estimate.flops is not None
    (whole,) = review(plan, desired).compute
    assert whole.flops > 1.5 * train.estimate.flops


def test_a_refused_plan_says_so_first() -> None:
    plan = World().plan(desired_of(settings=SETTINGS + "[budgets]\nmax_cost_per_plan = 0.0000001\n"))
    lines = to_markdown(plan).splitlines()
    assert lines[5].startswith("> **Refused:** `the plan may cost")

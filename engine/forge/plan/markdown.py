"""A plan as the comment of a pull request.

Invariants, for any text that a stranger put into a spec, a path or a file of the repository:
1. It stands in code spans only, on one line, visible: no markup, mention, link, image or HTML of it comes alive, nothing of it
   closes what was opened here, and none of it is taken for the mark that the comment is found by.
2. The comment is never longer than GitHub takes; what does not fit is counted, the first things first.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from forge.errors import printable
from forge.plan.action import SETTLED, Action, Plan
from forge.plan.render import COUNTED, SIGNS, effort, money, needs_approval, reasons, summary, title, totals
from forge.plan.review import Finding, Review

_Item = TypeVar("_Item")

COMMENT_MARK = "<!-- forge plan -->"
"""First line of the comment: whoever posts it finds the one to replace by it."""
MOST_BYTES = 60_000
"""GitHub refuses a comment of more than 65,536 characters; the rest is for whoever posts it."""
_REFUSALS_BYTES = 6_000
_FINDINGS_BYTES = 20_000
_MOST_TRAININGS = 10
_LONGEST = 400
"""Characters of a text that a stranger wrote."""
_MARKS = ((1e23, "1e23"), (1e25, "1e25"))
_THIRD_MEANS = (
    "A third of its base's: whoever modifies a general-purpose AI model with more than that is its provider (guidelines of the "
    "European Commission, July 2025)."
)
_MARKS_MEAN = (
    "1e23: the European Commission's mark of a general-purpose AI model. 1e25: above it the EU AI Act (article 51) presumes "
    "systemic risk. Both count the training of the model as a whole."
)
_NOTHING_KNOWN = Review()


def to_markdown(plan: Plan, review: Review = _NOTHING_KNOWN) -> str:
    """The comment; ``review`` is what is known beside the plan."""
    lines = [COMMENT_MARK, f"### Forge plan for {title(plan)}", "", summary(plan), ""]
    lines += _fitting(plan.refusals, lambda text: f"> **Refused:** {_code(text)}\n", _REFUSALS_BYTES, "> {} more\n")
    lines += [f"> **{text}**\n" for text in needs_approval(plan)]
    lines += [f"_{note}_\n" for note in review.notes]
    if plan.actions:
        lines += ["| | count | cost |", "|---|---|---|", *_summary_rows(plan), ""]
    lines += [line.replace("*", "\\*") for line in totals(plan)]
    lines += _findings(review.findings)
    lines += _compute(review)
    rows = [action for action in plan.actions if action.kind not in SETTLED]
    if rows:
        lines += ["", f"<details><summary>{len(rows)} actions, and why</summary>", ""]
        lines += ["| | action | step | effort | why |", "|---|---|---|---|---|"]
        left = MOST_BYTES - _size(lines) - 200
        lines += _fitting(rows, lambda action: _row(action, plan.currency), left, "\n{} more: `forge plan` lists them.")
        lines += ["", "</details>"]
    return "\n".join(lines).rstrip() + "\n"


def _summary_rows(plan: Plan) -> Iterator[str]:
    for kind, word in COUNTED.items():
        actions = [action for action in plan.actions if action.kind is kind]
        if actions:
            cost = _range([action for action in actions if action.does_something], plan.currency)
            yield f"| {word} | {len(actions)} | {cost} |"
    if plan.changes:
        yield f"| **together** | **{len(plan.changes)}** | {_range(plan.changes, plan.currency)} |"


def _range(actions: Sequence[Action], currency: str) -> str:
    """What they cost at least, when all that is decided later turns out not to be needed, and at most."""
    costs = [(action.estimate.cost, action.key is not None) for action in actions if action.estimate.cost is not None]
    if not costs:
        return "not known" if any(action.step is not None for action in actions) else ""
    least, most = sum(cost for cost, is_decided in costs if is_decided), sum(cost for cost, _ in costs)
    text = money(most, currency)
    if least < most:
        text = f"{money(least, currency) if least else 0} to {text}"
    unknown = sum(action.step is not None for action in actions) - len(costs)
    return f"{text}, and {unknown} not known" if unknown > 0 else text


def _findings(findings: Sequence[Finding]) -> list[str]:
    if not findings:
        return []
    return ["", "**To review**", "", *_fitting(findings, _finding, _FINDINGS_BYTES, "- {} more")]


def _finding(finding: Finding) -> str:
    text = f"- **{finding.kind}** {_code(finding.subject)}"
    if finding.detail:
        text += f": {_code(finding.detail)}"
    if finding.old is not None or finding.new is not None:
        old, new = ("nothing" if value is None else _code(value) for value in (finding.old, finding.new))
        text += f": {old} → {new}"
    return text


def _compute(review: Review) -> list[str]:
    if not review.compute:
        return []
    continued = any(item.base is not None for item in review.compute)
    heads = ["training", "FLOPs", *(f"of {name}" for _, name in _MARKS)]
    heads += ["base", "its FLOPs", "of a third of those"] if continued else []
    lines = ["", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for item in review.compute[:_MOST_TRAININGS]:
        cells = [_cell(item.step_id), _flops(item.flops), *(_share(item.whole, mark) for mark, _ in _MARKS)]
        if continued and item.base is None:
            cells += ["none", "", ""]
        elif item.base is not None:
            third = None if item.base_flops is None else item.base_flops / 3
            cells += [_cell(item.base), _flops(item.base_flops), _share(item.flops, third)]
        lines.append(f"| {' | '.join(cells)} |")
    if len(review.compute) > _MOST_TRAININGS:
        lines += ["", f"{len(review.compute) - _MOST_TRAININGS} more trainings are smaller."]
    return [*lines, "", _MARKS_MEAN, *(["", _THIRD_MEANS] if continued else [])]


def _flops(flops: float | None) -> str:
    return "unknown" if flops is None else f"{flops:.2e}"


def _share(flops: float | None, mark: float | None) -> str:
    """How much of a mark it is; bold from the mark on."""
    if flops is None or mark is None:
        return "unknown"
    return f"**{flops / mark:.2g} times**" if flops >= mark else f"{flops / mark:.1e}"


def _row(action: Action, currency: str) -> str:
    cells = (SIGNS[action.kind], action.kind.value, _cell(action.id), effort(action, currency), _cell(reasons(action)))
    return "| " + " | ".join(cells) + " |"


def _fitting(items: Sequence[_Item], line_of: Callable[[_Item], str], most_bytes: int, rest: str) -> list[str]:
    """The lines of as many items as fit, and how many do not; those are never put into words."""
    lines: list[str] = []
    for item in items:
        line = line_of(item)
        most_bytes -= _size([line])
        if most_bytes < 0:
            return [*lines, rest.format(len(items) - len(lines))]
        lines.append(line)
    return lines


def _size(lines: Iterable[str]) -> int:
    return sum(len(line.encode()) + 1 for line in lines)


def _code(text: str) -> str:
    """Text that a stranger wrote, as a code span: what hides or turns text is spelled out, what ends a span is replaced."""
    shown = printable(" ".join(text.split())[: _LONGEST + 1]).replace("`", "'")
    if len(shown) > _LONGEST:
        shown = shown[: _LONGEST - 3] + "..."
    return f"`{shown or ' - '}`"


def _cell(text: str) -> str:
    """The same within a table, where a bar ends the cell even in code; parsers differ on a bar after two backslashes."""
    return _code(text).replace("\\|", "\\ |").replace("|", "\\|")

"""An assessment of data for people at a terminal and for programs: the answer first, then its reasons, then the figures.

What documents and recipes say may be hostile: every line goes through ``printable``.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from forge.errors import printable
from forge.report.readiness import Finding, Need, Readiness, Size, SourceQuality

LENGTH_UNITS = ("B", "KiB", "MiB", "GiB")
_MOST_RULES, _MOST_SAMPLES = 4, 2
"""Of a source, and of a rule, that a terminal is shown; JSON and the page hold all."""


def to_data(readiness: Readiness) -> bytes:
    """The JSON form."""
    languages = readiness.languages
    document = {
        "schema_version": 1,
        "answer": readiness.answer.value,
        **{name: value for name, value in asdict(readiness).items() if name not in ("samples", "languages")},
        "languages": None if languages is None else {name: share.model_dump() for name, share in languages.items()},
        "samples": {rule: [each.model_dump() for each in samples] for rule, samples in readiness.samples.items()},
    }
    return (json.dumps(document, indent=1, sort_keys=True) + "\n").encode()


def to_text(readiness: Readiness) -> str:
    """The form for a terminal."""
    return "\n".join(printable(line) for line in _lines(readiness)) + "\n"


def size_text(size: Size) -> str:
    """Documents and bytes."""
    return f"{size.documents:,} documents, {size.bytes:,} bytes"


def length_text(bits: int) -> str:
    """The lengths that so many bits stand for: 11 is 1 KiB to 2 KiB."""
    if bits < 1:
        return "empty"
    return f"{_binary(1 << (bits - 1))} to {_binary(1 << bits)}"


def shorter_than(bits: int) -> str:
    """The upper end of ``length_text``."""
    return f"< {_binary(1 << max(0, bits))}"


def share_text(part: float, whole: float) -> str:
    """A part in percent."""
    return f"{part / whole:.1%}" if whole else "-"


def about(number: int | None, *, exactly: bool = True) -> str:
    """A number, or that it cannot be told."""
    if number is None:
        return "cannot tell"
    return f"{number:,}" if exactly else f"about {number:,}"


def _binary(number: int) -> str:
    unit = min((number.bit_length() - 1) // 10, len(LENGTH_UNITS) - 1)
    return f"{number >> (10 * unit)} {LENGTH_UNITS[unit]}"


def _lines(readiness: Readiness) -> Iterator[str]:
    yield f"{readiness.recipe}: {readiness.answer.value.upper()}"
    yield f"commit {readiness.commit[:12]}, curated at {readiness.curated[:12]}, documents {readiness.documents}"
    for finding in readiness.findings:
        yield from _finding(finding)
    yield from _section("volume", _volume(readiness))
    yield from _section("sources", [row for index, source in enumerate(readiness.sources) for row in _source(index, source)])
    read = readiness.read.documents
    yield from _section("removed", [f"{rule}: {count:,} ({share_text(count, read)})" for rule, count in readiness.removed])
    yield from _section("duplicates", _duplicates(readiness))
    yield from _section("personal data (counts, never values)", _personal(readiness))
    yield from _section("evaluation suites", _suites(readiness))
    yield from _section("languages", _languages(readiness))
    yield from _section("samples of what was removed", _samples(readiness))


def _finding(finding: Finding) -> Iterator[str]:
    yield f"  {'FAIL' if finding.blocks else 'warn'} [{finding.rule.value}] {finding.message}"
    yield f"       {finding.remedy}"


def _section(heading: str, rows: Sequence[str]) -> Iterator[str]:
    if rows:
        yield ""
        yield heading
        yield from (f"  {row}" for row in rows)


def _volume(readiness: Readiness) -> list[str]:
    rows = [
        f"read        {size_text(readiness.read)}",
        f"training    {size_text(readiness.train)}",
        f"validation  {size_text(readiness.validation)}",
    ]
    return rows + [row for need in readiness.needs for row in _need(need)]


def _need(need: Need) -> Iterator[str]:
    yield f"{need.model} ({need.objective}, as {need.reads})"
    yield f"  parameters        {about(need.parameters)}"
    yield f"  training tokens   {about(need.tokens.train, exactly=need.tokens.counted)} ({need.tokens.basis})"
    if need.optimal_tokens is not None:
        yield f"  compute-optimal   {need.optimal_tokens:,} tokens (20 a parameter, Hoffmann et al. 2022)"
    if need.planned_tokens is not None:
        epochs = "" if need.epochs is None else f": {need.epochs:.2f} passes, worth {about(need.worth_tokens)} new tokens"
        yield f"  planned           {need.planned_tokens:,} tokens{epochs}"


def _source(index: int, source: SourceQuality) -> Iterator[str]:
    kept = f"{source.kept.documents:,} of {source.read.documents:,} documents kept"
    yield f"[{index}] {source.path}: {kept} ({share_text(source.kept.documents, source.read.documents)})"
    fault = f" ({source.license_fault})" if source.license_fault else ""
    yield f"    licence {source.license}{fault}; from {source.origin}"
    if source.removed:
        more = f" and {len(source.removed) - _MOST_RULES} rules more" if len(source.removed) > _MOST_RULES else ""
        yield "    removed: " + ", ".join(f"{rule} {count:,}" for rule, count in source.removed[:_MOST_RULES]) + more


def _duplicates(readiness: Readiness) -> list[str]:
    return [f"{row.kind}: {f'{row.removed:,} removed' if row.looked_for else 'not looked for'}" for row in readiness.duplicates]


def _personal(readiness: Readiness) -> list[str]:
    rows = []
    for row in readiness.personal_data:
        left = "" if row.left is None else f", {row.left:,} left in the sample"
        rows.append(f"{row.type}: {f'{row.replaced:,} replaced' if row.is_replaced else 'not replaced'}{left}")
    return rows


def _suites(readiness: Readiness) -> list[str]:
    return [
        f"{row.suite}: {f'cleaned of it, {row.removed:,} documents removed' if row.is_cleaned else 'NOT cleaned of it'}"
        + (f"; {row.looked_for:,} items looked for, {row.too_short:,} too short" if row.looked_for is not None else "")
        + (f"; {', '.join(row.models)} is evaluated on it" if row.models else "")
        for row in readiness.suites
    ]


def _languages(readiness: Readiness) -> list[str]:
    if readiness.languages is None:
        return []
    total = sum(share.bytes for share in readiness.languages.values())
    looked = (
        f"of {about(readiness.surveyed)} documents, drawn by a hash; the first {readiness.surveyed_characters:,} characters"
    )
    return [looked] + [
        f"{name}: {share.documents:,} documents, {share_text(share.bytes, total)} of the bytes"
        for name, share in readiness.languages.items()
    ]


def _samples(readiness: Readiness) -> list[str]:
    rows = []
    for rule, samples in readiness.samples.items():
        rows.append(rule)
        for sample in samples[:_MOST_SAMPLES]:
            shown = "(not shown)" if sample.excerpt is None else f"{sample.excerpt!r}"
            rows.append(f"  [{sample.source}] {sample.id} ({sample.bytes:,} bytes): {shown}")
    return rows

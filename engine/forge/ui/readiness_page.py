"""An assessment as one page that needs nothing else: no network, no script, no font; it opens from a file and prints.

The answer comes first, then its reasons. What documents, ids and recipes say goes in as text only (``forge.ui.html``), and a
content security policy forbids what the page does not contain.
"""

from importlib import resources
from xml.etree.ElementTree import Element

from forge.report.readiness import Answer, Finding, Need, Readiness
from forge.ui.html import Content, el, to_html
from forge.ui.readiness import about, share_text, shorter_than, size_text
from forge.ui.readiness_figures import languages_figure, lengths_figure, removed_figure, sources_figure, volume_figure
from forge.ui.report_parts import table, tag

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
_CLASSES = {Answer.READY: "yes", Answer.WARNINGS: "warnings", Answer.NOT_USABLE: "no"}


def to_page(readiness: Readiness) -> bytes:
    """The page."""
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="referrer", content="no-referrer"),
        el("link", rel="icon", href="data:,"),
        el("title", f"{readiness.recipe}: is this data usable for training?"),
        el("style", *((resources.files("forge.ui") / name).read_text("utf-8") for name in ("report.css", "readiness.css"))),
    )
    body = el(
        "body",
        el("header", el("h1", f"{readiness.recipe}: is this data usable for training?"), _key(readiness), _answer(readiness)),
        el(
            "main",
            _part("volume", "Volume", _volume(readiness)),
            _part("sources", "Sources", _sources(readiness)),
            _part("removed", "What was removed", _removed(readiness)),
            _part("duplicates", "Duplicates", _duplicates(readiness)),
            _part("personal", "Personal data: counts, never values", _personal(readiness)),
            _part("suites", "Evaluation suites", _suites(readiness)),
            _part("languages", "Languages", _languages(readiness)),
            _part("samples", "Samples of what was removed", _samples(readiness)),
        ),
    )
    return to_html(el("html", head, body, lang="en"))


def _part(name: str, heading: str, *content: Content) -> Element:
    return el("section", el("h2", heading, id=name), *content, aria_labelledby=name)


def _row(name: Content, *cells: Content, numbers: int = 0) -> Element:
    """A row of a table; its last ``numbers`` cells are numbers."""
    words = len(cells) - numbers
    return el(
        "tr",
        el("th", name, scope="row"),
        [el("td", cell) for cell in cells[:words]],
        [el("td", cell, class_="number") for cell in cells[words:]],
    )


def _key(readiness: Readiness) -> Element:
    rows = (
        ("Commit", readiness.commit),
        ("Curated at", readiness.curated),
        ("Documents", readiness.documents),
        ("Read", size_text(readiness.read)),
        ("For training", size_text(readiness.train)),
        ("For validation", size_text(readiness.validation)),
    )
    return el("dl", [[el("dt", name), el("dd", value)] for name, value in rows], class_="key")


def _answer(readiness: Readiness) -> Element:
    findings = [el("li", _finding(finding)) for finding in readiness.findings]
    reasons: Content = el("ul", findings, class_="findings") if findings else el("p", "No rule has anything against it.")
    answer = readiness.answer
    return el("div", el("p", answer.value, class_="word"), reasons, class_=f"answer {_CLASSES[answer]}", role="status")


def _finding(finding: Finding) -> Content:
    word = tag("fails", "stands against it") if finding.blocks else tag("missing", "warning")
    return [word, f" {finding.rule.value}: {finding.message}", el("span", finding.remedy, class_="from")]


def _volume(readiness: Readiness) -> Content:
    if not readiness.needs:
        return el("p", "No model of this commit reads the recipe.")
    parts: list[Content] = [
        el(
            "p",
            "Compute-optimal are about 20 tokens a parameter (Hoffmann et al. 2022). Up to 4 passes over the same tokens"
            " cost little, 40 add nothing (Muennighoff et al. 2023).",
        )
    ]
    for need in readiness.needs:
        scale = el("p", "On a logarithmic scale, of tokens:", class_="soft")
        parts += [el("h3", need.model), scale, el("div", volume_figure(need), class_="scroll")]
    rows = [_need(need) for need in readiness.needs]
    return [*parts, table(("Model", "Known how", "#Parameters", "#Tokens", "#Planned", "#Passes", "#Optimal"), rows)]


def _need(need: Need) -> Element:
    return _row(
        [need.model, el("span", f"{need.objective}, as {need.reads}", class_="from")],
        need.tokens.basis,
        about(need.parameters),
        about(need.tokens.train, exactly=need.tokens.counted),
        about(need.planned_tokens),
        "cannot tell" if need.epochs is None else f"{need.epochs:.2f}",
        "no rule" if need.optimal_tokens is None else about(need.optimal_tokens),
        numbers=5,
    )


def _sources(readiness: Readiness) -> Content:
    rows = [
        _row(
            [f"[{index}] {source.origin}", el("span", source.path, class_="from")],
            [source.license, el("span", source.license_fault, class_="from") if source.license_fault else None],
            ", ".join(f"{rule} {count:,}" for rule, count in source.removed[:4]) or "nothing",
            f"{source.read.documents:,}",
            f"{source.kept.documents:,}",
            f"{source.kept.bytes:,}",
            share_text(source.kept.documents, source.read.documents),
            numbers=4,
        )
        for index, source in enumerate(readiness.sources)
    ]
    allowed = readiness.allowed_licenses
    lengths = lengths_figure(readiness)
    return [
        el("p", "Every licence is accepted." if allowed is None else f"Accepted licences: {', '.join(allowed)}."),
        el("div", sources_figure(readiness), class_="scroll"),
        table(("Source", "Licence", "Most removed by", "#Read", "#Kept", "#Bytes kept", "#Kept"), rows),
        [el("h3", "Lengths of the kept documents"), el("div", lengths, class_="scroll"), _lengths(readiness)]
        if lengths
        else None,
    ]


def _lengths(readiness: Readiness) -> Element:
    found = sorted({bits for source in readiness.sources for bits, _ in source.lengths})
    rows = []
    for index, source in enumerate(readiness.sources):
        counts = dict(source.lengths)
        rows.append(_row(f"[{index}]", *(f"{counts.get(bits, 0):,}" for bits in found), numbers=len(found)))
    return table(("Source", *(f"#{shorter_than(bits)}" for bits in found)), rows)


def _removed(readiness: Readiness) -> Content:
    if not readiness.removed:
        return el("p", "No document was removed.")
    read = readiness.read.documents
    rows = [_row(rule, f"{count:,}", share_text(count, read), numbers=2) for rule, count in readiness.removed]
    return [el("div", removed_figure(readiness), class_="scroll"), table(("Rule", "#Documents", "#Of all"), rows)]


def _duplicates(readiness: Readiness) -> Content:
    rows = [
        _row(
            row.kind,
            tag("holds", "looked for") if row.looked_for else tag("missing", "not looked for"),
            f"{row.removed:,}",
            numbers=1,
        )
        for row in readiness.duplicates
    ]
    return table(("Kind", "", "#Removed"), rows)


def _personal(readiness: Readiness) -> Content:
    rows = [
        _row(
            row.type,
            tag("holds", "replaced") if row.is_replaced else tag("quiet", "not replaced"),
            f"{row.replaced:,}",
            "nobody looked" if row.left is None else f"{row.left:,}",
            numbers=2,
        )
        for row in readiness.personal_data
    ]
    looked = None
    if readiness.surveyed is not None:
        text = f"{readiness.surveyed:,} kept documents, the first {readiness.surveyed_characters:,} characters of each"
        looked = el("p", f"What is left was counted in a sample: {text}.")
    neutralised = el("p", f"Control tokens that were neutralised: {readiness.control_tokens:,}.")
    return [table(("Type", "", "#Replaced", "#Left in the sample"), rows), looked, neutralised]


def _suites(readiness: Readiness) -> Content:
    if not readiness.suites:
        return el("p", "The recipe is cleaned of no suite, and no model that reads it is evaluated.")
    rows = [
        _row(
            row.suite,
            tag("holds", "cleaned of it") if row.is_cleaned else tag("missing", "not cleaned of it"),
            ", ".join(row.models) or "no model that reads the recipe",
            *("not counted" if count is None else f"{count:,}" for count in (row.looked_for, row.too_short)),
            f"{row.removed:,}",
            numbers=3,
        )
        for row in readiness.suites
    ]
    return table(("Suite", "", "Evaluated on it", "#Items looked for", "#Items too short", "#Documents removed"), rows)


def _languages(readiness: Readiness) -> Content:
    figure = languages_figure(readiness)
    if figure is None or readiness.languages is None:
        return el("p", "Nobody looked.")
    rows = [_row(name, f"{share.documents:,}", f"{share.bytes:,}", numbers=2) for name, share in readiness.languages.items()]
    return [
        el(
            "p",
            f"Of {about(readiness.surveyed)} kept documents that a hash drew, told by fastText's lid.176; und: cannot be told.",
        ),
        el("div", figure, class_="scroll"),
        table(("Language", "#Documents", "#Bytes"), rows),
    ]


def _samples(readiness: Readiness) -> Content:
    if not readiness.samples:
        return el("p", "There are none." if readiness.surveyed is not None else "Nobody kept any.")
    parts: list[Content] = [el("p", "Drawn by a hash, cut, and redacted by every rule there is, whatever the recipe redacts.")]
    for rule, samples in readiness.samples.items():
        rows = [
            el(
                "tr",
                el(
                    "th", sample.id, el("span", f"sources[{sample.source}], {sample.bytes:,} bytes", class_="from"), scope="row"
                ),
                el("td", "not shown" if sample.excerpt is None else sample.excerpt, class_="excerpt"),
            )
            for sample in samples
        ]
        parts += [el("h3", rule), table(("Document", "Begins"), rows)]
    return parts

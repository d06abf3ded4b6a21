"""A release's report as one page that needs nothing else: no network, no script, no font; it opens from a folder and prints.

The answer comes first. Every fact has its standing beside it in a word, not in a colour alone. A content security policy in the
page forbids what it does not contain, so that not even a fault in the escaping could load or run anything.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib import resources
from xml.etree.ElementTree import Element

from forge.admission.verdict import Rule
from forge.report.facts import shown
from forge.report.model import ChainStep, DataSheet, Measurement, Report, Standing
from forge.ui.html import Content, el, link, to_html
from forge.ui.report_figures import chain_figure, measurement_figure
from forge.ui.report_parts import BUNDLE, evidence_links, fact_table, facts_of, table, tag
from forge.ui.report_words import (
    NOBODY,
    ON_DECLARED,
    ON_DEVELOPMENT,
    ON_INTERVALS,
    ON_MISSING,
    ON_PROVED,
    ON_ROOT,
    ON_TOOLS,
    RULES,
)

_KEY_ID = 12
"""How much of a key's id is shown."""
PAGE, DATA = "index.html", "report.json"
ARCHIVE = f"{BUNDLE}.tar.gz"
_SECTIONS = (
    ("rules", "Rules"),
    ("chain", "Chain"),
    ("data", "Data"),
    ("training", "Training"),
    ("evaluations", "Evaluations"),
    ("approvals", "Approvals"),
    ("changes", "Changes"),
    ("withdrawals", "Withdrawals"),
    ("act", "EU AI Act"),
    ("check", "Check it yourself"),
)
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


def to_page(report: Report) -> bytes:
    """The page."""
    title = f"release/{report.environment}: may {report.model} serve?"
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="referrer", content="no-referrer"),
        el("link", rel="icon", href="data:,"),
        el("title", title),
        el("style", _style()),
    )
    body = el(
        "body",
        el("header", el("h1", title), _key(report), _answer(report), _development(report)),
        el("nav", el("ul", [el("li", link(f"#{name}", text)) for name, text in _SECTIONS]), aria_label="Sections"),
        el(
            "main",
            _part("rules", "Which rules were checked", _rules(report)),
            _part("chain", "The chain from data to release", _chain(report)),
            _part("data", "Data sheet", [_sheet(sheet) for sheet in report.data]),
            _part(
                "training",
                "Training",
                [facts_of(section) for section in report.training],
            ),
            _part("evaluations", "Evaluations", _evaluations(report.measurements), _measured_before(report)),
            _part("approvals", "Approvals", _approvals(report)),
            _part("changes", "Changes since the release before", _changes(report)),
            _part("withdrawals", "Withdrawals that touch it", _withdrawals(report)),
            _part("act", "EU AI Act: Annex XI and Article 53(1)(d)", _act(report)),
            _part("check", "Check it yourself, without Forge", _check(report)),
            _part("notes", "What could not be told", el("ul", [el("li", note) for note in report.notes]))
            if report.notes
            else None,
        ),
        _foot(report),
    )
    return to_html(el("html", head, body, lang="en"))


def to_data(report: Report) -> bytes:
    """The same for programs."""
    document = {"schema_version": 1, "holds": report.verdict.holds, **asdict(report)}
    for row, finding in zip(document["verdict"]["findings"], report.verdict.findings, strict=True):
        row["remedy"] = finding.remedy
    return (json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _style() -> str:
    return (resources.files("forge.ui") / "report.css").read_text("utf-8")


def _part(name: str, heading: str, *content: Content) -> Element:
    return el("section", el("h2", heading, id=name), *content, aria_labelledby=name)


def _key(report: Report) -> Element:
    rows = (
        ("Deployment", report.deployment),
        ("Released", report.moved),
        ("Commit", f"{report.commit}, signed by {report.signed_by or NOBODY}"),
        ("Weights", el("span", report.weights, class_="digest")),
        ("Rests on", report.verdict.trust),
    )
    return el("dl", [[el("dt", name), el("dd", value)] for name, value in rows], class_="key")


def _answer(report: Report) -> Element:
    verdict = report.verdict
    if verdict.holds:
        held = len({check.rule for check in verdict.checks})
        broken: Content = el("p", f"Nothing is at fault. {held} rules were shown to hold, checked from the bytes up.")
    else:
        rules = sorted({finding.rule.value for finding in verdict.findings})
        broken = [
            el("p", f"{len(verdict.findings)} findings, against the rules: {', '.join(rules)}."),
            el(
                "ul",
                [el("li", str(finding), el("span", finding.remedy, class_="from")) for finding in verdict.findings],
                class_="findings",
            ),
        ]
    word = "YES" if verdict.holds else "NO"
    text = f"{word}: {report.model} {'may' if verdict.holds else 'may not'} serve {report.environment}"
    return el("div", el("p", text, class_="word"), broken, class_=f"answer {word.lower()}", role="status")


def _development(report: Report) -> Element | None:
    if not report.development:
        return None
    return el(
        "div",
        el("p", "DEVELOPMENT", class_="word"),
        el("p", ON_DEVELOPMENT),
        class_="development",
        role="note",
    )


def _rules(report: Report) -> Content:
    rows = []
    for rule in Rule:
        findings = [finding for finding in report.verdict.findings if finding.rule is rule]
        checks = [check for check in report.verdict.checks if check.rule is rule]
        word = tag("fails", "broken") if findings else tag("holds", "holds") if checks else tag("quiet", "no finding")
        words: Content = [el("span", f"{item.object}: {item.message}", class_="from") for item in findings]
        words = [words, [el("span", check.message, class_="from") for check in checks]]
        rows.append(el("tr", el("th", RULES[rule], scope="row"), el("td", word), el("td", words)))
    return [
        el(
            "p",
            "Each rule is checked by the engine over everything that the release rests on. ",
            el("em", "No finding"),
            " stands where a rule reports only what breaks it, or does not apply here.",
        ),
        table(("Rule", "", "What was found"), rows),
    ]


def _signer(text: str) -> Content:
    """A role and the start of its key's id, which is not broken into two."""
    role, _, keyid = text.rpartition(" ")
    if not role or len(keyid) > _KEY_ID:
        return text
    return [f"{role} ", el("span", keyid, class_="digest short")]


def _reproduced(step: ChainStep) -> Content:
    """Who carried out a step again, and whether that is often enough."""
    rows: list[Content] = [
        el(
            "div",
            "made again, the same, by " if item.refusal is None else "an entry says that it was made again by ",
            _signer(item.signer),
            el(
                "span",
                f"{item.finished}, on {item.hardware}; entry {item.entry}; ",
                evidence_links(item.evidence),
                class_="from",
            ),
            [tag("fails", "does not count"), " ", item.refusal] if item.refusal is not None else None,
        )
        for item in step.reproductions
    ]
    if step.threshold > 1:
        rows.append(el("div", f"{step.threshold} functionaries are asked for"))
    return rows


def _chain(report: Report) -> Content:
    rows = [
        el(
            "tr",
            el("th", step.id, scope="row"),
            el(
                "td",
                _signer(step.signer),
                el("div", f"time stamp {step.stamped}") if step.stamped else None,
                _reproduced(step),
            ),
            el("td", el("span", step.commit[:12], class_="digest short")),
            el("td", [el("div", f"{name} ", el("span", digest, class_="digest")) for name, digest in step.products]),
            el("td", evidence_links(step.evidence), None if step.holds else tag("fails", "not proved")),
        )
        for step in report.chain
    ]
    return [
        el("div", chain_figure(report.chain), class_="scroll"),
        table(("Step", "Signed by", "Commit", "Made", "Attestations"), rows),
    ]


def _sheet(sheet: DataSheet) -> Content:
    rows = [
        el(
            "tr",
            el("th", source.origin, el("span", source.path, class_="from"), scope="row"),
            el("td", source.license),
            *(
                el("td", "not proved" if number is None else shown(number), class_="number")
                for number in (source.documents_read, source.documents_kept, source.bytes_kept)
            ),
        )
        for source in sheet.sources
    ]
    declared: Content = [tag("declared", "declared"), " by ", evidence_links((sheet.declared,))]
    by_whom: Content = tag("missing", "missing")
    if sheet.counted:
        by_whom = [tag("proved", "proved"), " by ", evidence_links((sheet.counted,))]
    untouched = "No document was removed and nothing was replaced." if sheet.counted else "What was removed is not proved."
    counts = [("removed: " + name, number) for name, number in sheet.removed]
    counts += [("personal data replaced: " + name, number) for name, number in sheet.replaced]
    return [
        el("h3", sheet.address),
        el("p", "Origins and licences are ", declared, "; counts are ", by_whom, "."),
        table(("Source", "Licence", "#Read", "#Kept", "#Bytes kept"), rows),
        table(
            ("What the filters and redactions did", "#Times"),
            [el("tr", el("th", name, scope="row"), el("td", shown(number), class_="number")) for name, number in counts],
        )
        if counts
        else el("p", untouched),
        fact_table(sheet.facts),
    ]


def _evaluations(measured: Sequence[Measurement]) -> Content:
    if not measured:
        return el("p", "No evaluation of this chain holds.")
    rows = []
    for item in measured:
        interval = item.interval
        bound = f"{'at least' if item.bound == 'min' else 'at most'} {shown(item.threshold)}" if item.bound else "none"
        kept = None if item.passed is None else tag("holds", "kept") if item.passed else tag("fails", "broken")
        rows.append(
            el(
                "tr",
                el(
                    "th",
                    item.task,
                    el("span", f"{item.metric}, {item.suite}, {shown(item.num_items)} items", class_="from"),
                    scope="row",
                ),
                el("td", "not measured" if item.value is None else shown(item.value), class_="number"),
                el("td", f"{shown(interval[0])} to {shown(interval[1])}" if interval else "no standard error", class_="number"),
                el("td", bound, " ", kept),
                el("td", measurement_figure(item), evidence_links(item.evidence)),
            )
        )
    return [
        el("p", ON_INTERVALS),
        table(("Task", "#Value", "#95% interval", "Threshold", "Drawn, and proved by"), rows),
    ]


def _measured_before(report: Report) -> Content:
    """Whoever measures often enough passes at last, so that is told; the one way from evaluation to verdict is not."""
    gates = sum(item.step.startswith("gate/") for item in report.measured_before)
    if max(gates, len(report.measured_before) - gates) < 2:
        return None
    rows = [
        el(
            "tr",
            el("th", item.step, scope="row"),
            el("td", item.decision or ("not told" if item.step.startswith("gate/") else "measured")),
            el("td", item.finished),
            el("td", el("span", item.commit[:12], class_="digest short")),
            el("td", str(item.entry), class_="number"),
        )
        for item in report.measured_before
    ]
    return [
        el("h3", "Measured and decided before, about these very weights"),
        table(("Step", "Outcome", "When", "Commit", "#Entry"), rows),
    ]


def _approvals(report: Report) -> Content:
    counted = len({item.person for item in report.approvals if item.refusal is None})
    needed = report.approvals_needed
    lead = (
        f"{needed} needed, {counted} given by people whose approval counts."
        if needed
        else "The supply chain in force asks for none."
    )
    rows = [
        el(
            "tr",
            el("th", item.person, scope="row"),
            el("td", item.given),
            el("td", el("span", item.commit[:12], class_="digest short")),
            el("td", tag("holds", "counts") if item.refusal is None else [tag("fails", "does not count"), " ", item.refusal]),
            el("td", evidence_links(item.evidence)),
        )
        for item in report.approvals
    ]
    return [el("p", lead), table(("Person", "Given", "Looked at commit", "", "Signed statement"), rows) if rows else None]


def _changes(report: Report) -> Content:
    changes = report.changes
    if changes.previous_commit is None:
        return el("p", f"This is the first release of {report.environment}.")
    commits = [
        el(
            "tr",
            el("th", el("span", row.name[:12], class_="digest short"), scope="row"),
            el("td", row.subject),
            el("td", row.signer or NOBODY),
        )
        for row in changes.commits
    ]
    fields = [
        el(
            "tr",
            el("th", row.address, el("span", row.field, class_="from"), scope="row"),
            el("td", "absent" if row.old is None else row.old),
            el("td", "absent" if row.new is None else row.new),
        )
        for row in changes.fields
    ]
    return [
        el(
            "p",
            f"The release before was moved {changes.previous_moved} to commit ",
            el("span", changes.previous_commit, class_="digest"),
            ".",
        ),
        el("p", changes.unread) if changes.unread else None,
        table(("Commit", "What it says", "Signed by"), commits),
        table(("Field", "Before", "Now"), fields) if fields else el("p", "No field of any spec differs."),
    ]


def _withdrawals(report: Report) -> Content:
    if not report.verdict.withdrawn:
        return el("p", f"None, among all that stood in the ledger up to entry {report.entries}.")
    rows = [
        el(
            "tr",
            el("th", item.subject, scope="row"),
            el("td", item.reason),
            el("td", item.serving),
            el("td", str(item.entry)),
            el("td", el("span", item.commit[:12], class_="digest short")),
        )
        for item in report.verdict.withdrawn
    ]
    return table(("What", "Reason", "Serving", "Ledger entry", "Commit"), rows)


def _act(report: Report) -> Content:
    facts = [fact for section in report.act for fact in section.facts]
    texts = {Standing.PROVED: ON_PROVED, Standing.DECLARED: ON_DECLARED, Standing.MISSING: ON_MISSING}
    meaning: Content = [[tag(standing.value, standing.value), text] for standing, text in texts.items()]
    counts = ", ".join(f"{sum(fact.standing is standing for fact in facts)} {standing}" for standing in Standing)
    return [
        el("p", f"Of {len(facts)} fields: {counts}. ", meaning),
        [facts_of(section) for section in report.act],
    ]


def _check(report: Report) -> Content:
    return [
        el(
            "p",
            "The archive ",
            link(ARCHIVE, ARCHIVE),
            " holds every attestation, the public keys and ",
            link(f"{BUNDLE}/README.md", "a README"),
            " with each command and what it proves. ",
            ON_TOOLS,
        ),
        el("pre", el("code", f"sh verify.sh sha256:DIGEST {ARCHIVE}")),
        el("p", ON_ROOT, el("span", report.trust_root, class_="digest"), "."),
        el("p", "Whether this page was edited, a clone of the repository tells:"),
        el("pre", el("code", f"forge report release/{report.environment} --check .")),
    ]


def _foot(report: Report) -> Element:
    return el(
        "footer",
        el(
            "p",
            f"Made by forge {report.engine} from the ledger up to entry {report.entries} (",
            el("span", report.head, class_="digest"),
            "). What came later is not in it. ",
            link(DATA, "The same as JSON"),
            ".",
        ),
    )


def _notes(report: Report) -> Content:
    return el("ul", [el("li", note) for note in report.notes])

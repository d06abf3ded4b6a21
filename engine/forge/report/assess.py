"""Is this data usable for training? A pure function of what was read (``curated``), by the rules of docs/readiness.md.

Sources of the figures: 20 tokens a parameter, Hoffmann et al. 2022 ("Training Compute-Optimal Large Language Models"); what
repeated tokens are worth, Muennighoff et al. 2023 ("Scaling Data-Constrained Language Models"): up to 4 epochs cost little, 40
add nothing.
"""

import math
from collections.abc import Iterator, Mapping, Sequence

from forge.contract.survey import UNDETERMINED, Survey
from forge.report.material import CurateReport, Material, SourceReport, Use
from forge.report.readiness import (
    DuplicateCount,
    Finding,
    Need,
    PersonalCount,
    Readiness,
    Rule,
    Size,
    SourceQuality,
    SuiteCount,
    TokenCount,
)
from forge.spec.data_recipe import DataRecipeSpec, Pii, Source
from forge.spec.licenses import LicenseFault, license_fault

OPTIMAL_TOKENS_PER_PARAMETER = 20
CHEAP_EPOCHS = 4
WORTHLESS_EPOCHS = 40
REPEAT_DECAY = 15.387756
"""R*_D of Muennighoff et al. 2023, section 6 and appendix A: repeats beyond so many times the unique data add little."""
BYTES_PER_TOKEN = 4.0
"""Of English text with a vocabulary of 32,000 or more; a smaller one needs more tokens."""
LEAST_VALIDATION_DOCUMENTS = 20
MOST_REMOVED = 0.9
MOST_REMOVED_OF_ALL = 0.5
MOST_CONTAMINATED = 0.05
MOST_TOO_SHORT = 0.1
LEAST_LANGUAGE_SHARE, FEWEST_LANGUAGE_SHARE = 0.9, 0.5
_DUPLICATES = ("url", "exact", "near")


def assess(material: Material) -> Readiness:
    """Count, compare and judge."""
    spec, report, survey = material.spec, material.report, material.survey
    lengths: Sequence[Mapping[str, int]] = survey.lengths if survey is not None else [{}] * len(spec.sources)
    sources = tuple(
        _source(source, counted, own, spec.allow_licenses)
        for source, counted, own in zip(spec.sources, report.sources, lengths, strict=True)
    )
    read = Size(sum(row.read.documents for row in sources), sum(row.read.bytes for row in sources))
    train = report.splits["train"]
    needs = tuple(_need(use, train.bytes) for use in material.uses)
    duplicates = tuple(_duplicates(kind, material) for kind in _DUPLICATES)
    personal = tuple(_personal(name, material) for name in Pii.model_fields)
    suites = tuple(_suites(material))
    findings = (
        *_about_existence(material, train),
        *_about_licenses(sources, spec),
        *_about_language(material),
        *_about_volume(needs),
        *_about_duplicates(duplicates, material),
        *_about_personal_data(personal, survey),
        *_about_suites(suites, read, material),
        *_about_removal(sources, read, report),
        *_about_validation(report.splits["validation"]),
        *_about_survey(material),
    )
    return Readiness(
        recipe=material.recipe,
        commit=material.commit,
        curated=material.curated,
        documents=material.documents,
        findings=tuple(sorted(findings, key=lambda finding: not finding.blocks)),
        read=read,
        train=train,
        validation=report.splits["validation"],
        sources=sources,
        removed=_ordered(report.removed),
        samples=survey.samples if survey is not None else {},
        surveyed=survey.documents if survey is not None else None,
        surveyed_characters=survey.characters if survey is not None else 0,
        languages=survey.languages if survey is not None else None,
        needs=needs,
        duplicates=duplicates,
        personal_data=personal,
        control_tokens=report.control_tokens_neutralised,
        suites=suites,
        allowed_licenses=None if spec.allow_licenses is None else tuple(spec.allow_licenses),
    )


def worth(tokens: float, epochs: float) -> float:
    """New tokens that so many passes over ``tokens`` are worth: U + U R* (1 - exp(-R/R*)), R the repeats (equation 5)."""
    repeats = max(0.0, epochs - 1)
    return min(1.0, epochs) * tokens + tokens * REPEAT_DECAY * (1 - math.exp(-repeats / REPEAT_DECAY))


def _source(source: Source, counted: SourceReport, lengths: Mapping[str, int], allowed: list[str] | None) -> SourceQuality:
    fault = _license_fault(source, allowed)
    return SourceQuality(
        path=source.place,
        license=source.license,
        license_fault=fault.message if fault is not None else "",
        origin=source.origin,
        read=counted.read,
        kept=counted.kept,
        removed=_ordered(counted.removed),
        lengths=tuple(sorted((int(bits), count) for bits, count in lengths.items())),
    )


def _license_fault(source: Source, allowed: list[str] | None) -> LicenseFault | None:
    """Where documents name their own licences, each was judged by itself, and the source's is of all of them together."""
    return license_fault(source.license, None if source.license_key else allowed)


def _ordered(counts: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _need(use: Use, train_bytes: int) -> Need:
    tokens = use.tokens
    if tokens is None:
        ratio = use.bytes_per_token or BYTES_PER_TOKEN
        basis = (
            f"estimated: {ratio:.2f} bytes a token, as {use.tokenizer} needed on part of the documents"
            if use.bytes_per_token
            else f"estimated: {ratio:g} bytes a token, as large vocabularies need for English"
        )
        tokens = TokenCount(round(train_bytes / ratio), counted=False, basis=basis)
    from_scratch = use.objective == "pretrain" and use.parameters is not None
    epochs = use.planned_tokens / tokens.train if use.planned_tokens is not None and tokens.train else None
    return Need(
        model=use.model,
        objective=use.objective,
        reads=use.reads,
        parameters=use.parameters,
        tokens=tokens,
        planned_tokens=use.planned_tokens,
        optimal_tokens=OPTIMAL_TOKENS_PER_PARAMETER * (use.parameters or 0) if from_scratch else None,
        epochs=epochs,
        worth_tokens=None if epochs is None else round(worth(tokens.train, epochs)),
    )


def _duplicates(kind: str, material: Material) -> DuplicateCount:
    rules = material.spec.dedup
    looked_for = {"url": rules.url, "exact": rules.exact, "near": rules.minhash is not None}[kind]
    return DuplicateCount(kind, looked_for, material.report.removed.get(f"{kind}_duplicate", 0))


def _personal(name: str, material: Material) -> PersonalCount:
    left = material.survey.personal_data.get(name, 0) if material.survey is not None else None
    replaced = material.report.personal_data_replaced.get(name, 0)
    return PersonalCount(name, bool(getattr(material.spec.pii, name)), replaced, left)


def _suites(material: Material) -> Iterator[SuiteCount]:
    cleaned = material.spec.decontaminate_against
    for suite in sorted({*cleaned, *material.evaluated}):
        name = suite.removeprefix("EvalSuite/")
        removed = material.report.removed.get(f"contaminated.{name}", 0)
        found = None if material.survey is None else material.survey.suites.get(name)
        items = (None, None) if found is None else (found.looked_for, found.too_short)
        yield SuiteCount(suite, suite in cleaned, removed, material.evaluated.get(suite, ()), *items)


def _about_existence(material: Material, train: Size) -> Iterator[Finding]:
    for text in material.withdrawn:
        yield Finding(Rule.WITHDRAWN, True, text, "train on other data, or lift the withdrawal")
    if material.is_lost:
        message = f"the store has no documents {material.documents}"
        yield Finding(Rule.LOST, True, message, f"`forge apply --target {material.recipe}` makes them again")
    if train.documents == 0 or train.bytes == 0:
        yield Finding(Rule.EMPTY, True, "there is no document to train on", "loosen the filters, or add sources")


def _about_licenses(sources: Sequence[SourceQuality], spec: DataRecipeSpec) -> Iterator[Finding]:
    for index, (row, source) in enumerate(zip(sources, spec.sources, strict=True)):
        fault = _license_fault(source, spec.allow_licenses)
        if fault is not None:
            refused = spec.allow_licenses is not None and not source.license_key
            remedy = f"write an SPDX expression into sources[{index}].license"
            if fault.kind == "not_allowed":
                remedy = f"leave sources[{index}] out, or add its licence to `allow_licenses`"
            yield Finding(Rule.LICENSE, refused, f"sources[{index}] ({row.path}): {fault.message}", remedy)


def _about_language(material: Material) -> Iterator[Finding]:
    survey, filters = material.survey, material.spec.filters
    if survey is None or survey.languages is None:
        return
    wanted = filters.language.allow if filters.language is not None else [material.spec.language]
    told = {name: share.bytes for name, share in survey.languages.items() if name != UNDETERMINED}
    total = sum(told.values())
    if total == 0:
        message = f"the language of none of {survey.documents} documents could be told"
        yield Finding(Rule.LANGUAGE, False, message, "look at the documents: are they text?")
        return
    share = sum(told.get(name, 0) for name in wanted) / total
    if share < LEAST_LANGUAGE_SHARE:
        others = ", ".join(f"{name} {size / total:.0%}" for name, size in told.items() if name not in wanted)
        message = f"{1 - share:.0%} of what was looked at is not in {', '.join(wanted)} (by bytes: {others[:200]})"
        remedy = f"set filters.language.allow to [{', '.join(wanted)}], or to the languages that are meant"
        yield Finding(Rule.LANGUAGE, share < FEWEST_LANGUAGE_SHARE, message, remedy)


def _about_volume(needs: Sequence[Need]) -> Iterator[Finding]:
    if not needs:
        message = "no model of this commit reads the recipe, so whether there is enough cannot be told"
        yield Finding(Rule.UNUSED, False, message, "name it as a model's `data`")
    for need in needs:
        about = "" if need.tokens.counted else "about "
        held = f"the {about}{need.tokens.train:,} tokens"
        if need.epochs is not None and need.epochs > CHEAP_EPOCHS:
            blocks = need.epochs > WORTHLESS_EPOCHS
            worth_it = f"repeats included, that is worth {need.worth_tokens:,} new ones"
            message = f"{need.model} reads {held} {need.epochs:.1f} times; {worth_it}"
            remedy = "train on fewer tokens, or add documents"
            yield Finding(Rule.REPEATS, blocks, message, remedy)
        if need.optimal_tokens is not None and worth(need.tokens.train, CHEAP_EPOCHS) < need.optimal_tokens:
            share = need.tokens.train / need.optimal_tokens
            message = (
                f"{need.model} has {need.parameters:,} parameters, for which {need.optimal_tokens:,} tokens are"
                f" compute-optimal; {held} are {share:.1%} of that, and {CHEAP_EPOCHS} passes over them do not make up for it"
            )
            yield Finding(Rule.VOLUME, False, message, "add documents, or train a smaller model")


def _about_duplicates(duplicates: Sequence[DuplicateCount], material: Material) -> Iterator[Finding]:
    looked_for = {row.kind: row.looked_for for row in duplicates}
    missing = [(kind, key) for kind, key in (("exact", "exact: true"), ("near", "minhash: {}")) if not looked_for[kind]]
    for kind, key in missing:
        words = {"exact": "equal", "near": "nearly equal"}[kind]
        kept = material.report.splits["train"].documents
        message = f"nobody looked for {words} documents, so some of the {kept:,} may repeat each other"
        yield Finding(Rule.DUPLICATES, False, message, f"write `{key}` under `dedup`")


def _about_personal_data(counts: Sequence[PersonalCount], survey: Survey | None) -> Iterator[Finding]:
    for row in counts:
        if row.left:
            looked = f"in the first {survey.characters:,} characters of {survey.documents:,} documents" if survey else ""
            message = f"{row.left:,} {row.type} {looked} are not replaced"
            remedy = "write `edition: 2`, which finds more" if row.is_replaced else f"write `{row.type}: true` under `pii`"
            yield Finding(Rule.PERSONAL_DATA, False, message, remedy)
    unknown = [row.type for row in counts if row.left is None and not row.is_replaced]
    if unknown:
        message = f"nobody looked for {', '.join(unknown)}"
        yield Finding(Rule.PERSONAL_DATA, False, message, "switch them on under `pii`")


def _about_suites(suites: Sequence[SuiteCount], read: Size, material: Material) -> Iterator[Finding]:
    for row in suites:
        if row.models and not row.is_cleaned:
            message = f"{', '.join(row.models)} is evaluated on {row.suite}, and the documents are not cleaned of it"
            yield Finding(Rule.CONTAMINATION, False, message, f"list {row.suite} in `decontaminate_against`")
        if row.too_short and row.looked_for is not None and row.too_short > MOST_TOO_SHORT * (row.looked_for + row.too_short):
            message = (
                f"{row.too_short:,} of {row.looked_for + row.too_short:,} items of {row.suite} are too short to be looked for"
            )
            remedy = "texts below 8 words are found everywhere: keep the suite's own files out of the sources by other means"
            yield Finding(Rule.CONTAMINATION, False, message, remedy)
    removed = sum(row.removed for row in suites)
    if read.documents and removed / read.documents > MOST_CONTAMINATED:
        names = ", ".join(material.spec.decontaminate_against)
        message = f"{removed:,} of {read.documents:,} documents repeat items of {names}"
        yield Finding(
            Rule.CONTAMINATION, False, message, "look where the sources come from: more of the suite may be rephrased there"
        )


def _about_removal(sources: Sequence[SourceQuality], read: Size, report: CurateReport) -> Iterator[Finding]:
    for index, row in enumerate(sources):
        gone = sum(count for _, count in row.removed)
        name = f"sources[{index}] ({row.path})"
        if row.read.documents == 0:
            yield Finding(Rule.REMOVAL, False, f"{name} holds no document", "take the source out, or mend its path")
        elif gone / row.read.documents > MOST_REMOVED:
            rule, count = row.removed[0]
            message = f"{gone:,} of {row.read.documents:,} documents of {name} were removed, most ({count:,}) by {rule}"
            yield Finding(Rule.REMOVAL, False, message, "look at the samples: is the threshold made for such text?")
    gone = sum(report.removed.values())
    if len(sources) > 1 and read.documents and gone / read.documents > MOST_REMOVED_OF_ALL:
        rule, count = _ordered(report.removed)[0]
        message = f"{gone:,} of all {read.documents:,} documents were removed, most ({count:,}) by {rule}"
        yield Finding(Rule.REMOVAL, False, message, "look at the samples: are the thresholds made for such text?")


def _about_validation(validation: Size) -> Iterator[Finding]:
    if validation.documents < LEAST_VALIDATION_DOCUMENTS:
        message = f"{validation.documents} documents are held out; a loss over so few says little"
        yield Finding(Rule.VALIDATION, False, message, "raise split.validation_fraction, or add documents")


def _about_survey(material: Material) -> Iterator[Finding]:
    survey = material.survey
    if survey is None:
        message = f"there are no samples, lengths and languages: {material.survey_fault}"
        yield Finding(Rule.SURVEY, False, message, material.survey_remedy)
    elif survey.languages is None:
        yield Finding(Rule.SURVEY, False, f"languages cannot be told: {survey.languages_fault}", "install the locks")

"""in-toto layouts, one per pipeline shape, as pure functions of the charter: what outside verifiers check a chain against.

A layout's step is a kind of step (``train``), not one resource's: a release's chain is one link per kind, in which several
resources are path prefixes. Every input is bound to the output it came from by MATCH, and what no MATCH consumed is refused by
DISALLOW, because MATCH alone never fails (in-toto specification 0.9, artifact rules).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from forge.attest.authority import Authority
from forge.attest.trust import PublicKey
from forge.canonical import canonical_json, hex_of
from forge.contract.kinds import STEPS, StepKind
from forge.contract.manifest import Manifest
from forge.contract.record import Record
from forge.errors import TrustError
from forge.plan.step import FromCommit, FromStep, Step, key_of, producers_of

_PRETRAIN = (
    StepKind.CURATE,
    StepKind.TOKENIZER,
    StepKind.TOKENIZE,
    StepKind.TRAIN,
    StepKind.EVALUATE,
    StepKind.GATE,
    StepKind.RELEASE,
)
_IMPORTED, _TUNED, _TUNED_IMPORTED = "continue-imported", "sft", "sft-imported"
_PREFERRED, _PREFERRED_IMPORTED = "dpo", "dpo-imported"
_ANSWERED = tuple(k for k in _PRETRAIN if k not in (StepKind.CURATE, StepKind.TOKENIZER, StepKind.TOKENIZE))
SEARCHED = "-sweep"
"""How the name of a shape ends that has a search: its trainings may read values that a sweep chose."""
_DIRECT: Mapping[str, tuple[StepKind, ...]] = {
    "pretrain": _PRETRAIN,
    "continue": _PRETRAIN,
    _IMPORTED: tuple(kind for kind in _PRETRAIN if kind is not StepKind.TOKENIZER),
    _TUNED: _PRETRAIN,
    _TUNED_IMPORTED: _ANSWERED,
    _PREFERRED: _PRETRAIN,
    _PREFERRED_IMPORTED: _ANSWERED,
}
SHAPES: Mapping[str, tuple[StepKind, ...]] = {
    **_DIRECT,
    **{f"{name}{SEARCHED}": (*kinds[:-2], StepKind.SWEEP, *kinds[-2:]) for name, kinds in _DIRECT.items()},
}
"""The kinds of step that a release of each shape rests on; what a step of them may read depends on the shape too."""
_READS: Mapping[StepKind, tuple[StepKind, ...]] = {
    StepKind.CURATE: (),
    StepKind.TOKENIZER: (StepKind.CURATE,),
    StepKind.TOKENIZE: (StepKind.CURATE, StepKind.TOKENIZER),
    StepKind.TRAIN: (StepKind.TOKENIZE, StepKind.TOKENIZER, StepKind.SWEEP),
    StepKind.EVALUATE: (StepKind.TRAIN,),
    StepKind.SWEEP: (StepKind.EVALUATE, StepKind.SWEEP),
    StepKind.GATE: (StepKind.EVALUATE,),
    StepKind.RELEASE: (StepKind.TRAIN, StepKind.GATE),
}
_COMMITTED: Mapping[StepKind, str] = {
    StepKind.CURATE: "DataRecipe",
    StepKind.EVALUATE: "EvalSuite",
    StepKind.RELEASE: "InferencePolicy",
}
"""Whose files a step reads from the commit itself."""
_COMMITTED_IF_IMPORTED: Mapping[StepKind, str] = {StepKind.TOKENIZE: "Model", StepKind.TRAIN: "Model"}
"""The same where the first weights and their tokenizer lie in the repository."""
_COMMITTED_OF: Mapping[str, Mapping[StepKind, str]] = {
    _IMPORTED: _COMMITTED_IF_IMPORTED,
    _TUNED: {StepKind.TRAIN: "Model"},  # the conversations
    _TUNED_IMPORTED: _COMMITTED_IF_IMPORTED,
    _PREFERRED: {StepKind.TRAIN: "Model"},  # the preferences, and conversations where its base learnt from some
    _PREFERRED_IMPORTED: _COMMITTED_IF_IMPORTED,
}
_WITH_PREFERENCES: Mapping[str, str] = {_TUNED: _PREFERRED, _TUNED_IMPORTED: _PREFERRED_IMPORTED}
"""The shape of a chain in which a training read preferences, where without them it would have this one."""
COMMAND = ["python", "-m", "forge.steps", "request.json"]


@dataclass(frozen=True)
class Done:
    """A step of a release's chain: what its commit asks for, and the record of it."""

    step: Step
    record: Record


def shape_of(steps: Iterable[Step]) -> str | None:
    """The shape of a chain of steps: by what their trainings begin with, and their kinds; None where it has no known one.

    Whatever is trained from files of the commit has a shape of its own, and the kinds tell which: where the first weights are
    made here there is a tokenizer step, and where nothing is tokenized there are conversations alone. Whoever lists sft has not
    listed dpo: one training that reads preferences makes a chain dpo, and one that has no shape for that has none. A search is
    told by its steps, whatever the rest is.
    """
    steps = tuple(steps)
    trained = [step for step in steps if step.kind is StepKind.TRAIN]
    sources = [source for step in steps if step.kind in _COMMITTED_IF_IMPORTED for source in step.inputs.values()]
    begins = {source.step_id for step in trained for source in step.inputs.values() if isinstance(source, FromStep)}
    name = "continue" if any(step.id in begins for step in trained) else "pretrain"
    kinds = {step.kind for step in steps} - {StepKind.SWEEP}
    if any(isinstance(source, FromCommit) for source in sources):
        name = next((each for each in _COMMITTED_OF if frozenset(SHAPES[each]) == kinds), _IMPORTED)
    if any("preferences" in step.inputs for step in trained):
        name = _WITH_PREFERENCES.get(name, "")
    if frozenset(SHAPES.get(name, ())) != kinds:
        return None
    return f"{name}{SEARCHED}" if any(step.kind is StepKind.SWEEP for step in steps) else name


def steps_behind(release: Step, graph: Mapping[str, Step]) -> list[Step]:
    """A release's steps: itself and everything before it, as a commit asks for them."""
    found: dict[str, Step] = {}
    pending = [release]
    while pending:
        step = pending.pop()
        if step.id not in found:
            found[step.id] = step
            pending += [graph[source.step_id] for source in step.inputs.values() if isinstance(source, FromStep)]
    return list(found.values())


def layout_of(authority: Authority, shape: str, moment: str) -> bytes:
    """The payload of a layout, as signed bytes; raises TrustError where a role of it has no key at this moment."""
    if authority.charter is None:
        raise TrustError("without a SupplyChain there is no layout")
    keys: dict[str, dict[str, Any]] = {}
    steps = []
    for kind in SHAPES[shape]:
        role = authority.role_of(kind)
        named = _may_sign(authority, kind, moment)
        if not named:
            raise TrustError(
                f"the role {role.value} has no key that is valid at {moment}: nobody could sign the step {kind.value}"
            )
        threshold, people = authority.threshold(kind), authority.functionaries(role)
        able = {people.get(key.keyid) for key in named}
        if len(able) < threshold:
            raise TrustError(
                f"the role {role.value} asks for {threshold} functionaries, and at {moment} the keys of {len(able)} are valid: "
                f"the step {kind.value} could not be signed often enough"
            )
        for key in named:
            public = {"public": key.public, "private": ""}
            keys[key.keyid] = {"keyid": key.keyid, "keytype": key.keytype, "scheme": key.scheme, "keyval": public}
        steps.append(_step(kind, shape, [key.keyid for key in named], threshold))
    return canonical_json(
        {
            "_type": "layout",
            "expires": authority.charter.supply_chain.expires,
            "inspect": [],
            "keys": keys,
            "readme": f"Forge, shape {shape}, charter {authority.charter.digest}",
            "steps": steps,
        }
    )


def keys_in_layout(authority: Authority, kind: StepKind, moment: str) -> frozenset[str]:
    """The ids of the keys by which a layout that was made at a moment lets a kind of step be signed."""
    then = Authority(authority.root, authority.charter, authority.charter)
    return frozenset(key.keyid for key in _may_sign(then, kind, moment))


def _may_sign(authority: Authority, kind: StepKind, moment: str) -> list[PublicKey]:
    """Where several functionaries are asked for, a key that stands for none of them is not listed."""
    role = authority.role_of(kind)
    named = [signer.key for signer in authority.signers(role, moment).known if signer.refusal is None]
    if authority.threshold(kind) == 1:
        return named
    people = authority.functionaries(role)
    return [key for key in named if key.keyid in people]


def _step(kind: StepKind, shape: str, pubkeys: Sequence[str], threshold: int) -> dict[str, Any]:
    reads = [source for source in _READS[kind] if source in SHAPES[shape]]
    direct = shape.removesuffix(SEARCHED)
    if kind is StepKind.TRAIN and direct != "pretrain":
        reads.append(StepKind.TRAIN)  # the weights that it begins with: another training's products in the same link
    materials = [["MATCH", f"{source.value}/*", "WITH", "PRODUCTS", "FROM", source.value] for source in reads]
    committed = {**_COMMITTED, **_COMMITTED_OF.get(direct, {})}
    if kind in committed:
        materials.append(["ALLOW", f"commit/{committed[kind]}/*"])
    return {
        "_type": "step",
        "name": kind.value,
        "expected_command": COMMAND,
        "expected_materials": [*materials, ["DISALLOW", "*"]],
        "expected_products": [["ALLOW", f"{kind.value}/*"], ["DISALLOW", "*"]],
        "pubkeys": list(pubkeys),
        "threshold": threshold,
    }


def chain_of(release: Step, graph: Mapping[str, Step], record_of: Callable[[str], Record | None], key: str) -> list[Done]:
    """The steps that a release rests on, with their records, each after those it reads from.

    Args:
        release: the release step.
        graph: the steps of its commit.
        record_of: the record of a step key.
        key: the release's own step key.

    Raises TrustError for a step that is not recorded.
    """
    found: dict[str, Done] = {}
    pending = [release.id]
    while pending:
        step = graph[pending[-1]]
        sources = {name: source for name, source in step.inputs.items() if isinstance(source, FromStep)}
        missing = [source.step_id for source in sources.values() if source.step_id not in found]
        if missing:
            pending += missing
            continue
        pending.pop()
        if step.id in found:
            continue
        inputs = _inputs(step, found)
        record = record_of(key if step.id == release.id else key_of(step, inputs))
        if record is None or dict(record.inputs) != inputs:
            raise TrustError(f"{release.id} rests on {step.id}, which is not recorded with what the steps before it made")
        found[step.id] = Done(step, record)
    return list(found.values())


def recorded_behind(step: Step, graph: Mapping[str, Step], record_of: Callable[[str], Record | None]) -> dict[str, Done]:
    """A step and everything before it, by id, each after those it reads from; what is not recorded yet is left out."""
    wanted = {each.id for each in steps_behind(step, graph)}
    found: dict[str, Done] = {}
    for step_id, each in graph.items():
        if step_id in wanted and all(not isinstance(item, FromStep) or item.step_id in found for item in each.inputs.values()):
            inputs = _inputs(each, found)
            record = record_of(key_of(each, inputs))
            is_whole = record is not None and record.products.keys() >= set(STEPS[each.kind].products)
            if record is not None and is_whole and dict(record.inputs) == inputs:
                found[step_id] = Done(each, record)
    return found


def _inputs(step: Step, found: Mapping[str, Done]) -> dict[str, str]:
    return {
        name: found[source.step_id].record.products[source.product] if isinstance(source, FromStep) else source.bundle.digest
        for name, source in step.inputs.items()
    }


def chain_links(chain: Sequence[Done], manifests: Mapping[str, Manifest]) -> dict[StepKind, bytes]:
    """One link per kind of step for a whole chain, as signed bytes.

    Paths are those of the chain's own commit, whatever a step was called when it ran.
    """
    ids = {done.step.id for done in chain}
    links: dict[StepKind, dict[str, Any]] = {}
    for done in sorted(chain, key=lambda each: each.step.id):
        step, record = done.step, done.record
        for source in step.inputs.values():
            if isinstance(source, FromStep) and source.step_id not in ids:
                raise TrustError(f"{step.id} reads {source.step_id}, which is not part of the chain")
        link = links.setdefault(
            step.kind,
            {
                "_type": "link",
                "name": step.kind.value,
                "materials": {},
                "products": {},
                "byproducts": {"return-value": 0, "records": {}},
                "command": COMMAND,
                "environment": {},
            },
        )
        places = producers_of(step)
        for name, digest in record.inputs.items():
            link["materials"].update(_files(places[name], manifests[digest]))
        for name, digest in record.products.items():
            link["products"].update(_files(f"{step.id}/{name}", manifests[digest]))
        link["byproducts"]["records"][step.id] = record.key
    return {kind: canonical_json(link) for kind, link in links.items()}


def _files(place: str, manifest: Manifest) -> dict[str, dict[str, str]]:
    return {f"{place}/{file.path}": {"sha256": hex_of(file.sha256)} for file in manifest.files}

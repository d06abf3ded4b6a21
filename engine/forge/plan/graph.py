"""Resources -> the graph of steps that makes them.

A step's id is its place in the graph (``train/handbook``) and stays the same from commit to commit; its key is its
identity and changes with whatever shapes its products.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from forge.canonical import digest_of_json
from forge.contract.kinds import STEPS, StepKind
from forge.plan.desired import Bundle, Desired
from forge.spec.meaning import NONE, REBUILD, RELOAD, meaningful
from forge.spec.resource import DataRecipe, Deployment, EvalSuite, InferencePolicy, Model, Tokenizer


@dataclass(frozen=True)
class FromStep:
    """An input that another step makes."""

    step_id: str
    product: str


@dataclass(frozen=True)
class FromCommit:
    """An input that lies in the commit."""

    address: str
    bundle: Bundle


Input = FromStep | FromCommit


@dataclass(frozen=True)
class Step:
    """One node of the graph."""

    kind: StepKind
    name: str
    subject: str
    parameters: Mapping[str, Any]
    inputs: Mapping[str, Input]
    settings: Mapping[str, Any] = field(default_factory=dict)
    processes: int = 1
    accelerator: str = "cpu"
    previous_ids: tuple[str, ...] = ()
    """What the step was called before its resource was renamed."""

    @property
    def id(self) -> str:
        """``KIND/NAME``."""
        return f"{self.kind.value}/{self.name}"


def step_key(kind: StepKind, version: int, parameters: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """The identity of a step: sha256 of the canonical JSON of all that shapes its products (docs/design.md, "step key")."""
    return digest_of_json({"step": kind.value, "version": version, "parameters": dict(parameters), "inputs": dict(inputs)})


def build_graph(desired: Desired) -> dict[str, Step]:
    """All steps by id, each after those it reads from."""
    steps: dict[str, Step] = {}
    for resource in desired.resources.values():
        for step in _steps_of(resource, desired):
            steps.setdefault(step.id, step)
    return steps


def _steps_of(resource: object, desired: Desired) -> Iterator[Step]:
    match resource:
        case DataRecipe():
            yield _curate(resource, desired)
        case Tokenizer():
            yield _tokenizer(resource)
        case Model():
            yield _tokenize(resource)
            yield _train(resource)
        case Deployment():
            yield from _deploy(resource, desired)


def _name(address: str) -> str:
    return address.split("/", 1)[1]


def _curate(recipe: DataRecipe, desired: Desired) -> Step:
    parameters = meaningful(recipe.spec, REBUILD)
    inputs: dict[str, Input] = {
        f"source-{index}": FromCommit(recipe.address, desired.bundles[recipe.address, f"source-{index}"])
        for index in range(len(recipe.spec.sources))
    }
    return Step(StepKind.CURATE, recipe.metadata.name, recipe.address, parameters, inputs)


def _tokenizer(tokenizer: Tokenizer) -> Step:
    documents = FromStep(f"{StepKind.CURATE}/{_name(tokenizer.spec.data)}", "documents")
    parameters = meaningful(tokenizer.spec, REBUILD)
    return Step(StepKind.TOKENIZER, tokenizer.metadata.name, tokenizer.address, parameters, {"documents": documents})


def _tokenize_id(model: Model) -> str:
    data, tokenizer = _name(model.spec.data), _name(model.spec.tokenizer)
    return data if data == tokenizer else f"{data}.{tokenizer}"


def _tokenize(model: Model) -> Step:
    inputs: dict[str, Input] = {
        "documents": FromStep(f"{StepKind.CURATE}/{_name(model.spec.data)}", "documents"),
        "tokenizer": FromStep(f"{StepKind.TOKENIZER}/{_name(model.spec.tokenizer)}", "tokenizer"),
    }
    return Step(StepKind.TOKENIZE, _tokenize_id(model), model.spec.tokenizer, {}, inputs)


def _train(model: Model) -> Step:
    inputs: dict[str, Input] = {
        "tokens": FromStep(f"{StepKind.TOKENIZE}/{_tokenize_id(model)}", "tokens"),
        "tokenizer": FromStep(f"{StepKind.TOKENIZER}/{_name(model.spec.tokenizer)}", "tokenizer"),
    }
    return Step(
        StepKind.TRAIN,
        model.metadata.name,
        model.address,
        meaningful(model.spec, REBUILD),
        inputs,
        settings={"training": meaningful(model.spec.training, NONE)},
        processes=model.spec.resources.count,
        accelerator=model.spec.resources.accelerator,
    )


def _deploy(deployment: Deployment, desired: Desired) -> Iterator[Step]:
    spec = deployment.spec
    model = _name(spec.model)
    weights = FromStep(f"{StepKind.TRAIN}/{model}", "weights")
    reports: dict[str, Input] = {}
    for index, gate in enumerate(spec.gates):
        suite = desired.resources[gate.suite]
        if not isinstance(suite, EvalSuite):
            raise TypeError(f"{gate.suite} is no EvalSuite")
        evaluate = Step(
            StepKind.EVALUATE,
            f"{model}.{suite.metadata.name}",
            spec.model,
            meaningful(suite.spec, REBUILD),
            {"weights": weights, "tasks": FromCommit(suite.address, desired.bundles[suite.address, "tasks"])},
        )
        yield evaluate
        reports[f"report-{index}"] = FromStep(evaluate.id, "report")
    name = deployment.metadata.name
    gates = [{"suite": gate.suite, **meaningful(gate, REBUILD)} for gate in spec.gates]
    yield Step(StepKind.GATE, name, deployment.address, {"gates": gates}, reports)
    policy = desired.resources[spec.policy]
    if not isinstance(policy, InferencePolicy):
        raise TypeError(f"{spec.policy} is no InferencePolicy")
    yield Step(
        StepKind.RELEASE,
        name,
        deployment.address,
        {**meaningful(spec, RELOAD), "deployment": name, "model": model, "policy": policy.metadata.name},
        {
            "weights": weights,
            "verdict": FromStep(f"{StepKind.GATE}/{name}", "verdict"),
            "policy": FromCommit(policy.address, desired.bundles[policy.address, "policy"]),
        },
    )


def producers_of(step: Step) -> dict[str, str]:
    """Input name -> where it comes from, as attestations write it: ``STEP_ID/PRODUCT`` or ``commit/ADDRESS/INPUT``."""
    return {
        name: f"{source.step_id}/{source.product}" if isinstance(source, FromStep) else f"commit/{source.address}/{name}"
        for name, source in step.inputs.items()
    }


def version_of(kind: StepKind) -> int:
    """The step version that this engine makes."""
    return STEPS[kind].version

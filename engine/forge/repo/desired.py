"""A commit (or the working tree) -> desired state: specs read and validated, the files they name hashed."""

from collections.abc import Mapping
from pathlib import PurePosixPath

from forge import __version__
from forge.canonical import canonical_json, digest_of_bytes
from forge.errors import Diagnostic, RepoError, SpecError, UsageError
from forge.plan.desired import Bundle, BundleFile, Desired
from forge.repo.tree import Tree, matching, submodules_matching
from forge.spec.document import Document
from forge.spec.load import Located, load
from forge.spec.meaning import RELOAD, meaningful
from forge.spec.resolve import resolve
from forge.spec.resource import DataRecipe, EvalSuite, InferencePolicy, Resource
from forge.spec.settings import SETTINGS_FILE, Settings, read_settings


def read_desired(tree: Tree) -> Desired:
    """Read everything that planning needs; raises SpecError with all diagnostics, RepoError or UsageError."""
    settings = _settings(tree)
    files: list[tuple[str, bytes]] = []
    diagnostics: list[Diagnostic] = []
    for path in matching(tree, settings.specs.include):
        try:
            files.append((path, tree.read(path)))
        except RepoError as error:
            diagnostics.append(Diagnostic(path, 1, 1, str(error).removeprefix(f"{path}: ")))
    loaded = load(files)
    diagnostics.extend(loaded.diagnostics)
    resolved = resolve(loaded.resources, loaded.broken)
    diagnostics.extend(resolved.diagnostics)
    bundles: dict[tuple[str, str], Bundle] = {}
    for located in loaded.resources:
        bundles.update(_bundles(tree, located, diagnostics))
    if diagnostics:
        raise SpecError(diagnostics)
    if not resolved.resources:
        where = ", ".join(settings.specs.include)
        raise UsageError(f"{SETTINGS_FILE}: no spec is found by specs.include ({where})")
    return Desired(tree.commit, settings, resolved.resources, bundles)


def _settings(tree: Tree) -> Settings:
    if SETTINGS_FILE not in set(tree.paths()):
        where = f"commit {tree.commit[:12]}" if tree.commit else "the working tree"
        raise UsageError(f"there is no {SETTINGS_FILE} at the top of {where}: is this a Forge repository?")
    return read_settings(tree.read(SETTINGS_FILE), __version__)


def _bundles(tree: Tree, located: Located, diagnostics: list[Diagnostic]) -> Mapping[tuple[str, str], Bundle]:
    resource: Resource = located.resource
    document = located.document
    match resource:
        case DataRecipe():
            found = {}
            for index, source in enumerate(resource.spec.sources):
                paths = _paths(tree, [source.path], ("spec", "sources", index, "path"), document, diagnostics)
                names = {f"{number:05d}{_suffix(path)}": path for number, path in enumerate(paths)}
                found[resource.address, f"source-{index}"] = _bundle(tree, names, document, diagnostics)
            return found
        case EvalSuite():
            paths = _paths(tree, resource.spec.include, ("spec", "include"), document, diagnostics)
            top = _common_folder(paths)
            names = {PurePosixPath(path).relative_to(top).as_posix(): path for path in paths}
            return {(resource.address, "tasks"): _bundle(tree, names, document, diagnostics)}
        case InferencePolicy():
            data = canonical_json(
                {"schema_version": 1, "name": resource.metadata.name, "spec": meaningful(resource.spec, RELOAD)}
            )
            file = BundleFile(len(data), digest_of_bytes(data), inline=data)
            return {(resource.address, "policy"): Bundle({"policy.json": file})}
    return {}


def _paths(
    tree: Tree, patterns: list[str], location: tuple[str | int, ...], document: Document, diagnostics: list[Diagnostic]
) -> list[str]:
    for pattern in patterns:
        for submodule in submodules_matching(tree, pattern):
            message = f"`{pattern}` reaches into the submodule {submodule}; Forge reads this repository's own objects"
            diagnostics.append(document.diagnostic(location, message + ": copy the files into it"))
            return []
    paths = matching(tree, patterns)
    if not paths:
        diagnostics.append(document.diagnostic(location, f"no file matches {', '.join(f'`{p}`' for p in patterns)}"))
    return paths


def _bundle(tree: Tree, names: Mapping[str, str], document: Document, diagnostics: list[Diagnostic]) -> Bundle:
    files = {}
    for name, path in names.items():
        if "\\" in name:
            diagnostics.append(document.diagnostic((), f"{path!r}: a file name with a backslash cannot be part of an artifact"))
            continue
        try:
            data = tree.read(path)
        except RepoError as error:
            diagnostics.append(document.diagnostic((), str(error)))
            continue
        files[name] = BundleFile(len(data), digest_of_bytes(data), origin=path)
    return Bundle(files)


def _suffix(path: str) -> str:
    """The suffixes that say how to read a file: ``.jsonl`` or ``.jsonl.gz``."""
    name = PurePosixPath(path).name
    return ".jsonl.gz" if name.endswith(".jsonl.gz") else PurePosixPath(name).suffix


def _common_folder(paths: list[str]) -> PurePosixPath:
    folders = [PurePosixPath(path).parent.parts for path in paths]
    common: list[str] = []
    for parts in zip(*folders, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return PurePosixPath(*common)

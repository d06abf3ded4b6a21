"""A commit (or the working tree) -> desired state: specs read and validated, the files they name hashed.

What was read before comes from a cache, and only when somebody asks for it: of an unchanged tree nothing but its
fingerprint is read. With or without the cache everything goes through ``compile_resource``, ``check`` and the same bundles,
and the rules across resources are applied to all of them each time a tree is new.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, cast

from forge import __version__
from forge.canonical import digest_of_bytes
from forge.errors import Diagnostic, RepoError, SpecError, UsageError
from forge.plan.desired import Bundle, BundleFile, Deferred, Desired, EachOnDemand
from forge.repo.cache import FileDigest, SpecCache, SpecFile, TreeState, engine_digest
from forge.repo.tree import CommitTree, Matcher, Tree, git_name, submodules_matching
from forge.spec.base_folder import TOKENIZER_FILES, base_files, why_no_base
from forge.spec.compiled import Compiled, compile_resource, read_facts
from forge.spec.resolve import check, diagnose, in_order, references_of_broken
from forge.spec.settings import SETTINGS_FILE, Settings, read_settings

if TYPE_CHECKING:  # parsers and models load where something is parsed
    from forge.spec.document import Document
    from forge.spec.load import Loaded, Located
    from forge.spec.resource import Resource


def read_desired(tree: Tree, cache: SpecCache | None = None) -> Desired:
    """Read everything that planning needs; raises SpecError with all diagnostics, RepoError or UsageError.

    The result may read from ``tree`` and ``cache`` later on: keep both open. Without a cache every file is read and hashed,
    as verification must.
    """
    if isinstance(tree, CommitTree) and cache is not None:
        known = cache.state(tree.root)
        if known is not None:
            tree.list_from(known.listing)
            if all(tree.has_lfs(digest) for digest in known.lfs):
                return _from_state(tree, known, cache)
        elif (latest := cache.state()) is not None:
            tree.list_from(latest.listing)
            return _Reading(tree, cache, latest).desired()
    return _Reading(tree, cache, None).desired()


@dataclass
class _Reading:
    """One reading of a tree whose state is not known: what was found so far."""

    tree: Tree
    cache: SpecCache | None
    earlier: TreeState | None
    diagnostics: list[Diagnostic] = field(default_factory=list)
    items: list[tuple[str, int]] = field(default_factory=list)
    """Path and number of each resource, beside ``compiled``."""
    compiled: list[Compiled] = field(default_factory=list)
    broken: "list[Document]" = field(default_factory=list)
    parsed: "dict[str, tuple[Resource, ...]]" = field(default_factory=dict)
    """What the files hold that had to be parsed."""
    located: "dict[str, tuple[Located, ...]]" = field(default_factory=dict)
    """Files that were read once more, because the place of a fault in them is wanted."""
    new_specs: dict[str, SpecFile] = field(default_factory=dict)

    def desired(self) -> Desired:
        settings = settings_of(self.tree)
        earlier = self.earlier
        match = Matcher(self.tree.paths(), earlier.listing.files if earlier else (), earlier.matched if earlier else None)
        specs = match(settings.specs.include)
        self._read(specs)
        faults = check(self.compiled, _addresses_of(self.broken))
        self.diagnostics += [diagnose(fault, self._locate) for fault in faults]
        self.diagnostics += references_of_broken(self.broken, {item.address for item in self.compiled})
        bundles = _Bundles(self.tree, self.cache, match)
        found = bundles.of(self.compiled)
        self.diagnostics += [self._locate(number).document.diagnostic(place, text) for number, place, text in bundles.faults]
        if self.diagnostics:
            self._keep(bundles.new, None)
            raise SpecError(self.diagnostics)
        compiled = {item.address: item for item in reversed(self.compiled)}
        ordered = {address: compiled[address] for address in in_order(compiled)}
        if not ordered:
            where = ", ".join(settings.specs.include)
            raise UsageError(f"{SETTINGS_FILE}: no spec is found by specs.include ({where})")
        fingerprint = None
        if isinstance(self.tree, CommitTree):
            fingerprint = _fingerprint(self.tree, specs, found)
            state = TreeState(self.tree.listing, match.matched, tuple(specs), tuple(sorted(bundles.lfs)), fingerprint)
            self._keep(bundles.new, state)
        else:
            self._keep(bundles.new, None)
        places = {item.address: place for item, place in zip(self.compiled, self.items, strict=True)}
        resources = EachOnDemand(lambda: ordered, lambda address: self._resource(*places[address]))
        origins = {address: path for address, (path, _) in places.items()}
        return Desired(self.tree.commit, settings, resources, found, ordered, fingerprint, origins, len(self.parsed))

    def _read(self, paths: Iterable[str]) -> None:
        """Compile every spec file, those that the cache does not know from their text."""
        blobs = {path: self.tree.blob(path) for path in paths}
        known = self.cache.compiled(blob for blob in blobs.values() if blob) if self.cache else {}
        self.tree.expect(path for path, blob in blobs.items() if blob not in known)
        for path, blob in blobs.items():
            compiled = known.get(blob or "")
            if compiled is None:
                compiled = self._parse(path, blob)
            self.compiled += compiled
            self.items += [(path, number) for number in range(len(compiled))]

    def _parse(self, path: str, blob: str | None) -> tuple[Compiled, ...]:
        try:
            data = self.tree.read(path)
        except RepoError as error:
            self.diagnostics.append(Diagnostic(path, 1, 1, str(error).removeprefix(f"{path}: ")))
            return ()
        loaded = _load(path, data)
        self.parsed[path] = tuple(item.resource for item in loaded.resources)
        self.diagnostics.extend(loaded.diagnostics)
        self.broken.extend(loaded.broken)
        compiled = tuple(compile_resource(item.resource) for item in loaded.resources)
        is_that_blob = self.tree.commit is not None or git_name(data) == blob  # a file on disk may have changed meanwhile
        if blob and is_that_blob and not loaded.diagnostics:
            self.new_specs[blob] = SpecFile(compiled, tuple(item.document.value for item in loaded.resources))
        return compiled

    def _locate(self, number: int) -> "Located":
        """A resource with its places, which nobody keeps: its file is read again."""
        path, index = self.items[number]
        if path not in self.located:
            self.located[path] = _load(path, self.tree.read(path)).resources
        return self.located[path][index]

    def _resource(self, path: str, index: int) -> "Resource":
        if path in self.parsed:
            return self.parsed[path][index]
        return _resource_of(self.tree, self.cache, path, index)

    def _keep(self, files: Mapping[str, FileDigest], state: TreeState | None) -> None:
        if self.cache is not None:
            self.cache.keep(self.new_specs, files, state)


def _from_state(tree: CommitTree, state: TreeState, cache: SpecCache) -> Desired:
    """Desired state of a tree that was read before; valid then, so valid now. Nothing is read before it is asked for."""
    settings = settings_of(tree)
    places: dict[str, tuple[str, int]] = {}

    def compiled() -> Mapping[str, Compiled]:
        blobs = {path: tree.blob(path) or "" for path in state.specs}
        known = cache.compiled(blobs.values())
        found: dict[str, Compiled] = {}
        for path, blob in blobs.items():
            items = known[blob] if blob in known else _compile_again(tree, path)
            for number, item in enumerate(items):
                found[item.address] = item
                places[item.address] = (path, number)
        return {address: found[address] for address in in_order(found)}

    all_compiled = Deferred(compiled)

    def resource(address: str) -> "Resource":
        return _resource_of(tree, cache, *places[address])

    bundles = Deferred(
        lambda: _Bundles(tree, cache, Matcher(tree.paths(), state.listing.files, state.matched)).of(list(all_compiled.values()))
    )
    resources = EachOnDemand(lambda: all_compiled, resource)
    origins = Deferred(lambda: {address: places[address][0] for address in all_compiled})
    return Desired(tree.commit, settings, resources, bundles, all_compiled, state.fingerprint, origins)


def _load(path: str, data: bytes) -> "Loaded":
    from forge.spec.load import load

    return load([(path, data)])


def _addresses_of(broken: "list[Document]") -> set[str]:
    if not broken:
        return set()
    from forge.spec.load import address_of

    return {address_of(document) for document in broken}


def _compile_again(tree: Tree, path: str) -> Sequence[Compiled]:
    """What a valid file holds, when the cache has lost it."""
    return [compile_resource(item.resource) for item in _load(path, tree.read(path)).resources]


def _resource_of(tree: Tree, cache: SpecCache | None, path: str, index: int) -> "Resource":
    blob = tree.blob(path)
    documents = cache.documents(blob) if cache is not None and blob is not None else None
    if documents is None:
        return _load(path, tree.read(path)).resources[index].resource
    from forge.spec.resource import RESOURCE_TYPES

    return cast("Resource", RESOURCE_TYPES[documents[index]["kind"]].model_validate(documents[index]))


def settings_of(tree: Tree) -> Settings:
    """forge.toml alone; raises UsageError."""
    if SETTINGS_FILE not in tree.paths():
        where = f"commit {tree.commit[:12]}" if tree.commit else "the working tree"
        raise UsageError(f"there is no {SETTINGS_FILE} at the top of {where}: is this a Forge repository?")
    return read_settings(tree.read(SETTINGS_FILE), __version__)


def _fingerprint(tree: CommitTree, specs: Iterable[str], bundles: Mapping[tuple[str, str], Bundle]) -> str:
    """sha256 over all that planning reads of a commit: the engine, the settings, the specs and the files they name."""
    paths = {file.origin for bundle in bundles.values() for file in bundle.files.values() if file.origin is not None}
    rows = [f"{path}\0{tree.blob(path)}" for path in (SETTINGS_FILE, *specs, *sorted(paths))]
    return sha256("\0".join([engine_digest(), *rows]).encode()).hexdigest()


class _Bundles:
    """The files that resources name, hashed; each file once."""

    def __init__(self, tree: Tree, cache: SpecCache | None, match: Matcher) -> None:
        self._tree, self._cache, self._match = tree, cache, match
        self._known: dict[str, FileDigest] = {}
        self._has_submodules = bool(list(tree.submodules()))
        self.new: dict[str, FileDigest] = {}
        self.lfs: set[str] = set()
        self.faults: list[tuple[int, tuple[str | int, ...], str]] = []
        """Number of the resource, place, message."""

    def of(self, compiled: Sequence[Compiled]) -> dict[tuple[str, str], Bundle]:
        """The bundles of all resources."""
        wanted: list[tuple[tuple[str, str], int, dict[str, str]]] = []
        by_content: set[tuple[str, str]] = set()
        found: dict[tuple[str, str], Bundle] = {}
        for number, item in enumerate(compiled):
            if item.kind == "DataRecipe":
                by_content |= {(item.address, f"source-{index}") for index in read_facts(item.facts).get("by_content", ())}
                for index, pattern in enumerate(read_facts(item.facts)["sources"]):
                    if pattern is None:
                        continue
                    paths = self._paths(number, [pattern], ("spec", "sources", index, "path"))
                    names = {f"{place:05d}{_suffix(path)}": path for place, path in enumerate(paths)}
                    wanted.append(((item.address, f"source-{index}"), number, names))
            elif item.kind == "EvalSuite":
                paths = self._paths(number, read_facts(item.facts)["include"], ("spec", "include"))
                top = _common_folder(paths)
                wanted.append(((item.address, "tasks"), number, {path[len(top) :]: path for path in paths}))
            elif item.kind == "Model":
                wanted += self._base(item, number)
                wanted += self._chats(item, number)
                if "chats_by_content" in read_facts(item.facts):
                    by_content.add((item.address, read_facts(item.facts)["chats"]))
            elif item.kind == "InferencePolicy":
                data = item.served.encode()
                file = BundleFile(len(data), digest_of_bytes(data), inline=data)
                found[item.address, "policy"] = Bundle({"policy.json": file})
        if self._cache is not None:
            blobs = (self._tree.blob(path) for _, _, names in wanted for path in names.values())
            self._known = self._cache.digests(blob for blob in blobs if blob)
        for key, number, names in wanted:
            files = {name: self._file(number, name, path) for name, path in names.items()}
            there = {name: file for name, file in files.items() if file is not None}
            found[key] = Bundle(_in_order_of_content(there) if key in by_content else there)
        return found

    def _base(self, item: Compiled, number: int) -> list[tuple[tuple[str, str], int, dict[str, str]]]:
        """The files of a base that lies in the repository: its weights, and apart from them its tokenizer."""
        folder = read_facts(item.facts).get("folder")
        if folder is None:
            return []
        place = ("spec", "base", "path")
        for submodule in submodules_matching(self._tree, f"{folder}/") if self._has_submodules else ():
            message = f"`{folder}` lies in the submodule {submodule}; Forge reads this repository's own objects"
            self.faults.append((number, place, message + ": copy the files into it"))
            return []
        listed = {path[len(folder) + 1 :] for path in self._tree.paths() if path.startswith(f"{folder}/")}
        why = why_no_base(listed)
        if why is not None:
            self.faults.append((number, place, f"`{folder}` {why}"))
            return []
        return [
            ((item.address, name), number, {file: f"{folder}/{file}" for file in files if file in listed})
            for name, files in (("base", base_files(listed)), ("tokenizer", TOKENIZER_FILES))
        ]

    def _chats(self, item: Compiled, number: int) -> list[tuple[tuple[str, str], int, dict[str, str]]]:
        """The files that a fine-tuned model learns to answer from."""
        facts = read_facts(item.facts)
        if "chats" not in facts:
            return []
        place = ("spec", facts["chats"], "path")
        paths = self._paths(number, [facts["chats_path"]], place)
        for path in paths:
            if not path.endswith(".jsonl"):
                self.faults.append((number, place, f"`{path}` is no .jsonl file: {facts['chats']} are one JSON object a line"))
        names = {f"{index:05d}.jsonl": path for index, path in enumerate(paths)}
        return [((item.address, facts["chats"]), number, names)]

    def _paths(self, number: int, patterns: list[str], place: tuple[str | int, ...]) -> list[str]:
        for pattern in patterns if self._has_submodules else ():
            for submodule in submodules_matching(self._tree, pattern):
                message = f"`{pattern}` reaches into the submodule {submodule}; Forge reads this repository's own objects"
                self.faults.append((number, place, message + ": copy the files into it"))
                return []
        paths = self._match(patterns)
        if not paths:
            self.faults.append((number, place, f"no file matches {', '.join(f'`{pattern}`' for pattern in patterns)}"))
        return paths

    def _file(self, number: int, name: str, path: str) -> BundleFile | None:
        if "\\" in name:
            self.faults.append((number, (), f"{path!r}: a file name with a backslash cannot be part of an artifact"))
            return None
        blob = self._tree.blob(path)
        digest = self._known.get(blob or "")
        if digest is None or (digest.is_lfs and not self._tree.has_lfs(digest.sha256)):
            try:
                data = self._tree.read(path)
            except RepoError as error:
                self.faults.append((number, (), str(error)))
                return None
            is_that_blob = git_name(data) == blob
            digest = FileDigest(len(data), digest_of_bytes(data), not is_that_blob)
            if blob and (is_that_blob or self._tree.commit is not None):
                self._known[blob] = self.new[blob] = digest
        if digest.is_lfs:
            self.lfs.add(digest.sha256)
        return BundleFile(digest.size, digest.sha256, origin=path)


def _in_order_of_content(files: Mapping[str, BundleFile]) -> dict[str, BundleFile]:
    """Numbered by their digests; files of the same bytes and suffix are one to whoever reads them."""
    rows = sorted((file.sha256, name.partition(".")[2], name) for name, file in files.items())
    return {
        f"{place:05d}{name[name.index('.') :] if '.' in name else ''}": files[name] for place, (_, _, name) in enumerate(rows)
    }


def _suffix(path: str) -> str:
    """The suffixes that say how to read a file: ``.jsonl`` or ``.jsonl.gz``."""
    if path.endswith(".jsonl.gz"):
        return ".jsonl.gz"
    name = path[path.rfind("/") + 1 :]
    dot = name.rfind(".")
    return name[dot:] if 0 < dot < len(name) - 1 else ""


def _common_folder(paths: list[str]) -> str:
    """The folder that all paths lie in, with its slash."""
    folders = [path.split("/")[:-1] for path in paths]
    common: list[str] = []
    for parts in zip(*folders, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0] + "/")
    return "".join(common)

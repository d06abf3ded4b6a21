"""Desired state as a value: the resources of a commit, and the files they name as artifacts-to-be.

Everything large in it is made when it is first asked for: a plan of an unchanged commit needs its fingerprint and no more.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from forge.canonical import Digest, digest_of_bytes
from forge.contract.manifest import Manifest, manifest_of
from forge.plan.action import Withdraw
from forge.spec.compiled import Compiled, compile_resource, read_facts
from forge.spec.settings import Settings

if TYPE_CHECKING:
    from forge.spec.resource import Resource

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class BundleFile(NamedTuple):
    """One file of a bundle; ``origin`` is its path in the repository, ``inline`` its bytes where a spec itself holds them."""

    size: int
    sha256: str
    origin: str | None = None
    inline: bytes | None = None


@dataclass(frozen=True)
class Bundle:
    """Files of the commit that a step reads: an artifact that no step made."""

    files: Mapping[str, BundleFile]

    @property
    def manifest(self) -> Manifest:
        """The manifest that the artifact will have."""
        return manifest_of({path: (file.size, file.sha256) for path, file in self.files.items()})

    @cached_property
    def digest(self) -> Digest:
        """The manifest's digest, written directly: thousands are made in a plan (a test compares the two)."""
        rows = (
            f'{{"path":{json.dumps(path, ensure_ascii=False)},"sha256":"{file.sha256}","size":{file.size}}}'
            for path, file in sorted(self.files.items())
        )
        return digest_of_bytes(f'{{"files":[{",".join(rows)}],"schema_version":1}}'.encode())

    @property
    def sources(self) -> dict[str, str]:
        """Path in the artifact -> path in the repository."""
        return {path: file.origin for path, file in self.files.items() if file.origin is not None}


class Deferred(Mapping[_Key, _Value]):
    """A mapping that is made when it is first read."""

    def __init__(self, make: Callable[[], Mapping[_Key, _Value]]) -> None:
        self._make = make

    @cached_property
    def _made(self) -> Mapping[_Key, _Value]:
        return self._make()

    def __getitem__(self, key: _Key) -> _Value:
        return self._made[key]

    def __iter__(self) -> Iterator[_Key]:
        return iter(self._made)

    def __len__(self) -> int:
        return len(self._made)

    def __contains__(self, key: object) -> bool:
        return key in self._made


class EachOnDemand(Mapping[str, _Value]):
    """A mapping whose values are made one by one, when they are asked for; each once."""

    def __init__(self, keys: Callable[[], Mapping[str, object]], make: Callable[[str], _Value]) -> None:
        self._keys = keys
        self._make = make
        self._made: dict[str, _Value] = {}

    def __getitem__(self, key: str) -> _Value:
        if key not in self._made:
            if key not in self._keys():
                raise KeyError(key)
            self._made[key] = self._make(key)
        return self._made[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys())

    def __len__(self) -> int:
        return len(self._keys())

    def __contains__(self, key: object) -> bool:
        return key in self._keys()


@dataclass(frozen=True)
class Desired:
    """What a commit asks for."""

    commit: str | None
    """None: the working tree, which may be planned but not applied."""
    settings: Settings
    resources: "Mapping[str, Resource]"
    """By address, each after those it refers to. Reading one may have to validate it: planning reads ``compiled``."""
    bundles: Mapping[tuple[str, str], Bundle]
    """(address, input name) -> files."""
    compiled: Mapping[str, Compiled] = field(default_factory=dict)
    """The same resources as planning reads them, in the same order; made of them when left out."""
    fingerprint: str | None = None
    """sha256 over all that planning reads of a commit, whichever commit it is; None for the working tree."""
    origins: Mapping[str, str] = field(default_factory=dict, compare=False)
    """Address -> path of the spec file."""
    num_parsed: int = field(default=0, compare=False)
    """Spec files that had to be parsed for this value; the others came from the cache."""

    def __post_init__(self) -> None:
        if isinstance(self.compiled, dict) and not self.compiled:
            made = Deferred(lambda: {address: compile_resource(item) for address, item in self.resources.items()})
            object.__setattr__(self, "compiled", made)

    @cached_property
    def protected(self) -> frozenset[str]:
        """Addresses of resources whose artifacts and releases outlive their spec."""
        return frozenset(address for address, item in self.compiled.items() if item.is_protected)

    @cached_property
    def suspended(self) -> frozenset[str]:
        """Addresses of resources that are paused."""
        return frozenset(address for address, item in self.compiled.items() if item.is_suspended)

    @cached_property
    def charter(self) -> Mapping[str, Any] | None:
        """SupplyChain and People in the form that the root signs (``Charter.to_document``); None without the former."""
        facts = {item.kind: read_facts(item.facts) for item in self.compiled.values() if item.kind in ("SupplyChain", "People")}
        if "SupplyChain" not in facts:
            return None
        people = facts.get("People", {})
        return {"supply_chain": facts["SupplyChain"], **({"people": people} if people.get("people") else {})}

    @cached_property
    def withdrawn(self) -> tuple[Withdraw, ...]:
        """What the commit withdraws, in the order of its file."""
        found = [address for address in self.compiled if address.startswith("Withdrawals/")]  # names first: there are thousands
        rows = [read_facts(self.compiled[address].facts) for address in found]
        return tuple(
            Withdraw(subject, reason, serving, False) for facts in rows for subject, reason, serving in facts["withdrawn"]
        )

    @cached_property
    def previous(self) -> Mapping[str, str]:
        """Address -> the address that the resource had before."""
        return {address: item.previous for address, item in self.compiled.items() if item.previous is not None}

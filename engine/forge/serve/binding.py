"""A binding: everything that one request meets, from the release's name to the engine that answers it.

Invariant: it is immutable, and a request keeps the one that was in force when it arrived, to its last byte and its audit line.
So the policy can be replaced under a running gateway: what is under way ends as it began, and nothing is half one, half other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

from forge.serve.keys import Key, resolve_keys
from forge.serve.policy import AccessPolicy
from forge.serve.redaction import CompiledRedaction, compile_redactions
from forge.serve.refusal import environment_retired, release_withdrawn
from forge.serve.release import ServableRelease
from forge.serve.upstream import Upstream

AWAY = Upstream(lambda: None)
"""The way to no engine: whoever takes it is told to try again."""


@dataclass(frozen=True)
class Binding:
    """A release, its policy ready to be enforced, and the way to its engine."""

    release: ServableRelease
    keys: Sequence[Key]
    access: AccessPolicy
    redactions: Sequence[CompiledRedaction]
    upstream: Upstream
    retired: str | None = None
    """Why the environment serves nothing any more; None while it does."""
    withdrawn: str | None = None
    """The entries of the ledger that withdraw what the release descends from; None while it may be served."""

    def check_open(self) -> None:
        """Raise RefusalError (503) for an environment that is retired, or a release that is withdrawn."""
        if self.withdrawn is not None:
            raise release_withdrawn(self.withdrawn)
        if self.retired is not None:
            raise environment_retired(self.retired)

    def with_upstream(self, upstream: Upstream) -> Self:
        """The same policy, before another engine."""
        return replace(self, upstream=upstream)


def bind(release: ServableRelease, environment: Mapping[str, str], upstream: Upstream = AWAY) -> Binding:
    """Resolve a policy's keys and compile its rules; raises ServeError, and nothing is in force then."""
    return Binding(
        release=release,
        keys=resolve_keys(release.policy, environment),
        access=AccessPolicy(release.policy_name, release.policy),
        redactions=compile_redactions(release.policy.redactions),
        upstream=upstream,
    )

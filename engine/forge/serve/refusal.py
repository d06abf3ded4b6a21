"""Refusals: every answer of the gateway that is not an answer of the model, in OpenAI's error shape.

A refusal's text is the gateway's own. What the engine says about a request may echo its content, so it is never passed on.
"""

from typing import Any

from forge.errors import ForgeError

_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class RefusalError(ForgeError):
    """A request ends here: carries what the caller is told and the HTTP status that goes with it."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        retry_after: int | None = None,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.headers = headers if retry_after is None else (*headers, ("retry-after", str(retry_after)))

    def body(self) -> dict[str, Any]:
        """The error as OpenAI's clients read it."""
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def bad_request(message: str, *, code: str = "invalid_request", param: str | None = None) -> RefusalError:
    """A request that is malformed or over a limit of its role (400)."""
    return RefusalError(400, message, code=code, param=param)


def engine_away() -> RefusalError:
    """The engine is starting, restarting or gone (503)."""
    return RefusalError(503, "the model is not available at the moment: try again", code="engine_unavailable", retry_after=5)


def environment_retired(why: str) -> RefusalError:
    """The environment serves nothing any more (503)."""
    message = f"nothing is served here any more: {why}"
    return RefusalError(503, message, code="environment_retired", retry_after=60)


def release_withdrawn(entries: str) -> RefusalError:
    """What was served descends from something withdrawn (503). The reason is for the ledger's readers, not for callers."""
    message = f"what was served here has been withdrawn ({entries} of the ledger): nothing is served until it is replaced"
    return RefusalError(503, message, code="release_withdrawn", retry_after=60)


def engine_fault(what: str) -> RefusalError:
    """The engine answered, but not as an engine should (502)."""
    return RefusalError(502, f"the engine's answer cannot be passed on: {what}", code="engine_fault")

"""What is signed for a reproduction: the link and the provenance of a run of its own, about the record's inputs and products.

Pure: the functionary who signs and the verifier call the same functions. The run is described by the record (step, parameters,
inputs, what its commit says) and by the reproduction (when, on what, with which libraries); nothing of the first run is said
again. A continued training is carried out from its first step, for that gives the same bits: no checkpoint is read, and what a
run leaves beside its products is not compared (decision "by-products").
"""

from collections.abc import Mapping

from forge.attest.statements import CURRENT_STATEMENTS, run_payloads
from forge.canonical import digest_of_json
from forge.contract.manifest import Manifest
from forge.contract.record import Record, Reproduction, Spent

_WHAT = "reproduction"
"""The name under which link and provenance give the digest of what the ledger keeps: never a record's."""


def reproduction_payloads(
    reproduction: Reproduction, record: Record, manifests: Mapping[str, Manifest] | None, producers: Mapping[str, str]
) -> dict[str, bytes]:
    """Everything that is signed for a reproduction of a record, by the name under which it is listed.

    Args:
        reproduction: the run.
        record: what it carried out again.
        manifests: by artifact digest, of every input and product. None where they are not all known: then there is no link.
        producers: input name -> prefix of its paths, as the record's commit has it.
    """
    return run_payloads(_run(reproduction, record), manifests, producers, _WHAT, digest_of_reproduction(reproduction))


def digest_of_reproduction(reproduction: Reproduction) -> str:
    """The digest of all that a reproduction says, its attestations left out: they sign it."""
    return digest_of_json(reproduction.model_dump(mode="json", exclude={"attestations"}))


def _run(reproduction: Reproduction, record: Record) -> Record:
    """The run as a record would have it, had it been the first of its key."""
    return record.model_copy(
        update={
            "products": reproduction.products,
            "attempt": reproduction.attempt,
            "started": reproduction.started,
            "finished": reproduction.finished,
            "environment": reproduction.environment,
            "lock": reproduction.lock,
            "hardware": reproduction.hardware,
            "statements": CURRENT_STATEMENTS,
            "byproducts": {},
            "continued": None,
            "metrics": {},
            "estimate": None,
            "actual": Spent(seconds=0.0),
            "supersedes": None,
            "attestations": {},
        }
    )

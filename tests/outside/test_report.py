"""Done when: a reviewer without Forge follows the bundle's README, command by command, and reaches Forge's verdict."""

import base64
import gzip
import io
import json
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import git, new_repository, run_forge
from tests.governed import Governed, commit_as, make_governed, write_approved
from tests.outside.desk import Desk
from tests.outside.node import FOLDER

from forge.attest.bundle import bundles_of
from forge.attest.envelope import seal
from forge.attest.keys import signer_for
from forge.attest.trust import read_trust_root
from forge.canonical import canonical_json, digest_of_json
from forge.contract.kinds import Role
from forge.report.bundle import tool

pytestmark = [
    pytest.mark.skipif(not (FOLDER / "node_modules").is_dir(), reason="needs `make setup-dev`"),
    pytest.mark.skipif(
        any(shutil.which(name) is None for name in ("openssl", "ssh-keygen", "tar")), reason="needs its programs"
    ),
]


@pytest.fixture(scope="module")
def governed(tmp_path_factory: pytest.TempPathFactory) -> Governed:
    return make_governed(tmp_path_factory.mktemp("governed"))


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory, governed: Governed, applied: Path) -> Path:
    """A governed repository with an approved release; a folder ``report`` beside it."""
    folder = new_repository(tmp_path_factory.mktemp("released") / "repository")
    write_approved(folder, governed, applied)
    run_forge(folder, governed.config, "apply")
    run_forge(folder, governed.config, "report", "release/local", "--out", str(folder.parent / "report"))
    return folder


@pytest.fixture
def reviewer(tmp_path: Path) -> Desk:
    desk = Desk(tmp_path / "desk")
    assert desk(tmp_path, 'command -v forge || test -n "$PYTHONPATH"').returncode, "the reviewer has Forge"
    return desk


@pytest.fixture
def bundle(released: Path, tmp_path: Path) -> Path:
    """The archive, unpacked into an empty folder, with the npm packages that its lock file names."""
    with tarfile.open(released.parent / "report" / "bundle.tar.gz") as archive:
        archive.extractall(tmp_path / "empty", filter="data")
    (tmp_path / "empty" / "bundle" / "node_modules").symlink_to(FOLDER / "node_modules")
    return tmp_path / "empty" / "bundle"


def root_of(governed: Governed) -> str:
    return read_trust_root(governed.config).digest


def commands(readme: Path) -> list[str]:
    return re.findall(r"^```sh\n(.*?)^```$", readme.read_text(), flags=re.MULTILINE | re.DOTALL)


BLOCKS = ("keys", "openssl", "sigstore", "time stamps", "in-toto", "ssh-keygen", "git", "the statements")
"""What each block of the README's commands is about."""


def refuser(run: Desk, folder: Path, root: str) -> tuple[str | None, str]:
    """The README's commands, one block after the other: the first that does not end with 0, and what they said."""
    said = []
    for block, command in zip(BLOCKS, commands(folder / "README.md"), strict=True):
        done = run(folder, command, root)
        said.append(done.stdout + done.stderr)
        if done.returncode:
            return block, "".join(said)
    return None, "".join(said)


def followed(run: Desk, folder: Path, root: str) -> tuple[bool, str]:
    """The same: whether all end with 0, and what they said."""
    block, said = refuser(run, folder, root)
    return block is None, said


def test_a_reviewer_without_forge_reaches_its_verdict(bundle: Path, released: Path, governed: Governed, reviewer: Any) -> None:
    holds, said = followed(reviewer, bundle, root_of(governed))
    assert holds, said
    assert "VERDICT release/local: the chain holds\n" in said
    assert 'Good "forge-approval" signature for ana' in said
    assert "1 of 1 needed; written by cleo" in said
    assert "the chain holds" in run_forge(released, governed.config, "verify", "release/local").stdout


def test_the_script_runs_the_commands_of_the_readme() -> None:
    script = tool("verify.sh").decode()
    blocks = re.findall(r"^```sh\n(.*?)^```$", tool("README.md").decode(), flags=re.MULTILINE | re.DOTALL)
    for line in (line for block in blocks for line in block.splitlines()):
        assert line in script, line


def test_the_script_unpacks_checks_and_says_the_verdict(
    released: Path, governed: Governed, reviewer: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "received"
    folder.mkdir()
    for name in ("verify.sh", "bundle.tar.gz"):
        shutil.copy(released.parent / "report" / name, folder)
    (folder / "node_modules").symlink_to(FOLDER / "node_modules")
    good = reviewer(folder, f"sh verify.sh {root_of(governed)} bundle.tar.gz", "")
    assert good.returncode == 0, good.stdout + good.stderr
    assert good.stdout.endswith("VERDICT release/local: the chain holds\n")
    shutil.rmtree(folder / "bundle")
    stranger = reviewer(folder, f"sh verify.sh sha256:{'0' * 64} bundle.tar.gz", "")
    assert stranger.returncode == 1
    assert "not the trust root that you were given" in stranger.stdout
    assert "DOES NOT HOLD" in stranger.stdout


def one(folder: Path, pattern: str) -> Path:
    return min(folder.glob(pattern))


def change_payload(path: Path, change: Callable[[bytes], bytes]) -> None:
    document = json.loads(path.read_bytes())
    envelope = document.get("dsseEnvelope", document)
    envelope["payload"] = base64.b64encode(change(base64.b64decode(envelope["payload"]))).decode()
    path.write_bytes(canonical_json(document))


def payload(path: Path) -> dict[str, Any]:
    document = json.loads(path.read_bytes())
    return dict(json.loads(base64.b64decode(document.get("dsseEnvelope", document)["payload"])))


def one_byte(folder: Path, governed: Governed) -> None:
    change_payload(
        one(folder, "attestations/*train*.provenance.dsse.json"), lambda data: data.replace(b'"seed":5', b'"seed":6')
    )


def one_byte_of_a_bundle(folder: Path, governed: Governed) -> None:
    change_payload(one(folder, "attestations/*svr*.sigstore.json"), lambda data: data.replace(b"max 7.0", b"max 6.0"))


def no_svr(folder: Path, governed: Governed) -> None:
    for path in folder.glob("attestations/*svr*"):
        path.unlink()


def no_signature(folder: Path, governed: Governed) -> None:
    path = one(folder, "attestations/*train*.provenance.dsse.json")
    path.write_bytes(canonical_json({**json.loads(path.read_bytes()), "signatures": []}))


def no_link(folder: Path, governed: Governed) -> None:
    one(folder, "in-toto/links/evaluate.*").unlink()


def approvals_that_cover_the_model_alone(folder: Path, governed: Governed) -> None:
    """The root has signed that approvals are about policy and engine settings, too."""
    delegation, layout = payload(folder / "trust/delegation.json"), payload(folder / "in-toto/root.layout")
    said = delegation["predicate"]
    said["charter"]["supply_chain"]["release"]["approvals_cover"] = "release"
    before, said["digest"] = said["digest"], str(digest_of_json(said["charter"]))
    layout["readme"] = layout["readme"].replace(before, said["digest"])
    root = signer_for(Role.ROOT, governed.config)
    (folder / "trust/delegation.json").write_bytes(seal(canonical_json(delegation), root))
    (folder / "in-toto/root.layout").write_bytes(seal(canonical_json(layout), root))


def a_weaker_layout(folder: Path, governed: Governed) -> None:
    """Signed by a stranger, whose key the bundle now calls the root's."""
    other = make_governed(folder.parent / "other")
    layout = payload(folder / "in-toto/root.layout")
    layout["steps"] = layout["steps"][-1:]
    (folder / "in-toto/root.layout").write_bytes(seal(canonical_json(layout), signer_for(Role.ROOT, other.config)))
    one(folder, "keys/root-*.pem").write_text(other.public("root"))


def an_older_layout(folder: Path, governed: Governed) -> None:
    """The root itself signed it, for a supply chain that is no longer in force."""
    layout = payload(folder / "in-toto/root.layout")
    layout["readme"] = f"Forge, shape pretrain, charter sha256:{'0' * 64}"
    (folder / "in-toto/root.layout").write_bytes(seal(canonical_json(layout), signer_for(Role.ROOT, governed.config)))


def a_layout_of_another_shape(folder: Path, governed: Governed) -> None:
    """The root itself signed it, for chains whose trainings may begin with another's weights."""
    layout = payload(folder / "in-toto/root.layout")
    layout["readme"] = layout["readme"].replace("shape pretrain", "shape continue")
    (folder / "in-toto/root.layout").write_bytes(seal(canonical_json(layout), signer_for(Role.ROOT, governed.config)))


def another_root(folder: Path, governed: Governed) -> None:
    other = make_governed(folder.parent / "other")
    (folder / "trust/trust-root.json").write_bytes(canonical_json(read_trust_root(other.config).model_dump(mode="json")))


def no_delegation(folder: Path, governed: Governed) -> None:
    shutil.rmtree(folder / "in-toto")
    (folder / "trust/delegation.json").unlink()


def an_edited_approval(folder: Path, governed: Governed) -> None:
    path = one(folder, "approvals/ana-*[0-9].json")
    path.write_bytes(path.read_bytes().replace(b'"person":"ana"', b'"person":"ben"'))


def an_approval_by_somebody_else(folder: Path, governed: Governed) -> None:
    """The author signs the approver's statement."""
    path = one(folder, "approvals/ana-*[0-9].json")
    path.with_name(f"{path.name}.sig").unlink()
    command = ["ssh-keygen", "-q", "-Y", "sign", "-n", "forge-approval", "-f", str(governed.ssh / "cleo"), str(path)]
    subprocess.run(command, check=True, capture_output=True)


def no_approval(folder: Path, governed: Governed) -> None:
    for path in folder.glob("approvals/ana-*"):
        path.unlink()


def another_commit(folder: Path, governed: Governed) -> None:
    path = one(folder, "commits/*.commit")
    path.write_bytes(path.read_bytes().replace(b"governed", b"improved"))


def no_commit(folder: Path, governed: Governed) -> None:
    one(folder, "commits/*.commit").rename(folder / "commits" / f"{'0' * 40}.commit")


def other_weights(folder: Path, governed: Governed) -> None:
    path = folder / "weights.sha256"
    path.write_text(path.read_text().replace("a", "b", 1))


def an_edited_report(folder: Path, governed: Governed) -> None:
    for path in folder.glob("artifacts/*/report.json"):
        path.write_bytes(path.read_bytes().replace(b'"bits_per_byte":3', b'"bits_per_byte":2'))


def an_edited_record(folder: Path, governed: Governed) -> None:
    for path in folder.glob("records/*.json"):
        path.write_bytes(path.read_bytes().replace(b'"seconds":', b'"seconds":1'))


def signed_by_another_role(folder: Path, governed: Governed) -> None:
    """The trainer signs the gate's result, in both forms."""
    result = payload(one(folder, "attestations/*svr.dsse.json"))
    for path in folder.glob("attestations/*svr*"):
        path.unlink()
    sealed = seal(canonical_json(result), signer_for(Role.TRAINER, governed.config))
    (folder / "attestations/014-gate-small-local.svr.dsse.json").write_bytes(sealed)


def a_strangers_statement_more(folder: Path, governed: Governed) -> None:
    """A gate's result for these very weights, signed by nobody's role."""
    result = payload(one(folder, "attestations/*svr.dsse.json"))
    sealed = seal(canonical_json(result), signer_for(Role.AGENT, governed.config))
    (folder / "attestations/099-gate-small-local.svr.dsse.json").write_bytes(sealed)


def another_move_more(folder: Path, governed: Governed) -> None:
    """The releaser's own statement about another release of the environment."""
    release = payload(one(folder, "attestations/*release-local.release.dsse.json"))
    release["predicate"]["moved"] = "2026-01-01T00:00:00.000+00:00"
    sealed = seal(canonical_json(release), signer_for(Role.RELEASER, governed.config))
    for keyid, data in bundles_of(sealed).items():
        (folder / f"attestations/099-release-local.release.{keyid[:12]}.sigstore.json").write_bytes(data)


ATTACKS = (
    (one_byte, "openssl", "REFUSED attestations/008-train-small.provenance"),
    (one_byte_of_a_bundle, "sigstore", "refused attestations/"),
    (no_svr, "the statements", "absent from this bundle"),
    (no_signature, "keys", "not signed by a key of the role trainer"),
    (no_link, "in-toto", "Step 'evaluate' requires '1' link"),
    (a_weaker_layout, "keys", "in-toto/root.layout: not signed by the root"),
    (an_older_layout, "keys", "expected the shape pretrain and the charter sha256:"),
    (a_layout_of_another_shape, "keys", 'the root signed it as "Forge, shape continue, charter sha256:'),
    (another_root, "keys", "not the trust root that you were given"),
    (no_delegation, "keys", "not signed by a key of the role"),
    (an_edited_approval, "ssh-keygen", "Could not verify signature"),
    (an_approval_by_somebody_else, "ssh-keygen", "Could not verify signature"),
    (no_approval, "the statements", "is absent"),
    (approvals_that_cover_the_model_alone, "the statements", "release/local needs 1 approvals and has 0"),
    (another_commit, "git", ".commit: not the commit that its name says"),
    (no_commit, "git", f"REFUSED commits/{'0' * 40}.commit: not the commit that its name says"),
    (other_weights, "the statements", "weights.sha256 is not the list"),
    (an_edited_report, "the statements", "other bytes than its manifest says"),
    (an_edited_record, "the statements", "no signed statement names a record"),
    (a_strangers_statement_more, "keys", "not signed by a key of the role evaluator"),
    (another_move_more, "the statements", "expected one statement of type urn:forge:release:v1"),
    (signed_by_another_role, "keys", "not signed by a key of the role evaluator"),
)


@pytest.mark.parametrize(("attack", "tool_that_refuses", "said"), ATTACKS, ids=[attack[0].__name__ for attack in ATTACKS])
def test_the_commands_refuse(
    attack: Any, tool_that_refuses: str, said: str, bundle: Path, governed: Governed, reviewer: Any
) -> None:
    attack(bundle, governed)
    block, output = refuser(reviewer, bundle, root_of(governed))
    assert block == tool_that_refuses, output
    assert said in output


def test_the_archive_holds_plain_files_alone(released: Path) -> None:
    with tarfile.open(released.parent / "report" / "bundle.tar.gz") as archive:
        members = archive.getmembers()
    names = [member.name for member in members]
    assert names == sorted(names)
    assert all(member.isfile() and member.mtime == 0 and member.uid == 0 for member in members)
    assert all(re.fullmatch(r"bundle(/[A-Za-z0-9_][A-Za-z0-9._-]*)+", name) for name in names)


def poisoned(path: Path, member: tarfile.TarInfo) -> None:
    with tarfile.open(path, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("bundle/README.md"), io.BytesIO())
        archive.addfile(member, io.BytesIO())


@pytest.mark.parametrize("name", ["bundle/../../escaped", "/tmp/escaped", "elsewhere", "bundle/link", "bundle/hard"])
def test_the_script_refuses_an_archive_that_leads_elsewhere(name: str, reviewer: Any, tmp_path: Path) -> None:
    member = tarfile.TarInfo(name)
    if name.endswith(("link", "hard")):
        member.type, member.linkname = (
            (tarfile.SYMTYPE, "/etc") if name.endswith("link") else (tarfile.LNKTYPE, "bundle/README.md")
        )
    folder = tmp_path / "received"
    folder.mkdir()
    poisoned(folder / "bundle.tar.gz", member)
    (folder / "verify.sh").write_bytes(tool("verify.sh"))
    done = reviewer(folder, f"sh verify.sh sha256:{'0' * 64} bundle.tar.gz", "")
    assert done.returncode == 1
    assert "in the archive" in done.stdout
    assert not (folder / "bundle").exists()


def test_a_chain_of_any_length_is_judged(bundle: Path, governed: Governed, reviewer: Any) -> None:
    """xargs starts the program several times where the list is long, and never between a bundle and its key."""
    keys, _, _, *_ = commands(bundle / "README.md")
    assert reviewer(bundle, keys, root_of(governed)).returncode == 0
    place = bundle / "work" / "sigstore.list"
    lines = place.read_text().splitlines()
    (bundle / "attestations" / ("long" * 40)).mkdir()  # and of any length of name
    path, key = lines[0].split()
    far = shutil.copy(bundle / path, bundle / "attestations" / ("long" * 40))
    place.write_text(f"{Path(far).relative_to(bundle)} {key}\n" * 1499 + f"{lines[1]}\n")
    (sigstore,) = [block for block in commands(bundle / "README.md") if "verify.mjs" in block]
    done = reviewer(bundle, sigstore)
    assert done.returncode == 0, done.stdout[-500:] + done.stderr
    assert done.stdout.count("ok ") == 1500
    change_payload(bundle / lines[1].split()[0], lambda data: data.replace(b"a", b"b", 1))
    done = reviewer(bundle, sigstore)
    assert done.returncode != 0
    assert done.stdout.count("ok ") == 1499
    assert f"refused {lines[1].split()[0]}" in done.stdout


PROGRAM = 'import {writeFileSync} from "node:fs"; writeFileSync(process.env.HOME + "/ran", "");'
INTRUDERS = {
    "bundle/node_modules/@sigstore/verify/package.json": '{"name": "@sigstore/verify", "type": "module", "exports": "./i.mjs"}',
    "bundle/node_modules/@sigstore/verify/i.mjs": PROGRAM + "export class Verifier { verify() {} }",
    "bundle/.npmrc": "registry=http://127.0.0.1:1/\n",
    "bundle/.git/config": "[core]\n\tfsmonitor = touch ran\n",
    "bundle/node": "#!/bin/sh\ntouch $HOME/ran\n",
    "bundle/attestations/.node_modules/a.json": "{}",
    "bundle/artifacts/00/.npmrc": "",
    "bundle/work/openssl.list": "",
    "bundle/check.mjs": PROGRAM,
}
"""Files that would be run, or obeyed, by the programs that verify.sh calls; the last one stands there twice."""


@pytest.mark.parametrize("name", INTRUDERS)
@pytest.mark.parametrize("installed", [True, False], ids=["npm packages at hand", "none"])
def test_nothing_else_of_the_archive_is_used(
    released: Path, governed: Governed, reviewer: Any, tmp_path: Path, name: str, installed: bool
) -> None:
    """Every other byte of it is Forge's own: the programs in it are those that one compares."""
    folder = tmp_path / "received"
    folder.mkdir()
    shutil.copy(released.parent / "report" / "verify.sh", folder)
    plain = gzip.decompress((released.parent / "report" / "bundle.tar.gz").read_bytes())
    held = io.BytesIO(plain)
    with tarfile.open(fileobj=held, mode="a") as archive:
        member = tarfile.TarInfo(name)
        member.size, member.mode = len(INTRUDERS[name].encode()), 0o755
        archive.addfile(member, io.BytesIO(INTRUDERS[name].encode()))
    (folder / "bundle.tar.gz").write_bytes(gzip.compress(held.getvalue()))
    if installed:
        (folder / "node_modules").symlink_to(FOLDER / "node_modules")
    done = reviewer(folder, f"sh verify.sh {root_of(governed)} bundle.tar.gz")
    assert done.returncode == 1
    assert name in done.stdout.splitlines()
    assert "in the archive" in done.stdout
    assert not (folder / "bundle").exists()
    assert not (tmp_path / "desk" / "home" / "ran").exists()


def test_a_path_that_leads_into_the_bundle_is_refused(governed: Governed, reviewer: Any, tmp_path: Path) -> None:
    (tmp_path / "verify.sh").write_bytes(tool("verify.sh"))
    for path in (".:$PATH", "$PATH:", "$PATH::/usr/bin", "bin:$PATH"):
        done = reviewer(tmp_path, f'PATH="{path}" sh verify.sh {root_of(governed)} bundle.tar.gz')
        assert done.returncode == 1
        assert "PATH has an entry that is relative" in done.stdout


def test_in_an_unpacked_folder_the_npm_packages_that_lie_there_are_not_used(
    bundle: Path, governed: Governed, reviewer: Any
) -> None:
    (bundle / "node_modules").unlink()
    (bundle / "node_modules").mkdir()
    (bundle / ".npmrc").write_text("")
    done = reviewer(bundle, f"sh verify.sh {root_of(governed)}")
    assert done.returncode == 1
    assert "bundle/.npmrc" in done.stdout.splitlines()
    assert "files here that no bundle has" in done.stdout
    assert not (bundle / "node_modules").exists()


def test_the_same_ledger_gives_the_same_report(released: Path, governed: Governed, tmp_path: Path) -> None:
    done = run_forge(released, governed.config, "report", "release/local", "--check", str(released.parent / "report"))
    assert "small may serve" in done.stdout
    again = tmp_path / "again"
    run_forge(released, governed.config, "report", "release/local", "--out", str(again))
    for path in sorted(again.rglob("*")):
        if path.is_file():
            other = released.parent / "report" / path.relative_to(again)
            assert path.read_bytes() == other.read_bytes(), path


def test_a_report_edited_by_hand_is_found(released: Path, governed: Governed, tmp_path: Path) -> None:
    edited = tmp_path / "report"
    shutil.copytree(released.parent / "report", edited)
    page = edited / "index.html"
    page.write_text(page.read_text().replace("cleo", "ana"))
    (edited / "bundle/extra.json").write_text("{}")
    (edited / "bundle/link").symlink_to("/etc/hostname")
    one(edited, "bundle/attestations/*svr.dsse.json").unlink()
    with tarfile.open(edited / "bundle.tar.gz", "w:gz") as archive:
        archive.add(edited / "verify.sh", "bundle/verify.sh")
    done = run_forge(released, governed.config, "report", "release/local", "--check", str(edited), code=4)
    for line in (
        "index.html: it is not what",
        "bundle/extra.json: Forge writes no",
        "bundle/link: neither",
        "svr.dsse.json: it is absent",
    ):
        assert line in done.stderr
    assert "bundle.tar.gz: it is not what" in done.stderr


def test_every_field_of_the_act_is_proved_declared_or_missing(released: Path) -> None:
    """Proved: by a file of the bundle. Declared: by the commit and who signed it. Missing: no value, and what to write."""
    sections = json.loads((released.parent / "report" / "report.json").read_text())["act"]
    titles = [section["title"] for section in sections]
    assert [title.partition(":")[0] for title in titles] == [
        "Annex XI, section 1 (1)",
        "Annex XI, section 1 (2)",
        "Annex XI, section 2",
        "Article 53 (1)(d)",
    ]
    found = set()
    for fact in (fact for section in sections for fact in section["facts"]):
        found.add(fact["standing"])
        if fact["standing"] == "missing":
            assert fact["value"] is None, fact
            assert fact["remedy"], fact
            continue
        assert fact["value"], fact
        assert fact["evidence"], fact
        for evidence in fact["evidence"]:
            assert (released.parent / "report" / "bundle" / evidence["path"]).is_file(), fact
        if fact["standing"] == "proved":
            assert not any(evidence["path"].startswith("commits/") for evidence in fact["evidence"]), fact
        else:
            assert all("signed by cleo" in evidence["text"] for evidence in fact["evidence"]), fact
    assert found == {"proved", "declared", "missing"}


def test_what_the_page_links_to_is_there(released: Path) -> None:
    page = (released.parent / "report" / "index.html").read_text()
    paths = set(re.findall(r'href="([^"#]+)"', page)) - {"data:,"}
    assert len(paths) > 20
    for path in paths:
        assert (released.parent / "report" / path).is_file(), path
    assert page.index("YES: small may serve local") < page.index("Which rules were checked")
    assert ">DEVELOPMENT<" not in page


def test_the_tools_are_those_that_the_tests_install() -> None:
    for name in ("verify.mjs", "package.json", "package-lock.json"):
        assert (FOLDER / name).read_bytes() == tool(name), name


def test_a_development_root_says_so_and_a_lost_chain_says_no(
    copy_of_applied: Path, config_home: Path, tmp_path: Path, reviewer: Any
) -> None:
    """The same commands on a chain without a supply chain; then a byte of the stored weights is changed."""
    out = tmp_path / "development"
    run_forge(copy_of_applied, config_home, "report", "release/local", "--out", str(out))
    (out / "bundle/node_modules").symlink_to(FOLDER / "node_modules")
    root = read_trust_root(config_home).digest
    holds, said = followed(reviewer, out / "bundle", root)
    assert holds, said
    assert "the chain holds (DEVELOPMENT trust root)" in said
    assert ">DEVELOPMENT<" in (out / "index.html").read_text()
    weights = next(
        line.split()[0] for line in (out / "bundle/weights.sha256").read_text().splitlines() if "safetensors" in line
    )
    blob = copy_of_applied / ".forge/store/blobs" / weights[:2] / weights
    blob.chmod(0o644)
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(data)
    broken = tmp_path / "broken"
    run_forge(copy_of_applied, config_home, "report", "release/local", "--out", str(broken), code=4)
    assert "NO: small may not serve local" in (broken / "index.html").read_text()
    (broken / "bundle/node_modules").symlink_to(FOLDER / "node_modules")
    holds, said = followed(reviewer, broken / "bundle", root)
    assert not holds, said


def test_a_second_release_shows_what_changed(released: Path, governed: Governed, tmp_path: Path) -> None:
    folder = tmp_path / "repository"
    shutil.copytree(released, folder, symlinks=True)
    path = folder / "models" / "deployment.yaml"
    path.write_text(path.read_text() + "  engine: {max_num_seqs: 4}\n")
    commit_as(folder, governed, "cleo", "<b>fewer</b> at once")
    run_forge(folder, governed.config, "apply", code=None)
    run_forge(folder, governed.config, "approve", "release/local", "--key", str(governed.ssh / "ben"), code=None)
    run_forge(folder, governed.config, "apply")
    run_forge(folder, governed.config, "report", "release/local", "--out", str(tmp_path / "report"))
    changes = json.loads((tmp_path / "report" / "report.json").read_text())["changes"]
    assert changes["previous_commit"] == git(folder, "rev-parse", "HEAD~1")
    assert [(row["subject"], row["signer"]) for row in changes["commits"]] == [("<b>fewer</b> at once", "cleo")]
    assert {row["field"]: (row["old"], row["new"]) for row in changes["fields"]} == {"spec.engine.max_num_seqs": ("32", "4")}
    page = (tmp_path / "report" / "index.html").read_text()
    assert "&lt;b&gt;fewer&lt;/b&gt;" in page
    assert "<b>" not in page


def test_a_root_that_handed_over_is_followed(released: Path, governed: Governed, tmp_path: Path, reviewer: Any) -> None:
    """The supply chain was signed by the old root, the release came after the new one; the verifier pins the old root."""
    folder, new = tmp_path / "repository", make_governed(tmp_path / "new")
    shutil.copytree(released, folder, symlinks=True)
    run_forge(folder, governed.config, "keys", "rotate", str(new.config))
    path = folder / "models" / "deployment.yaml"
    path.write_text(path.read_text() + "  engine: {max_num_seqs: 4}\n")
    commit_as(folder, governed, "cleo", "again")
    run_forge(folder, governed.config, "apply")
    out = tmp_path / "report"
    run_forge(folder, governed.config, "report", "release/local", "--out", str(out))
    (out / "bundle/node_modules").symlink_to(FOLDER / "node_modules")
    holds, said = followed(reviewer, out / "bundle", root_of(governed))
    assert holds, said
    one(out, "bundle/trust/root-change-1.by-itself.json").write_bytes(one(out, "bundle/trust/delegation.json").read_bytes())
    holds, said = followed(reviewer, out / "bundle", root_of(governed))
    assert not holds, said


def test_a_report_is_of_a_release_and_goes_to_an_empty_folder(released: Path, governed: Governed, tmp_path: Path) -> None:
    assert (
        "release/ENVIRONMENT"
        in run_forge(released, governed.config, "report", "model/small", "--out", str(tmp_path / "x"), code=2).stderr
    )
    (tmp_path / "kept").write_text("mine")
    assert (
        "not an empty folder"
        in run_forge(released, governed.config, "report", "release/local", "--out", str(tmp_path), code=2).stderr
    )
    assert (tmp_path / "kept").read_text() == "mine"
    run_forge(released, governed.config, "report", "release/local", code=2)

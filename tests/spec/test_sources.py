"""Sources from outside of the repository: pinned, plain, and without secrets even in the message that refuses them."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from forge.spec.compiled import compile_resource
from forge.spec.formats import FORMATS, format_of
from forge.spec.load import load
from forge.spec.remote import GitFiles, RemoteFile

SHA, DIGEST = "a" * 40, "b" * 64


def recipe(source: str, more: str = "") -> str:
    return (
        "apiVersion: forge/v1\nkind: DataRecipe\nmetadata: {name: x}\nspec:\n"
        f"  sources:\n    - {{{source}, license: MIT, origin: somewhere}}\n  split: {{validation_fraction: 0.1}}\n{more}"
    )


def faults(text: str) -> list[str]:
    return [str(item) for item in load([("data.yaml", text.encode())]).diagnostics]


def git_source(
    url: str = "https://example.org/one.git", commit: str = SHA, include: str = '["**/*.py"]', more: str = ""
) -> str:
    return f'git: {{url: "{url}", commit: "{commit}", include: {include}{more}}}'


def file_source(url: str, more: str = f", sha256: {DIGEST}") -> str:
    return f'files: [{{url: "{url}"{more}}}]'


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org/one.git",
        "https://example.org:8443/group/one",
        "https://[::1]:8443/one",
        "ssh://git@example.org/one.git",
        "ssh://example.org:2222/one.git",
        "git@example.org:group/one.git",
        "file:///srv/git/one.git",
        "/srv/git/one.git",
    ],
)
def test_an_address_of_a_repository_is_accepted(url: str) -> None:
    assert faults(recipe(git_source(url))) == []


@pytest.mark.parametrize(
    "url",
    [
        "-uhttps://example.org/x",
        "--upload-pack=touch /x",
        "ext::sh -c touch% x",
        "ext::touch",
        "fd::17",
        "transport::https://example.org/x",
        "http://example.org/one.git",
        "git://example.org/one.git",
        "ftp://example.org/x",
        "ssh://-oProxyCommand=x/y",
        "ssh://git@-oProxyCommand=x/y",
        "-oProxyCommand=x@example.org:y",
        "git@-oProxyCommand=x:y",
        "git@example.org:-x",
        "ssh://git@example.org/-x",
        "https://example.org",
        "https:///x",
        "https://exa mple.org/x",
        "https://example.org/x?ref=main",
        "https://example.org/x#main",
        "relative/path",
        "../outside",
        "file://host/x",
        "",
    ],
)
def test_an_address_that_git_would_take_for_something_else_is_refused(url: str) -> None:
    (found,) = faults(recipe(git_source(url)))
    assert "`url`: " in found


SECRET = "hunter2"


@pytest.mark.parametrize(
    "source",
    [
        git_source(f"https://user:{SECRET}@example.org/x"),
        git_source(f"https://{SECRET}@example.org/x"),
        git_source(f"ssh://git:{SECRET}@example.org/x"),
        git_source(f"user:{SECRET}@example.org:x"),
        git_source(f"https://example.org/x?token={SECRET}"),
        git_source(f"https://user%3A{SECRET}%40example.org/x"),
        file_source(f"https://user:{SECRET}@example.org/x.jsonl"),
        file_source(f"s3://{SECRET}@bucket/x.jsonl"),
        file_source(f"https://example.org/x.jsonl?X-Amz-Signature={SECRET}"),
        file_source(f"https://example.org/x.jsonl?a=b&sig={SECRET}"),
        file_source(f"https://example.org/x.jsonl?a=b;access_token={SECRET}"),
        file_source(f"https://example.org/x.jsonl?%74oken={SECRET}"),
        file_source(f"https://user:{SECRET}@example.org/x.jsonl", ""),
        file_source(f"https://user:{SECRET}@example.org/x"),
        file_source(f"simplecache::https://user:{SECRET}@example.org/x.jsonl"),
        f'path: "https://user:{SECRET}@example.org/x.jsonl"',
    ],
)
def test_a_secret_in_an_address_is_refused_and_not_repeated(source: str) -> None:
    found = "\n".join(faults(recipe(source)))
    assert found
    assert SECRET not in found


def _faults_of(model: type[BaseModel], value: dict[str, Any]) -> list[Any]:
    try:
        model.model_validate(value)
    except ValidationError as error:
        return error.errors()
    return []


@settings(deadline=None)  # the machine may be busy
@given(
    st.text(st.sampled_from("ahtps:/@?#&=[]-~%.\\ \n\0é"), max_size=30), st.sampled_from(["", "https://", "ssh://", "s3://"])
)
def test_what_is_refused_of_an_address_is_not_repeated(text: str, scheme: str) -> None:
    url = scheme + text + "hunter2:x@h/y"
    for model, rest in ((GitFiles, {"commit": SHA, "include": ["*"]}), (RemoteFile, {"sha256": DIGEST, "format": "txt"})):
        for fault in _faults_of(model, {"url": url, **rest}):
            assert fault["type"] == "address"
            assert SECRET not in fault["msg"]


@pytest.mark.parametrize("name", ["main", "v1.2", SHA[:12], SHA.upper(), SHA + "0", f"{SHA}^"])
def test_a_branch_a_tag_and_a_short_name_are_refused_with_the_remedy(name: str) -> None:
    (found,) = faults(recipe(git_source(commit=name)))
    assert "pin the full lower-case sha, which `forge data pin URL BRANCH-OR-TAG` prints" in found


@pytest.mark.parametrize("glob", ["!x", "/x", "../x", "a/../b", "-x", "", "a\\\\b"])
def test_globs_stay_in_the_repository(glob: str) -> None:
    assert len(faults(recipe(git_source(include=f'["{glob}"]')))) == 1


def test_a_url_without_a_digest_is_refused_with_the_command_that_prints_it() -> None:
    (found,) = faults(recipe(file_source("https://example.org/x.jsonl", "")))
    assert "pin it, `forge data pin URL` prints the digest" in found


@pytest.mark.parametrize(
    "url",
    ["https://example.org/x.jsonl?part=1", "s3://bucket/a/x.parquet", "memory://x.txt", "abfss://box@account.dfs.example/x.md"],
)
def test_a_url_of_a_file_is_accepted(url: str) -> None:
    assert faults(recipe(file_source(url))) == []


@pytest.mark.parametrize(
    "url",
    [
        "github://owner:repo@/x.jsonl", "sftp://host/x.jsonl", "data://x.txt", "zip://x.txt::file:///a.zip", "x.jsonl",
        "https://example.org/*.jsonl", "s3://bucket/", "https://example.org/x.jsonl#part", "filecache::s3://b/x.jsonl",
    ],
)  # fmt: skip
def test_a_url_that_is_no_plain_file_is_refused(url: str) -> None:
    assert faults(recipe(file_source(url)))


def test_the_format_is_the_ending_of_the_url_or_has_to_be_written() -> None:
    (found,) = faults(recipe(file_source("https://example.org/download?id=5")))
    assert "missing key `format`" in found
    assert faults(recipe(file_source("https://example.org/download?id=5", f", sha256: {DIGEST}, format: jsonl"))) == []
    (found,) = faults(recipe(file_source("https://example.org/x.jsonl", f", sha256: {DIGEST}, format: exe")))
    assert "`format` is 'exe'; expected one of jsonl" in found


@pytest.mark.parametrize(
    "source", ["path: a/*.jsonl, " + git_source(), "text_key: t", "path: a, " + file_source("s3://b/x.txt")]
)
def test_a_source_comes_from_one_place(source: str) -> None:
    (found,) = faults(recipe(source))
    assert "expected one of `path`, `git` and `files`" in found


def compiled(source: str) -> Any:
    (located,) = load([("data.yaml", recipe(source).encode())]).resources
    return compile_resource(located.resource)


def test_an_address_is_no_part_of_the_identity_and_the_format_it_ends_with_is() -> None:
    one, other = (compiled(file_source(f"https://{host}.example/x.jsonl")) for host in ("one", "other"))
    assert one.parameters == other.parameters
    assert one.settings != other.settings
    assert compiled(file_source("https://one.example/x.txt")).parameters != one.parameters
    written = compiled(file_source("https://one.example/x", f", sha256: 'sha256:{DIGEST}', format: jsonl"))
    assert written.parameters == one.parameters


def test_a_licence_is_asked_of_sources_from_outside_too() -> None:
    text = recipe(git_source(), "  allow_licenses: [Apache-2.0]\n")
    (located,) = load([("data.yaml", text.encode())]).resources
    assert "refused_licenses" in compile_resource(located.resource).facts


def test_regions_of_sources_have_to_have_one_in_common() -> None:
    regions = "  regions: [eu, us]\n"
    assert faults(recipe("path: a/*.jsonl, regions: [eu]", regions)) == []
    (found,) = faults(recipe("path: a/*.jsonl, regions: [cn]", regions))
    assert "no region is allowed" in found
    assert faults(recipe("path: a, regions: []"))
    assert faults(recipe("path: a, regions: [EU West]"))


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a/b.PY", "py"), ("a.b/c", None), ("x.jsonl.gz", "jsonl.gz"), ("x.gz", None), (".py", None), ("src/Makefile", "mk"),
        ("Dockerfile", "dockerfile"), ("CMakeLists.txt", "cmake"), ("x.tar.gz", None), ("a.json", None), ("noend.", None),
    ],
)  # fmt: skip
def test_the_ending_says_the_format(path: str, expected: str | None) -> None:
    assert format_of(path) == expected
    assert expected is None or expected in FORMATS

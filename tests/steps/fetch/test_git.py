"""Files of a Git commit: exactly those, from that commit, whoever owns the host."""

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.steps.fetch.repository import blob, commit, commit_of, git, repository, tree

from forge.errors import StepError
from forge.spec.remote import GitFiles
from forge.steps.fetch import git as fetching
from forge.steps.fetch import repository as repository_of_an_attempt
from forge.steps.fetch.downloads import Downloads
from forge.steps.fetch.git import GitFile, fetch_commit

CODE = {"src/a.py": b"a = 1\n", "src/deep/b.rs": b"fn main() {}\n", "README.md": b"# read me\n", "logo.png": b"\x89PNG\0"}


def fetch(
    tmp_path: Path, url: str, sha: str, *include: str, downloads: Path | None = None, **more: object
) -> tuple[list[GitFile], Path]:
    """Fetch into a folder of its own."""
    folder = tmp_path / f"fetched-{len(list(tmp_path.glob('fetched-*')))}"
    target = folder / "files"
    target.mkdir(parents=True)
    source = GitFiles.model_validate({"url": url, "commit": sha, "include": list(include) or ["**/*.py"], **more})
    files = fetch_commit(source, target, folder / "work", "sources[0]", Downloads(downloads), lambda size: None)
    return files, target


def test_globs_choose_files_of_the_commit_and_of_no_other(tmp_path: Path) -> None:
    sha = repository(tmp_path / "origin", CODE)
    commit(tmp_path / "origin", {"src/later.py": b"later\n", "src/a.py": b"a = 2\n"})
    files, target = fetch(tmp_path, str(tmp_path / "origin"), sha, "**/*.py", "**/*.rs", "README.md", exclude=["src/deep/**"])
    assert [(file.path, file.format, (target / file.name).read_bytes()) for file in files] == [
        ("README.md", "md", b"# read me\n"),
        ("src/a.py", "py", b"a = 1\n"),
    ]
    assert files[1].sha256 == hashlib.sha256(b"a = 1\n").hexdigest()
    assert sorted(path.name for path in target.iterdir()) == ["000000.md", "000001.py"]


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_a_commit_that_no_branch_names_any_more_is_found(tmp_path: Path, prefix: str) -> None:
    sha = repository(tmp_path / "origin", CODE)
    git(tmp_path / "origin", "commit", "--quiet", "--amend", "-m", "rewritten")
    assert fetch(tmp_path, f"{prefix}{tmp_path / 'origin'}", sha)[0]


def test_a_repository_with_sha256_names_is_read(tmp_path: Path) -> None:
    sha = repository(tmp_path / "origin", CODE, "sha256")
    assert len(sha) == 64
    assert [file.path for file in fetch(tmp_path, str(tmp_path / "origin"), sha)[0]] == ["src/a.py"]


def test_what_was_fetched_once_needs_no_host_again(tmp_path: Path) -> None:
    sha = repository(tmp_path / "origin", CODE)
    first, _ = fetch(tmp_path, str(tmp_path / "origin"), sha, downloads=tmp_path / "kept")
    (tmp_path / "origin").rename(tmp_path / "away")
    assert fetch(tmp_path, str(tmp_path / "origin"), sha, downloads=tmp_path / "kept")[0] == first
    assert (
        fetch(tmp_path, "https://host.invalid/moved", sha, "README.md", downloads=tmp_path / "kept")[0][0].path == "README.md"
    )


@pytest.mark.parametrize("spoil", ["other", "cut", "empty"])
def test_a_kept_pack_with_other_content_is_not_believed(tmp_path: Path, spoil: str) -> None:
    """Whoever writes to the folder of downloads cannot put words into a commit."""
    sha = repository(tmp_path / "origin", CODE)
    other = repository(tmp_path / "evil", {"src/a.py": b"evil\n"})
    for url, name in (("origin", sha), ("evil", other)):
        fetch(tmp_path, str(tmp_path / url), name, downloads=tmp_path / "kept")
    pack = tmp_path / "kept" / f"git-{sha}.pack"
    whole = pack.read_bytes()
    pack.write_bytes(
        {"other": (tmp_path / "kept" / f"git-{other}.pack").read_bytes(), "cut": whole[: len(whole) // 2], "empty": b""}[spoil]
    )
    files, target = fetch(tmp_path, str(tmp_path / "origin"), sha, downloads=tmp_path / "kept")
    assert (target / files[0].name).read_bytes() == b"a = 1\n"
    assert pack.read_bytes() == whole


def test_a_remote_that_is_missing_is_one_message_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(StepError, match=r"sources\[0\] .*cannot be fetched: .*apply again") as caught:
        fetch(tmp_path, str(tmp_path / "nothing"), "1" * 40)
    assert "\n" not in str(caught.value)


def test_a_commit_that_the_host_does_not_have_is_named(tmp_path: Path) -> None:
    repository(tmp_path / "origin", CODE)
    with pytest.raises(StepError, match=r"not our ref|cannot be fetched"):
        fetch(tmp_path, str(tmp_path / "origin"), "1" * 40)


def test_the_name_of_a_tag_or_a_tree_is_refused_and_the_commit_named(tmp_path: Path) -> None:
    sha = repository(tmp_path / "origin", CODE)
    git(tmp_path / "origin", "tag", "-a", "v1", "-m", "one")
    with pytest.raises(StepError, match=f"names a tag, not a commit: pin the commit {sha}"):
        fetch(tmp_path, str(tmp_path / "origin"), git(tmp_path / "origin", "rev-parse", "v1"))
    with pytest.raises(StepError, match="names a tree, not a commit"):
        fetch(tmp_path, str(tmp_path / "origin"), git(tmp_path / "origin", "rev-parse", f"{sha}^{{tree}}"))


def test_what_is_no_plain_text_file_is_refused_all_at_once(tmp_path: Path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 5\n"
    files = {"good.py": b"1\n", "latin.py": "ä".encode("latin-1"), "nul.py": b"a\0b", "big.py": pointer, "cut.py": b"\xc3"}
    sha = repository(tmp_path / "origin", files)
    with pytest.raises(StepError) as caught:
        fetch(tmp_path, str(tmp_path / "origin"), sha)
    message = str(caught.value)
    assert "4 of the files" in message
    assert "'big.py' is a pointer of Git LFS" in message
    for name in ("latin.py", "cut.py"):
        assert f"'{name}' is not UTF-8" in message
    assert "'nul.py' holds bytes of value 0" in message
    assert "good.py" not in message
    excluded = ["latin.py", "nul.py", "big.py", "cut.py"]
    assert len(fetch(tmp_path, str(tmp_path / "origin"), sha, exclude=excluded)[0]) == 1


def test_a_character_cut_between_two_reads_is_still_a_character(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "_CHUNK_BYTES", 3)
    sha = repository(tmp_path / "origin", {"a.py": "aaéé€€".encode()})
    files, target = fetch(tmp_path, str(tmp_path / "origin"), sha)
    assert (target / files[0].name).read_text() == "aaéé€€"


def test_symbolic_links_and_submodules_are_refused(tmp_path: Path) -> None:
    origin = tmp_path / "origin"
    repository(origin, {"a.py": b"1\n"})
    (origin / "passwd.py").symlink_to("/etc/passwd")
    git(origin, "update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},vendor/other.py")
    git(origin, "add", "passwd.py")
    git(origin, "commit", "--quiet", "-m", "links")
    sha = git(origin, "rev-parse", "HEAD")
    with pytest.raises(StepError) as caught:
        fetch(tmp_path, str(origin), sha)
    assert "'passwd.py' is a symbolic link" in str(caught.value)
    assert "'vendor/other.py' is a submodule" in str(caught.value)
    with pytest.raises(StepError, match="is a submodule, which is a repository of its own"):
        fetch(tmp_path, str(origin), sha, "a.py", "vendor/other.py/*.py")
    assert len(fetch(tmp_path, str(origin), sha, "a.py")[0]) == 1


@pytest.mark.parametrize("name", [b"..", b".git", b".GIT", b"a\\b", b"new\nline", b"\xff"])
def test_names_that_no_repository_should_hold_are_refused(tmp_path: Path, name: bytes) -> None:
    origin = tmp_path / "origin"
    repository(origin, {"a.py": b"1\n"})
    inner = tree(origin, [("100644", b"evil.py", blob(origin, b"evil\n"))])
    sha = commit_of(origin, tree(origin, [("40000", name, inner)]))
    with pytest.raises(StepError, match=r"no repository should hold|control characters|cannot be listed|cannot be fetched"):
        fetch(tmp_path, str(origin), sha)
    assert not list(tmp_path.rglob("evil.py"))


def test_a_tree_that_holds_itself_a_billion_times_is_refused_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "MAX_ENTRIES", 20_000)
    origin = tmp_path / "origin"
    repository(origin, {"a.py": b"1\n"})
    root = tree(origin, [("100644", b"f.py", blob(origin, b"1\n"))])
    for _ in range(9):
        root = tree(origin, [("40000", f"d{number}".encode(), root) for number in range(10)])
    began = time.monotonic()
    with pytest.raises(StepError, match="more than 20,000 entries"):
        fetch(tmp_path, str(origin), commit_of(origin, root))
    assert time.monotonic() - began < 30


def test_sizes_are_bounded_before_anything_is_unpacked(tmp_path: Path) -> None:
    sha = repository(tmp_path / "origin", {"zeros.py": b" " * 3_000_000, "noise.bin": os.urandom(3_000_000)})
    with pytest.raises(StepError, match="more than 1,000,000 bytes to fetch"):
        fetch(tmp_path, str(tmp_path / "origin"), sha, max_bytes=1_000_000)
    sha = repository(tmp_path / "bomb", {"zeros.py": b" " * 3_000_000})
    with pytest.raises(StepError, match="files that `include` matches have more than 1,000,000 bytes"):
        fetch(tmp_path, str(tmp_path / "bomb"), sha, max_bytes=1_000_000)


def test_folders_nested_beyond_reason_are_refused(tmp_path: Path) -> None:
    origin = tmp_path / "origin"
    repository(origin, {"a.py": b"1\n"})
    root = tree(origin, [("100644", b"f.py", blob(origin, b"1\n"))])
    for _ in range(30):
        root = tree(origin, [("40000", b"d" * 200, root)])
    with pytest.raises(StepError, match=r"a path of 6,0\d\d bytes"):
        fetch(tmp_path, str(origin), commit_of(origin, root))


def test_a_pack_that_comes_faster_than_it_is_watched_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repository_of_an_attempt, "_SLACK_BYTES", 1000)
    sha = repository(tmp_path / "origin", {"noise.py": os.urandom(3_000_000)})
    with pytest.raises(StepError, match="more than 100,000 bytes to fetch"):
        fetch(tmp_path, str(tmp_path / "origin"), sha, max_bytes=100_000)
    packs = [path for path in tmp_path.glob("fetched-*/work/repository.git/objects/pack/*") if path.stat().st_size > 101_000]
    assert packs == []


def test_globs_that_match_nothing_are_told(tmp_path: Path) -> None:
    sha = repository(tmp_path / "origin", CODE)
    with pytest.raises(StepError, match=r"none of its files matches `include` \(\*\*/\*\.go\)"):
        fetch(tmp_path, str(tmp_path / "origin"), sha, "**/*.go")
    with pytest.raises(StepError, match=r"'logo.png' has an ending that says neither a format nor a language"):
        fetch(tmp_path, str(tmp_path / "origin"), sha, "*")


def test_no_hook_filter_or_setting_of_the_user_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the hooks of a template, not what the user's own configuration rewrites, not what the repository declares."""
    witness = tmp_path / "witness"
    home = tmp_path / "home"
    (home / "template" / "hooks").mkdir(parents=True)
    for hook in ("post-checkout", "reference-transaction", "post-index-change"):
        path = home / "template" / "hooks" / hook
        path.write_text(f"#!/bin/sh\ntouch {witness}\n")
        path.chmod(0o755)
    (home / ".gitconfig").write_text(
        f"[init]\n\ttemplateDir = {home / 'template'}\n[core]\n\thooksPath = {home / 'template' / 'hooks'}\n"
        f'\tfsmonitor = "touch {witness}"\n'
        f'[url "ext::touch {witness}"]\n\tinsteadOf = {tmp_path}\n[filter "x"]\n\tsmudge = touch {witness}\n'
    )
    monkeypatch.setenv("HOME", str(home))
    with monkeypatch.context() as clean:
        clean.setenv("HOME", str(tmp_path / "empty"))
        sha = repository(tmp_path / "origin", {"a.py": b"1\n", ".gitattributes": b"*.py filter=x\n"})
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", f"url.ext::touch {witness}.insteadOf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", str(tmp_path))
    assert [file.path for file in fetch(tmp_path, str(tmp_path / "origin"), sha)[0]] == ["a.py"]
    assert not witness.exists()


def test_nobody_is_asked_for_a_password(tmp_path: Path) -> None:
    """A host that wants one ends the step, whatever terminal there is."""
    code = (
        "import http.server, threading, sys, time; from pathlib import Path\n"
        "class H(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        self.send_response(401); self.send_header('WWW-Authenticate', 'Basic'); self.end_headers()\n"
        "    def log_message(self, *a): pass\n"
        "s = http.server.HTTPServer(('127.0.0.1', 0), H); threading.Thread(target=s.serve_forever, daemon=True).start()\n"
        "from forge.steps.fetch import repository as git\n"
        "g = git.Repository(Path(sys.argv[1]), 'x', 10**9); g.prepare('1' * 40)\n"
        "env = {**g._environment(), 'GIT_ALLOW_PROTOCOL': 'http'}; g._environment = lambda: env\n"
        "try: g.run('fetch', '--', f'http://127.0.0.1:{s.server_port}/x', '1' * 40)\n"
        "except git.StepError as e: print('refused', e)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "work")], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.stdout.startswith("refused"), done.stdout + done.stderr
    assert "terminal prompts disabled" in done.stdout


def test_a_stop_ends_the_git_process(tmp_path: Path) -> None:
    sha = repository(tmp_path / "origin", CODE)
    source = GitFiles.model_validate({"url": str(tmp_path / "origin"), "commit": sha, "include": ["**/*.py"]})
    (tmp_path / "files").mkdir()

    class Stopped(BaseException):
        pass

    def stop(size: int) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        fetch_commit(source, tmp_path / "files", tmp_path / "work", "sources[0]", Downloads(None), stop)

"""A base that lies in the repository: which of its files are read, what pins it, and what is refused."""

from pathlib import Path

import pytest
from tests.conftest import commit_all, git, new_repository
from tests.repo.test_repo import desired_at, diagnostics_at
from tests.spec.test_continue_spec import MORE, NEXT

from forge.repo.desired import read_desired
from forge.repo.repository import Repository
from forge.repo.tree import WorkTree

FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
PLACE = "models/next.yaml:6:16: "


@pytest.fixture
def imported(repository: Path) -> Path:
    """The small example with a model that continues ``vendor/base``."""
    (repository / "models" / "more.yaml").write_text(MORE)
    text = NEXT.replace("{model: Model/small}", "{path: vendor/base, license: MIT, origin: elsewhere}")
    (repository / "models" / "next.yaml").write_text(text)
    (repository / "vendor" / "base").mkdir(parents=True)
    for name in FILES:
        (repository / "vendor" / "base" / name).write_text(name)
    commit_all(repository)
    return repository


def test_weights_and_tokenizer_are_bundles_of_their_own_and_nothing_else_is_read(imported: Path) -> None:
    (imported / "vendor" / "base" / "README.md").write_text("about")
    (imported / "vendor" / "base" / "evil.py").write_text("import os")
    (imported / "vendor" / "base" / "chat_template.jinja").write_text("{{ messages }}")
    commit_all(imported)
    bundles = desired_at(imported).bundles
    assert set(bundles["Model/next", "base"].files) == {"config.json", "model.safetensors"}
    assert set(bundles["Model/next", "tokenizer"].files) == {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    assert bundles["Model/next", "base"].sources["config.json"] == "vendor/base/config.json"


def test_weights_in_several_files_are_read_with_their_index(imported: Path) -> None:
    folder = imported / "vendor" / "base"
    (folder / "model.safetensors").unlink()
    shards = {f"model-{number:05d}-of-00002.safetensors" for number in (1, 2)}
    for name in (*shards, "model.safetensors.index.json", "model-00001-of-00001.safetensors"):
        (folder / name).write_text(name)
    commit_all(imported)
    found = set(desired_at(imported).bundles["Model/next", "base"].files)
    assert found == {"config.json", "model.safetensors.index.json", *shards}


def test_the_bytes_are_the_identity_and_the_place_is_not(imported: Path) -> None:
    before = desired_at(imported).bundles
    git(imported, "mv", "vendor/base", "vendor/moved")
    spec = imported / "models" / "next.yaml"
    spec.write_text(spec.read_text().replace("vendor/base", "vendor/moved/"))
    moved = desired_at(imported, commit_all(imported)).bundles
    (imported / "vendor" / "moved" / "model.safetensors").write_text("others")
    changed = desired_at(imported, commit_all(imported)).bundles
    for name in ("base", "tokenizer"):
        assert moved["Model/next", name].digest == before["Model/next", name].digest
    assert changed["Model/next", "base"].digest != before["Model/next", "base"].digest
    assert changed["Model/next", "tokenizer"].digest == before["Model/next", "tokenizer"].digest


def test_a_preview_reads_the_folder_from_the_disk(imported: Path) -> None:
    (imported / "vendor" / "base" / "model.safetensors").write_text("not committed")
    with Repository(imported) as opened:
        previewed = read_desired(WorkTree(opened)).bundles["Model/next", "base"]
    assert previewed.digest != desired_at(imported).bundles["Model/next", "base"].digest


@pytest.mark.parametrize(
    ("name", "instead", "message"),
    [
        ("config.json", (), "`vendor/base` lacks config.json"),
        (
            "model.safetensors",
            ("pytorch_model.bin",),
            "`vendor/base` lacks model.safetensors; pytorch_model.bin is a pickle, which runs code when it is loaded: write ",
        ),
        (
            "model.safetensors",
            ("model-00001-of-00002.safetensors", "model.safetensors.index.json"),
            "`vendor/base` lacks model-00002-of-00002.safetensors",
        ),
        ("model.safetensors", ("model.safetensors.index.json",), "`vendor/base` lacks model-00001-of-00001.safetensors"),
        (
            "model.safetensors",
            ("model-00001-of-00001.safetensors",),
            "`vendor/base` lacks model.safetensors; it holds model-00001-of-00001.safetensors, but no ",
        ),
        ("tokenizer.json", ("tokenizer.model",), "`vendor/base` lacks tokenizer.json"),
    ],
)
def test_a_folder_that_lacks_something_is_named_with_its_place(
    imported: Path, name: str, instead: tuple[str, ...], message: str
) -> None:
    folder = imported / "vendor" / "base"
    (folder / name).unlink()
    for each in instead:
        (folder / each).write_bytes(b"\x80\x04")
    commit_all(imported)
    assert diagnostics_at(imported).startswith(PLACE + message)


@pytest.mark.parametrize("path", ["vendor/bass", "vendor/base/config.json", "./vendor/base", "vendor", "vendor/*"])
def test_what_is_no_folder_with_a_model_is_named_with_its_place(imported: Path, path: str) -> None:
    spec = imported / "models" / "next.yaml"
    spec.write_text(spec.read_text().replace("path: vendor/base", f"path: {path}"))
    commit_all(imported)
    assert diagnostics_at(imported).startswith(f"{PLACE}`{path}` ")


def test_a_link_in_place_of_the_weights_is_refused(imported: Path) -> None:
    weights = imported / "vendor" / "base" / "model.safetensors"
    weights.unlink()
    weights.symlink_to("/etc/passwd")
    commit_all(imported)
    assert "a symbolic link" in diagnostics_at(imported)


def test_a_submodule_is_refused(imported: Path, tmp_path: Path) -> None:
    other = new_repository(tmp_path / "other")
    (other / "config.json").write_text("{}")
    commit_all(other)
    git(imported, "rm", "-r", "--quiet", "vendor/base")
    git(imported, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(other), "vendor/base")
    commit_all(imported)
    assert "lies in the submodule vendor/base; Forge reads this repository's own objects: copy the files" in diagnostics_at(
        imported
    )

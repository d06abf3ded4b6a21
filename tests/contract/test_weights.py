"""Which files weights may hold."""

import io
import pickle
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from forge.contract.weights import HEAD_BYTES, why_refused

REFUSED = [
    "pytorch_model.bin",
    "model.pt",
    "model.pth",
    "optimizer.pkl",
    "model.ckpt",
    "modeling_x.py",
    "a.so",
    "model.safetensors.bin",
    "safetensors",
    "MODEL.PT",
    "x.json.exe",
    ".gitattributes",
    "model.gguf",
]


@pytest.mark.parametrize("path", REFUSED)
def test_a_format_that_can_run_code_is_refused_by_its_name(path: str) -> None:
    assert f"{path} is no file that weights may hold" in str(why_refused(path, 2, b"{}"))


@pytest.mark.parametrize("path", ["config.json", "sub/tokenizer.json", "merges.txt", "chat_template.jinja", "tokenizer.model"])
def test_configuration_and_vocabulary_are_allowed(path: str) -> None:
    assert why_refused(path, 2, b"{}") is None
    assert (why_refused(path, 0, b"") is None) == (not path.endswith(".json"))


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("data.pkl", b"")
    return buffer.getvalue()


class Runs:
    """What an unpickler calls something for."""

    def __reduce__(self) -> tuple[object, ...]:
        return print, ("it ran",)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("path", ["model.safetensors", "config.json", "tokenizer.model", "merges.txt", "chat_template.jinja"])
def test_a_pickle_under_another_name_is_refused(path: str, protocol: int) -> None:
    data = pickle.dumps(Runs(), protocol=protocol)
    assert "whatever its name says" in str(why_refused(path, len(data), data))
    assert "whatever its name says" in str(why_refused(path, len(data) + 5, data + b" text"))


@pytest.mark.parametrize(
    ("path", "data"),
    [
        ("a.json", b"\x1f\x8b\x08"),
        ("a.txt", b"x" * 257 + b"ustar"),
        ("a.model", b"\n" * 257 + b"ustar"),
        ("a.json", b"import os"),
        ("a.json", b'{"a": 1} {'),
        ("a.json", b"[" * 100_000),
        ("a.txt", b"\xff\xfe"),
        ("a.jinja", b"{{ a }}\x00"),
    ],
)
def test_what_is_no_json_or_no_text_is_refused(path: str, data: bytes) -> None:
    assert "whatever its name says" in str(why_refused(path, len(data), data))


@pytest.mark.parametrize(
    ("path", "data"),
    [
        ("merges.txt", "#version: 0.2\n\u0120 t\nc a\n".encode()),
        ("vocab.json", '{"\u0120a": 1}'.encode()),
        ("chat_template.jinja", b"{% for m in messages %}\n{{ m }}{% endfor %}"),
        ("tokenizer.model", b"\n\x0e\n\x05<unk>\x15\x00\x00\x00\x00\x18\x02"),
    ],
)
def test_what_tokenizers_are_made_of_is_allowed(path: str, data: bytes) -> None:
    assert why_refused(path, len(data), data) is None


@pytest.mark.parametrize("path", ["model.safetensors", "config.json"])
def test_a_torch_archive_under_another_name_is_refused(path: str) -> None:
    assert "whatever its name says" in str(why_refused(path, len(zipped()), zipped()))


@given(st.integers(1, 300), st.text(max_size=200))
def test_every_real_safetensors_file_is_allowed(size: int, note: str) -> None:
    """Whatever its header's length is: its first bytes may look like a pickle's."""
    import numpy as np

    data = save({"weight": np.zeros(size, dtype=np.float32)}, metadata={"note": note})
    assert why_refused("model.safetensors", len(data), data[:HEAD_BYTES]) is None


@given(st.binary(max_size=64))
def test_what_is_called_safetensors_begins_with_a_header_that_fits(data: bytes) -> None:
    if why_refused("model.safetensors", len(data), data) is None:
        assert 8 + int.from_bytes(data[:8], "little") <= len(data)
        assert data[8:9] == b"{"

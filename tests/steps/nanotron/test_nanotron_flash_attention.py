"""nanotron with flash-attn: the changes that are made for it, and a whole training without a GPU (``with_flash_attention``)."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from tests.steps.nanotron.conftest import NanotronAttempt
from tests.steps.train.conftest import Attempt

from forge.errors import StepError
from forge.steps.nanotron.loader import flash_attention_version, machine_for

OF_TORCH = {
    "__init__.py": "",
    "bert_padding.py": "",
    "flash_attn_interface.py": """\
import torch
from forge.steps.nanotron import stand_ins
flash_attn_with_kvcache = None
def flash_attn_varlen_func(*, q, deterministic, **named):
    if q.dtype != torch.bfloat16 or not deterministic:
        raise RuntimeError("FlashAttention only support fp16 and bf16 data type")
    return stand_ins.flash_attn_varlen_func(q=q, **named)
""",
    "layers/__init__.py": "",
    "layers/rotary.py": "from forge.steps.nanotron.stand_ins import RotaryEmbedding\n",
    "ops/__init__.py": "",
    "ops/triton/__init__.py": "",
    "ops/triton/layer_norm.py": "from forge.steps.nanotron.stand_ins import layer_norm_fn\n",
}
"""flash-attn's modules as nanotron imports them; the functions are those that stand in for it elsewhere."""
PUBLISHED = pytest.mark.skipif(
    not all(find_spec(name) for name in ("flash_attn", "triton")),
    reason="needs flash-attn without its CUDA kernels, and Triton (docs/nanotron.md)",
)


def write_package(folder: Path, files: dict[str, str], version: str = "2.5.0", name: str = "flash_attn") -> Path:
    """Modules in the folder ``flash_attn``, of the package ``name``."""
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    told = {f"{name}-{version}.dist-info/METADATA": metadata}
    for place, text in (told | {f"flash_attn/{module}": text for module, text in files.items()}).items():
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.mark.parametrize("package", ["of torch", pytest.param("as published", marks=PUBLISHED)])
def test_a_training_with_flash_attention_is_the_torch_backends(
    new_attempt: Callable[..., NanotronAttempt], inputs: dict[str, Path], tmp_path: Path, package: str
) -> None:
    schedule = {"name": "cosine", "warmup_tokens": 256}
    training = {"tokens": 256 * 2, "precision": "bfloat16", "schedule": schedule}
    attempt = new_attempt(training=training)
    path = attempt.folder / "request.json"
    path.write_text(attempt.request().model_dump_json())
    places = [str(write_package(tmp_path / "package", OF_TORCH))] if package == "of torch" else []
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*places, *sys.path])}
    command = [sys.executable, "-m", "tests.steps.nanotron.with_flash_attention", str(path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected = Attempt(root=tmp_path / "torch", training=training, **inputs)
    expected.run()
    first, theirs = (next(event for event in each.events() if "learning_rate" in event) for each in (attempt, expected))
    assert first["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
    assert first["gradient_norm"] == pytest.approx(theirs["gradient_norm"], rel=1e-2)
    assert attempt.result()["metrics"]["logits_difference"] < 1e-5
    (newest,) = sorted(attempt.checkpoints.iterdir())[-1:]
    assert json.loads((newest / "state.json").read_bytes())["environment"]["attention"].startswith("flash-attn 2.")


@pytest.mark.parametrize(
    ("version", "package", "message"),
    [
        ("2.4.3.post1", "", r"flash-attn 2\.4\.3\.post1 is installed, but nanotron 0\.4 needs 2\.5\.0 or newer"),
        ("2.8.3", 'raise ImportError("undefined symbol: _ZN3c10")', r"2\.8\.3 .* undefined symbol: .*build it for this torch"),
    ],
)
def test_a_flash_attention_that_does_not_fit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, package: str, message: str
) -> None:
    monkeypatch.syspath_prepend(write_package(tmp_path, {"__init__.py": package}, version))
    monkeypatch.delitem(sys.modules, "flash_attn", raising=False)
    assert machine_for("cuda", "bfloat16").flash_attention
    with pytest.raises(StepError, match=message):
        flash_attention_version()


@pytest.mark.skipif(find_spec("flash_attn") is not None, reason="flash-attn is installed here")
def test_another_package_that_uses_its_folder_is_not_taken_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM brings flash-attn-4 along on CUDA."""
    monkeypatch.syspath_prepend(write_package(tmp_path, {"cute/__init__.py": ""}, "4.0.0", "flash_attn_4"))
    assert find_spec("flash_attn") is not None
    assert not machine_for("cuda", "bfloat16").flash_attention

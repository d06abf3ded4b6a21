"""What steps load that is large: only what they need, and everything is there again afterwards."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

TUNING = """
import gc, json, sys
from forge.steps.imports import quick_imports
with quick_imports():
    inside = gc.isenabled()
    import forge.steps.finetune.run
    import forge.steps.finetune.{objective}
print(json.dumps([inside, gc.isenabled(), sorted({{name.split(".")[0] for name in sys.modules}})]))
import sklearn.metrics, scipy.stats
"""
EVALUATING = """
import gc, json, sys
from pathlib import Path
from forge.errors import StepError
from forge.steps import evaluate
try:
    evaluate._load(Path(sys.argv[1]), 1, 1, "Model/none")
except StepError as error:
    assert "do not load with transformers" in str(error), error
print(json.dumps([gc.isenabled(), sorted({name.split(".")[0] for name in sys.modules})]))
assert {"lm_eval.evaluator", "lm_eval.tasks", "lm_eval.models.huggingface"} <= set(sys.modules)
import sklearn.metrics, scipy.stats
"""


def said(script: str, *arguments: str) -> list[object]:
    """The last line that a script prints; its own last line fails where a library stays out of sight."""
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(("objective", "other"), [("sft", "dpo"), ("dpo", "sft")])
def test_a_fine_tuning_loads_no_library_that_is_not_needed(objective: str, other: str) -> None:
    script = TUNING.format(objective=objective)
    script = script.replace("print(", f"assert 'trl.trainer.{other}_trainer' not in sys.modules; print(")
    inside, after, loaded = said(script)
    assert (inside, after) == (False, True)
    assert {"trl", "peft", "transformers"} <= set(loaded)
    assert not {"sklearn", "scipy", "matplotlib", "IPython", "wandb", "deepspeed", "vllm"} & set(loaded)


def test_an_evaluation_loads_no_library_that_is_not_needed(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    after, loaded = said(EVALUATING, str(tmp_path))
    assert after is True
    assert {"lm_eval", "transformers"} <= set(loaded)
    assert not {"sklearn", "scipy", "matplotlib", "IPython", "wandb", "deepspeed", "vllm"} & set(loaded)

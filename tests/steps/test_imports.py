"""What TRL's trainers load: only what they need, and everything is there again afterwards."""

import json
import subprocess
import sys

import pytest

SCRIPT = """
import gc, json, sys
from forge.steps.imports import quick_imports
with quick_imports():
    inside = gc.isenabled()
    import forge.steps.finetune.run
    import forge.steps.finetune.{objective}
print(json.dumps([inside, gc.isenabled(), sorted({{name.split(".")[0] for name in sys.modules}})]))
import sklearn.metrics, scipy.stats
"""


@pytest.mark.parametrize(("objective", "other"), [("sft", "dpo"), ("dpo", "sft")])
def test_a_fine_tuning_loads_no_library_that_is_not_needed(objective: str, other: str) -> None:
    """Its last line fails where a library stays out of sight."""
    script = SCRIPT.format(objective=objective)
    script = script.replace("print(", f"assert 'trl.trainer.{other}_trainer' not in sys.modules; print(")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    inside, after, loaded = json.loads(done.stdout.splitlines()[-1])
    assert (inside, after) == (False, True)
    assert {"trl", "peft", "transformers"} <= set(loaded)
    assert not {"sklearn", "scipy", "matplotlib", "IPython", "wandb", "deepspeed", "vllm"} & set(loaded)

"""Is the exported model the one that was trained? transformers' logits of the folder against nanotron's own.

Rule: weights whose logits differ by more than rounding are not published: the step fails, and its product is never recorded.
"""

from pathlib import Path

import torch

from forge.errors import StepError
from forge.steps.imports import quick_imports

IN_FLOAT32 = 1e-4
IN_BFLOAT16 = 5e-2
"""Where flash-attn computes the trained model's logits, which it does not in float32."""


def check_parity(exported: torch.Tensor, trained: torch.Tensor, subject: str, tolerance: float = IN_FLOAT32) -> float:
    """The largest difference of two logits, as a share of the largest logit; raises ``StepError`` where it is too large.

    ``exported``, ``trained``: what transformers and nanotron give for the same tokens, [B, S, V].
    """
    if exported.shape != trained.shape:
        raise StepError(
            f"{subject}: the exported model gives logits of the shape {list(exported.shape)}, "
            f"the trained one {list(trained.shape)}"
        )
    scale = float(trained.abs().max())
    difference = float((exported - trained).abs().max()) / max(scale, 1e-6)
    if not difference <= tolerance:  # NaN too
        raise StepError(
            f"{subject}: the exported model is not the trained one: its logits differ by {difference:.2e} of the largest, "
            f"expected at most {tolerance:.0e}; the weights are not published"
        )
    return difference


@torch.no_grad()
def exported_logits(folder: Path, inputs: torch.Tensor) -> torch.Tensor:
    """What transformers makes of the folder, in float32 on the CPU; nothing is asked of a network."""
    with quick_imports():
        from transformers.models.llama.modeling_llama import LlamaForCausalLM
        from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    logits: torch.Tensor = model.eval()(input_ids=inputs).logits
    return logits.float()

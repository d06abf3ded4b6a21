"""AdamW with decoupled weight decay (Loshchilov & Hutter 2019): which parameters decay, and its state by name."""

import torch
from torch import nn

from forge.spec.model import Optimizer

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def build_optimizer(model: nn.Module, settings: Optimizer) -> torch.optim.AdamW:
    """Matrices (and stacks of them: experts) decay; norms and the embedding (tied or not) do not. What is frozen is left out.

    The fused kernel is elementwise: it gives the same bits in every run (tests/steps/train/test_train_resume.py).
    """
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for name, parameter in _trained(model):
        (decayed if parameter.ndim >= 2 and "embed_tokens" not in name else kept).append(parameter)
    beta1, beta2 = settings.betas
    return torch.optim.AdamW(
        [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": kept, "weight_decay": 0.0}],
        lr=settings.lr,
        betas=(beta1, beta2),
        eps=settings.eps,
        fused=True,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """The rate of the next step, in every group."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The optimiser's state as ``<moment>.<parameter name>``."""
    return {
        f"{moment}.{name}": optimizer.state[parameter][moment] for name, parameter in _trained(model) for moment in _MOMENTS
    }


def load_optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    """The inverse of ``optimizer_tensors``; moments go to their parameter's device, the step count stays as it was."""
    for name, parameter in _trained(model):
        optimizer.state[parameter] = {moment: tensors[f"{moment}.{name}"].to(parameter.device) for moment in _MOMENTS}


def _trained(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]

"""AdamW with decoupled weight decay (Loshchilov & Hutter 2019): which parameters decay, and its state by name."""

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from forge.spec.training import Optimizer

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def build_optimizer(model: nn.Module, settings: Optimizer) -> torch.optim.AdamW:
    """Matrices (and stacks of them: experts) decay; norms and the embedding (tied or not) do not. What is frozen is left out.

    The fused kernel is elementwise: it gives the same bits in every run (tests/steps/train/test_train_resume.py).
    """
    groups: dict[tuple[bool, str], list[nn.Parameter]] = {}
    for name, parameter in _trained(model):
        is_decayed = parameter.ndim >= 2 and "embed_tokens" not in name
        # One kernel call takes tensors of one kind: whole, or cut over the same part of the grid of processes.
        cut = str(parameter.device_mesh.mesh_dim_names) if isinstance(parameter, DTensor) else ""
        groups.setdefault((not is_decayed, cut), []).append(parameter)
    beta1, beta2 = settings.betas
    return torch.optim.AdamW(
        [
            {"params": parameters, "weight_decay": 0.0 if is_kept else settings.weight_decay, "decays": not is_kept}
            for (is_kept, _), parameters in sorted(groups.items(), key=lambda item: item[0])
        ],
        lr=settings.lr,
        betas=(beta1, beta2),
        eps=settings.eps,
        fused=True,
    )


def follow(optimizer: torch.optim.Optimizer, settings: Optimizer, rate: float) -> None:
    """The rate of the next step, and the settings that it is taken with: those of a branch change where it leaves its trunk."""
    for group in optimizer.param_groups:
        group["lr"], group["betas"], group["eps"] = rate, tuple(settings.betas), settings.eps
        group["weight_decay"] = settings.weight_decay if group["decays"] else 0.0


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The optimiser's state as ``<moment>.<parameter name>``."""
    return {
        f"{moment}.{name}": optimizer.state[parameter][moment] for name, parameter in _trained(model) for moment in _MOMENTS
    }


def load_optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    """The inverse of ``optimizer_tensors``; moments go to their parameter's device, the step count stays as it was."""
    for name, parameter in _trained(model):
        optimizer.state[parameter] = {moment: tensors[f"{moment}.{name}"].to(parameter.device) for moment in _MOMENTS}


def begin_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Give every parameter the state that its first step would make, cut as it is, for a checkpoint to be read into."""
    for _, parameter in _trained(model):
        optimizer.state[parameter] = {
            "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }


def _trained(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]

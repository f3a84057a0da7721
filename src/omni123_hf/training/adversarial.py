"""The adversarial part of the image VAE's training: a discriminator with an optimiser of its own.

The VAE's term is weighted adaptively (VQGAN, arXiv 2012.09841): by the ratio of the gradient norms of the other losses
and of the adversarial one at the decoder's last layer, so that neither drowns the other whatever their scales.
"""

from typing import Any

import torch
from torch import nn

from ..modeling.discriminator_image import PatchDiscriminator, discriminator_loss, generator_loss
from ..modeling.quantization import is_distributed, sum_over_ranks


BETAS = (0.5, 0.9)
MAX_ADAPTIVE_WEIGHT = 1e4


def mean_over_ranks(x: torch.Tensor) -> torch.Tensor:
    return sum_over_ranks(x) / torch.distributed.get_world_size() if is_distributed() else x


def adaptive_weight(loss: torch.Tensor, adversarial: torch.Tensor, last_weight: torch.Tensor) -> torch.Tensor:
    """`|∇ loss| / |∇ adversarial|` at `last_weight`, norms averaged over ranks; a scalar without gradient."""
    norms = [
        torch.autograd.grad(term, last_weight, retain_graph=True)[0].float().norm() for term in (loss, adversarial)
    ]
    others, own = mean_over_ranks(torch.stack(norms).detach())
    return (others / (own + 1e-4)).clamp(max=MAX_ADAPTIVE_WEIGHT)


class Adversary:
    """A `PatchDiscriminator` that trains beside a VAE; every rank must call the same methods in the same order.

    `weight` multiplies the adaptive weight; the VAE feels the adversary from step `start` on, and the discriminator
    learns from `lead` steps before. Steps count those of the VAE's optimiser from 0.
    """

    def __init__(self, discriminator: PatchDiscriminator, weight: float, start: int, lead: int, learning_rate: float):
        self.discriminator, self.weight, self.start, self.lead = discriminator.train(), weight, start, lead
        self.learning_rate = learning_rate
        self.optimizer = torch.optim.AdamW(discriminator.parameters(), lr=learning_rate, betas=BETAS, weight_decay=0.0)

    def judges(self, step: int) -> bool:
        """Whether the VAE has an adversarial term in this step."""
        return step >= self.start

    def learns(self, step: int) -> bool:
        """Whether the discriminator is trained in this step."""
        return step >= self.start - self.lead

    def generator_term(
        self, reconstruction: torch.Tensor, loss: torch.Tensor, last_weight: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """The VAE's weighted adversarial term for a reconstruction `(B, 3, H, W)` with its other `loss`, and figures."""
        # In eval mode the spectral norms stand still: only the discriminator's own steps move them.
        self.discriminator.eval().requires_grad_(False)
        adversarial = generator_loss(self.discriminator(reconstruction))
        self.discriminator.train().requires_grad_(True)
        weight = self.weight * adaptive_weight(loss, adversarial, last_weight)
        return weight * adversarial, {
            "adversarial_loss": float(adversarial.detach()),
            "adversarial_weight": float(weight),
        }

    def accumulate(self, real: torch.Tensor, fake: torch.Tensor, share: float) -> dict[str, float]:
        """Adds `share` of the discriminator's gradient for images and reconstructions `(B, 3, H, W)`; returns figures."""
        scores = self.discriminator(torch.cat([real.float(), fake.detach().float()]))
        real_scores, fake_scores = scores.chunk(2)
        loss = discriminator_loss(real_scores, fake_scores)
        (share * loss).backward()
        return {
            "discriminator_loss": float(loss.detach()),
            "discriminator_real": float(real_scores.detach().float().mean()),
            "discriminator_fake": float(fake_scores.detach().float().mean()),
        }

    @torch.no_grad()
    def step(self, schedule: float, max_grad_norm: float) -> None:
        """One step of the discriminator's optimiser at `schedule` (0..1) times its learning rate."""
        parameters = list(self.discriminator.parameters())
        for parameter in parameters:
            parameter.grad.copy_(mean_over_ranks(parameter.grad))  # type: ignore[union-attr, arg-type]
        if max_grad_norm > 0:
            nn.utils.clip_grad_norm_(parameters, max_grad_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = schedule * self.learning_rate
        self.optimizer.step()
        self.optimizer.zero_grad()

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Weights, spectral norms and moments as one flat dictionary of tensors; the learning rate is the schedule's."""
        state = {f"discriminator.{name}": value for name, value in self.discriminator.state_dict().items()}
        for number, moments in self.optimizer.state_dict()["state"].items():
            state |= {f"optimizer.{number}.{name}": value for name, value in moments.items()}
        return state

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        own = "discriminator."
        self.discriminator.load_state_dict({k.removeprefix(own): v for k, v in state.items() if k.startswith(own)})
        moments: dict[int, dict[str, Any]] = {}
        for key, value in state.items():
            if key.startswith("optimizer."):
                _, number, name = key.split(".")
                moments.setdefault(int(number), {})[name] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})

"""Spherical vector quantisation of the shape tokenizer (paper §4.2 "optimal-transport vector quantization").

Latents and codes are both RMS-normalised, so they lie on one sphere of radius sqrt(code_dim) and the nearest code is
well defined whatever the latents' scale. In training, codes are assigned by entropic optimal transport (Sinkhorn), which
spreads a batch over the whole code book; in inference the assignment is the plain nearest code.
"""

import torch
import torch.nn.functional as F
from torch import nn


def rms_normalize(x: torch.Tensor, eps: float) -> torch.Tensor:
    """`x / sqrt(mean(x²) + eps)` over the last axis, in float32."""
    x = x.float()
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)


def squared_distances(z: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Squared Euclidean distances `(N, K)` of `z (N, D)` to `codes (K, D)`, in float32 whatever autocast says."""
    # In bfloat16 neighbouring codes tie, and training would assign other codes than inference.
    with torch.autocast(z.device.type, enabled=False):
        return z.pow(2).sum(-1, keepdim=True) - 2 * z @ codes.t() + codes.pow(2).sum(-1)


def nearest_codes(z: torch.Tensor, codes: torch.Tensor, chunk: int = 8192) -> torch.Tensor:
    """Index of the nearest code for every row of `z (N, D)`; at most `chunk * K` distances exist at a time."""
    return torch.cat([squared_distances(part, codes).argmin(-1) for part in z.split(chunk)])


def sinkhorn_assignment(
    z: torch.Tensor, codes: torch.Tensor, iterations: int, temperature: float, max_rows: int = 4096
) -> torch.Tensor:
    """Balanced assignment of the rows of `z (N, D)` to `codes (K, D)` by entropic optimal transport.

    The cost is standardised over the matrix before `exp(-cost / temperature)`; rows (codes) and columns (samples) are
    rescaled in turn to equal mass; the result is each sample's heaviest code. Large batches are solved in chunks of
    `max_rows` samples, which bounds the plan's memory.
    """
    assignments = []
    for part in z.split(max_rows):
        cost = squared_distances(part, codes)
        cost = (cost - cost.mean()) / (cost.std() + 1e-6)
        plan = torch.exp(-(cost - cost.min()) / temperature).t()
        plan = plan / plan.sum()
        for _ in range(iterations):
            plan = plan / (plan.sum(1, keepdim=True) * plan.shape[0] + 1e-12)
            plan = plan / (plan.sum(0, keepdim=True) * plan.shape[1] + 1e-12)
        assignments.append(plan.argmax(0))
    return torch.cat(assignments)


class SphericalVectorQuantizer(nn.Module):
    """Projects latents to the code space, quantises them on the sphere and projects back (as released by Cube 3D).

    Codes are `RMS(scale * E + shift)` with a learned per-dimension scale and shift. `shortcut` is the linear path that
    skips quantisation in training (never used in inference).
    """

    def __init__(self, config):
        super().__init__()
        self.eps = config.rms_norm_eps
        self.config = config
        self.in_proj = nn.Linear(config.hidden_size, config.code_dim)
        self.shortcut = nn.Linear(config.hidden_size, config.code_dim)
        self.out_proj = nn.Linear(config.code_dim, config.hidden_size)
        self.codebook = nn.Embedding(config.num_codes, config.code_dim)
        self.code_scale = nn.Parameter(torch.ones(config.code_dim))
        self.code_shift = nn.Parameter(torch.zeros(config.code_dim))
        # Unit gain of the family's state dict: frozen, kept so that its checkpoints load without a special case.
        self.norm_weight = nn.Parameter(torch.ones(config.code_dim), requires_grad=False)

    def codes(self) -> torch.Tensor:
        """The code book on the sphere, `(num_codes, code_dim)` float32."""
        scaled = self.code_scale.float() * self.codebook.weight.float() + self.code_shift.float()
        return rms_normalize(scaled, self.eps) * self.norm_weight.float()

    def project(self, hidden: torch.Tensor) -> torch.Tensor:
        """Latents on the sphere: `(..., hidden) -> (..., code_dim)` float32."""
        return rms_normalize(self.in_proj(hidden.to(self.in_proj.weight.dtype)), self.eps) * self.norm_weight.float()

    def encode(self, hidden: torch.Tensor) -> torch.Tensor:
        """Nearest code indices `(B, L)` of latents `(B, L, hidden)`."""
        z = self.project(hidden)
        return nearest_codes(z.flatten(0, -2), self.codes()).view(z.shape[:-1])

    def decode(self, indices: torch.Tensor) -> torch.Tensor:
        """Latents `(B, L, hidden)` of code indices `(B, L)`."""
        return self.out_proj(F.embedding(indices, self.codes()).to(self.out_proj.weight.dtype))

    @torch.no_grad()
    def initialize_from(self, z: torch.Tensor, generator: torch.Generator | None = None) -> None:
        """Starts the code book at `num_codes` rows drawn from projected latents `z (N, code_dim)`, slightly jittered."""
        rows = torch.randint(len(z), (self.codebook.num_embeddings,), generator=generator, device=z.device)
        jitter = torch.randn(len(rows), z.shape[1], generator=generator, device=z.device) * 0.05
        self.codebook.weight.copy_(z[rows].float() + jitter)
        self.code_scale.fill_(1.0)
        self.code_shift.zero_()

    def forward(self, hidden: torch.Tensor, quantize: bool = True):
        """Training path: `(B, L, hidden) -> (latents (B, L, hidden), loss, indices (B, L))`.

        `quantize=False` passes the projected latents through unquantised (warm-up before the code book starts).
        """
        # The quantiser stays in float32 when the model around it is loaded in half precision.
        hidden = hidden.to(self.in_proj.weight.dtype)
        z = self.project(hidden)
        if not quantize:
            return self.out_proj(z.to(hidden.dtype)), z.new_zeros(()), None
        codes = self.codes()
        flat = z.flatten(0, -2)
        with torch.no_grad():
            if self.training and self.config.vq_assignment == "optimal_transport":
                indices = sinkhorn_assignment(
                    flat, codes, self.config.sinkhorn_iterations, self.config.sinkhorn_temperature
                )
            else:
                indices = nearest_codes(flat, codes)
        quantized = F.embedding(indices, codes).view_as(z)
        loss = self.config.commitment_loss_weight * F.mse_loss(
            z, quantized.detach()
        ) + self.config.codebook_loss_weight * F.mse_loss(z.detach(), quantized)
        passed = z + (quantized - z).detach()
        if self.training and self.config.shortcut_probability > 0:
            skip = torch.rand(z.shape[0], 1, 1, device=z.device) < self.config.shortcut_probability
            passed = torch.where(skip, self.shortcut(hidden).float(), passed)
        return self.out_proj(passed.to(hidden.dtype)), loss, indices.view(z.shape[:-1])

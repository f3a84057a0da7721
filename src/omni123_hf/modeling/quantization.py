"""Spherical vector quantisation of the shape tokenizer (paper §4.2 "optimal-transport vector quantization").

Latents and codes are both RMS-normalised, so they lie on one sphere of radius sqrt(code_dim) and the nearest code is
well defined whatever the latents' scale. In training, codes are assigned by entropic optimal transport (Sinkhorn), which
spreads a batch over the whole code book; in inference the assignment is the plain nearest code.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import nn

from .offload import with_hooks


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


def is_distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def sum_over_ranks(x: torch.Tensor) -> torch.Tensor:
    if is_distributed():
        torch.distributed.all_reduce(x)
    return x


def logsumexp_over_ranks(x: torch.Tensor) -> torch.Tensor:
    """`log(sum(exp(x)))` over ranks, elementwise."""
    if not is_distributed():
        return x
    peak = x.clone()
    torch.distributed.all_reduce(peak, op=torch.distributed.ReduceOp.MAX)
    return peak + sum_over_ranks((x - peak).exp()).log()


def distance_deviation(z: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Standard deviation of the squared distances between all rows of `z` (of all ranks) and all `codes`.

    No pair is formed: a squared distance is the inner product of `[z, |z|², 1]` and `[-2c, 1, |c|²]`, and the two sides
    vary independently, so means and covariances of the sides give the variance. Divides by the number of pairs less one.
    """
    ones = torch.ones_like
    samples = torch.cat([z, z.pow(2).sum(-1, keepdim=True), ones(z[:, :1])], dim=-1)
    targets = torch.cat([-2 * codes, ones(codes[:, :1]), codes.pow(2).sum(-1, keepdim=True)], dim=-1)
    count = sum_over_ranks(z.new_tensor(len(z)))
    sample_mean = sum_over_ranks(samples.sum(0)) / count
    sample_covariance = sum_over_ranks((samples - sample_mean).t() @ (samples - sample_mean)) / count
    target_mean = targets.mean(0)
    target_covariance = (targets - target_mean).t() @ (targets - target_mean) / len(targets)
    variance = (
        target_mean @ sample_covariance @ target_mean
        + sample_mean @ target_covariance @ sample_mean
        + (sample_covariance * target_covariance).sum()
    )
    pairs = count * len(codes)
    return (variance.clamp_min(0) * pairs / (pairs - 1).clamp_min(1)).sqrt()


class TransportPlan:
    """Entropic optimal transport between samples and codes that holds `chunk * K` of the plan's entries at a time.

    OptVQ's assignment: costs (squared distances) are z-scored over the whole matrix and shifted to minimum 0, the plan
    starts as `exp(-cost / temperature)`, and code masses (1/K each) and sample masses (1/B each) are balanced in turn.
    The plan stays `start * code_factor * sample_factor` throughout, so two vectors describe it, and its entries are
    computed again whenever they are summed. Everything is in logarithms: far codes would underflow. A constant factor
    of the plan drops out in the first balancing, so mean and shift of the cost need not be known; only its deviation is.

    `samples (N, D)` are this rank's rows, `codes (K, D)` are equal on all ranks. Every rank must take part.
    """

    def __init__(self, samples: torch.Tensor, codes: torch.Tensor, temperature: float, chunk: int):
        self.samples, self.codes, self.chunk = samples, codes, chunk
        # All costs equal (one code, or a collapsed start): every assignment is as good, but none may be NaN.
        self.scale = temperature * distance_deviation(samples, codes).clamp_min(1e-6)
        self.log_code_factors: torch.Tensor | None = None

    def log_rows(self) -> Iterator[torch.Tensor]:
        """Logarithms of the plan's rows up to a constant, in chunks `(at most chunk, K)`; each row sums to 1/B once codes are balanced."""
        for part in self.samples.split(self.chunk):
            rows = squared_distances(part, self.codes).div_(-self.scale)
            if self.log_code_factors is not None:
                rows = rows.add_(self.log_code_factors).log_softmax(-1)
            yield rows

    def balance(self) -> None:
        """One iteration: equal code masses over the samples of all ranks, then (by `log_rows`) equal sample masses."""
        log_mass = self.codes.new_full((len(self.codes),), -torch.inf)
        for rows in self.log_rows():
            # `logsumexp` over the first axis, ten times faster than torch's own.
            peak = rows.amax(0)
            log_mass = torch.logaddexp(log_mass, peak + (rows - peak).exp_().sum(0).log_())
        log_mass = logsumexp_over_ranks(log_mass)
        self.log_code_factors = -log_mass if self.log_code_factors is None else self.log_code_factors - log_mass


@torch.no_grad()
def sinkhorn_assignment(
    z: torch.Tensor, codes: torch.Tensor, iterations: int, temperature: float, chunk: int = 2048
) -> torch.Tensor:
    """Each sample's heaviest code `(N,)` in a balanced plan of the rows of `z (N, D)` of all ranks to `codes (K, D)`.

    The result does not depend on `chunk`, which bounds memory: a few matrices of `chunk * K` entries.
    """
    with torch.autocast(z.device.type, enabled=False):
        plan = TransportPlan(z, codes, temperature, chunk)
        for _ in range(iterations):
            plan.balance()
        return torch.cat([rows.argmax(-1) for rows in plan.log_rows()])


class KeptInFloat32(nn.Module):
    """A module whose weights `.to(dtype)`, `.half()` and `.bfloat16()` of a model or pipeline leave in float32."""

    def _apply(self, fn, recurse=True):
        def in_float32(tensor: torch.Tensor) -> torch.Tensor:
            moved = fn(tensor)
            return tensor.to(moved.device) if moved.is_floating_point() and moved.dtype != torch.float32 else moved

        return super()._apply(in_float32, recurse)


class SphericalVectorQuantizer(KeptInFloat32):
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
        # Through the embedding's forward: weights that accelerate keeps on disk are there inside it only.
        table = self.codebook(torch.arange(self.codebook.num_embeddings, device=self.code_scale.device))
        scaled = self.code_scale.float() * table.float() + self.code_shift.float()
        return rms_normalize(scaled, self.eps) * self.norm_weight.float()

    def project(self, hidden: torch.Tensor) -> torch.Tensor:
        """Latents on the sphere: `(..., hidden) -> (..., code_dim)` float32."""
        return rms_normalize(self.in_proj(hidden.to(self.codebook.weight.dtype)), self.eps) * self.norm_weight.float()

    @with_hooks
    def encode(self, hidden: torch.Tensor) -> torch.Tensor:
        """Nearest code indices `(B, L)` of latents `(B, L, hidden)`."""
        z = self.project(hidden)
        return nearest_codes(z.flatten(0, -2), self.codes()).view(z.shape[:-1])

    @with_hooks
    def decode(self, indices: torch.Tensor) -> torch.Tensor:
        """Latents `(B, L, hidden)` of code indices `(B, L)`."""
        return self.out_proj(F.embedding(indices, self.codes()).to(self.codebook.weight.dtype))

    @torch.no_grad()
    def initialize_from(self, z: torch.Tensor, generator: torch.Generator | None = None) -> None:
        """Starts the code book at `num_codes` rows drawn from projected latents `z (N, code_dim)`, slightly jittered."""
        rows = torch.randint(len(z), (self.codebook.num_embeddings,), generator=generator, device=z.device)
        jitter = torch.randn(len(rows), z.shape[1], generator=generator, device=z.device) * 0.05
        self.codebook.weight.copy_(z[rows].float() + jitter)
        self.code_scale.fill_(1.0)
        self.code_shift.zero_()

    def warmup_idle_parameters(self) -> tuple[torch.Tensor, ...]:
        """What takes no part before the code book starts (the shortcut never does where its probability is 0)."""
        return self.codebook.weight, self.code_scale, self.code_shift, self.shortcut.weight, self.shortcut.bias

    def zero_of_idle_parameters(self) -> torch.Tensor:
        """Zero, with zero gradients: parallel training wants a gradient for every parameter."""
        return 0.0 * torch.stack([parameter.float().sum() for parameter in self.warmup_idle_parameters()]).sum()

    def assign(self, z: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        """Code indices `(N,)` of projected latents `z (N, code_dim)`: by transport in training, else the nearest."""
        if self.training and self.config.vq_assignment == "optimal_transport":
            return sinkhorn_assignment(z, codes, self.config.sinkhorn_iterations, self.config.sinkhorn_temperature)
        return nearest_codes(z, codes)

    def forward(
        self, hidden: torch.Tensor, quantize: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Training path: `(B, L, hidden) -> (latents (B, L, hidden), loss, indices (B, L))`.

        Each sample skips quantisation with `shortcut_probability`: its latents pass through the linear `shortcut`.
        `quantize=False` passes the projected latents through unquantised (warm-up before the code book starts) and
        gives None for the indices.
        """
        # The quantiser stays in float32 when the model around it is loaded in half precision.
        hidden = hidden.to(self.codebook.weight.dtype)
        z = self.project(hidden)
        loss = self.zero_of_idle_parameters() if self.training else z.new_zeros(())
        if not quantize:
            return self.out_proj(z.to(hidden.dtype)), loss, None
        codes = self.codes()
        with torch.no_grad():
            indices = self.assign(z.flatten(0, -2), codes).view(z.shape[:-1])
        quantized = F.embedding(indices, codes)
        commitment = F.mse_loss(z, quantized.detach())
        drift = F.mse_loss(z.detach(), quantized)
        loss = loss + self.config.commitment_loss_weight * commitment + self.config.codebook_loss_weight * drift
        passed = z + (quantized - z).detach()
        if self.training and self.config.shortcut_probability > 0:
            skip = torch.rand(z.shape[0], 1, 1, device=z.device) < self.config.shortcut_probability
            passed = torch.where(skip, self.shortcut(hidden).float(), passed)
        return self.out_proj(passed.to(hidden.dtype)), loss, indices

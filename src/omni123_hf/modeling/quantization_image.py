"""Cosine vector quantisation of the image tokenizer (paper §4.3; the L2-normalised quantiser of GigaTok).

Latents and codes are L2-normalised, so the nearest code is the one with the largest cosine. Guards against a collapsed
code book, which 65,536 codes of 64 dimensions invite: codes start at encoder outputs, a batch-entropy term spreads the
assignments, and codes that nobody uses move to fresh encoder outputs.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from ..errors import Omni123Error
from .offload import with_hooks
from .quantization import is_distributed


# Elements of the largest block of token-to-code cosines: 128 MB in float32. All cosines of 4,096 tokens with 65,536
# codes would take 1 GB, and the entropy term several times that.
MAX_COSINES = 2**25


@dataclass
class QuantizerOutput:
    """`quantized` has the shape of the input and passes gradients straight through; `indices` is None in warm-up."""

    quantized: torch.Tensor
    loss: torch.Tensor
    indices: torch.Tensor | None


def code_statistics(indices: torch.Tensor, num_codes: int) -> dict[str, float]:
    """Share of codes used (0..1) and perplexity (1..num_codes) of a set of indices of any shape."""
    counts = torch.bincount(indices.flatten(), minlength=num_codes).double()
    shares = counts / counts.sum().clamp_min(1)
    entropy = -(shares * shares.clamp_min(1e-30).log()).sum()
    return {"code_usage": (counts > 0).double().mean().item(), "perplexity": entropy.exp().item()}


def first_rank() -> bool:
    return not is_distributed() or torch.distributed.get_rank() == 0


def split_for_codes(tokens: torch.Tensor, num_codes: int, max_cosines: int) -> tuple[torch.Tensor, ...]:
    """Runs of `tokens (N, D)` whose cosines with all codes number at most `max_cosines` (but at least one token)."""
    return tokens.split(max(1, max_cosines // num_codes))


@torch.no_grad()
def nearest_codes(tokens: torch.Tensor, codes: torch.Tensor, max_cosines: int = MAX_COSINES) -> torch.Tensor:
    """Indices `(N,)` of the unit `codes (K, D)` nearest to `tokens (N, D)`, in float32 whatever autocast says."""
    with torch.autocast(tokens.device.type, enabled=False):
        parts = split_for_codes(tokens, len(codes), max_cosines)
        return torch.cat([(part @ codes.t()).argmax(-1) for part in parts])


def entropy_loss(
    tokens: torch.Tensor, codes: torch.Tensor, temperature: float, max_cosines: int = MAX_COSINES
) -> torch.Tensor:
    """Mean entropy of a token's soft assignment minus entropy of the mean assignment, of unit vectors.

    The soft assignment of a token is softmax(-distance² / temperature). Soft assignments are computed a block of
    `max_cosines` at a time, and again in the backward pass, so that no more than a few blocks exist at once.
    """

    def block_sums(part: torch.Tensor, codes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        # For unit vectors -|z - e|² is 2 cos - 2; softmax does not see the constant.
        log_shares = (2 * part @ codes.t() / temperature).log_softmax(-1)
        shares = log_shares.exp()
        return (shares * log_shares).sum(-1).sum(), shares.sum(0)

    parts = split_for_codes(tokens, len(codes), max_cosines)
    if len(parts) == 1:
        negative_entropy, total = block_sums(tokens, codes)
    else:
        negative_entropy, total = codes.new_zeros(()), codes.new_zeros(len(codes))
        for part in parts:
            block = checkpoint(block_sums, part, codes, use_reentrant=False, preserve_rng_state=False)
            negative_entropy, total = negative_entropy + block[0], total + block[1]
    mean = total / len(tokens)
    return -negative_entropy / len(tokens) + (mean * mean.clamp_min(1e-10).log()).sum()


def spherical_kmeans(
    points: torch.Tensor,
    count: int,
    iterations: int,
    generator: torch.Generator | None = None,
    max_cosines: int = MAX_COSINES,
) -> torch.Tensor:
    """`count` unit centres `(count, D)` of unit `points (N, D)`: random points, then Lloyd steps."""
    if len(points) >= count:
        chosen = torch.randperm(len(points), generator=generator, device=points.device)[:count]
        centres = points[chosen].clone()
    else:
        chosen = torch.randint(len(points), (count,), generator=generator, device=points.device)
        jitter = torch.randn(count, points.shape[1], generator=generator, device=points.device) * 0.1
        centres = F.normalize(points[chosen] + jitter, dim=-1)
    for _ in range(iterations):
        nearest = nearest_codes(points, centres, max_cosines)
        sums = torch.zeros_like(centres).index_add_(0, nearest, points)
        filled = torch.bincount(nearest, minlength=count) > 0
        centres = torch.where(filled[:, None], F.normalize(sums, dim=-1), centres)
    return centres


class CosineVectorQuantizer(nn.Module):
    """Nearest-cosine quantiser of `(..., code_dim)` tokens with `num_codes` learned codes.

    For `warmup_steps` training forwards tokens pass through merely normalised, because codes taken from an untrained
    encoder are worthless; then the code book starts at centres of the tokens seen last. `loss` is
    `codebook + commitment + entropy` with the given weights (codebook 1.0, commitment 0.25, entropy 0.005 in GigaTok).
    A code unused for `restart_after` training forwards moves to a random token of the batch (0: never). The entropy term
    looks at `entropy_tokens` random tokens of the batch; no block of cosines has more than `max_cosines` elements.

    A trainer has two duties. After a step's forwards it asks `take_moved_codes` for the codes that this module has moved,
    whose past in the optimiser is void; and a checkpoint within the warm-up needs `warmup_state`. On several ranks every
    decision and every draw that moves codes is rank 0's.
    """

    step: torch.Tensor
    started: torch.Tensor
    idle_steps: torch.Tensor

    def __init__(
        self,
        num_codes: int,
        code_dim: int,
        codebook_weight: float = 1.0,
        commitment_weight: float = 0.25,
        entropy_weight: float = 0.005,
        entropy_temperature: float = 0.01,
        entropy_tokens: int = 4096,
        restart_after: int = 2000,
        warmup_steps: int = 0,
        max_cosines: int = MAX_COSINES,
    ):
        super().__init__()
        self.num_codes = num_codes
        self.codebook_weight = codebook_weight
        self.commitment_weight = commitment_weight
        self.entropy_weight = entropy_weight
        self.entropy_temperature = entropy_temperature
        self.entropy_tokens = entropy_tokens
        self.restart_after = restart_after
        self.warmup_steps = warmup_steps
        self.max_cosines = max_cosines
        self.codebook = nn.Parameter(torch.empty(num_codes, code_dim))
        # Persistent: a resumed run must neither start its code book again nor forget which codes are idle.
        self.register_buffer("step", torch.zeros((), dtype=torch.long))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))
        self.register_buffer("idle_steps", torch.zeros(num_codes, dtype=torch.long))
        self._recent: list[torch.Tensor] = []
        self._moved: list[torch.Tensor] = []

    def _apply(self, fn, recurse=True):
        # `.to(dtype)` and `.half()` of a model or pipeline must not reach the codes: rounded ones have other neighbours.
        def in_float32(tensor: torch.Tensor) -> torch.Tensor:
            moved = fn(tensor)
            return tensor.to(moved.device) if moved.is_floating_point() and moved.dtype != torch.float32 else moved

        return super()._apply(in_float32, recurse)

    def codes(self) -> torch.Tensor:
        """Unit codes `(num_codes, code_dim)` in float32."""
        return F.normalize(self.codebook.float(), dim=-1)

    @with_hooks
    @torch.no_grad()
    def encode(self, tokens: torch.Tensor) -> torch.Tensor:
        """Indices `(...)` of `tokens (..., code_dim)`, whose length is irrelevant."""
        unit = F.normalize(tokens.float(), dim=-1)
        return nearest_codes(unit.flatten(0, -2), self.codes(), self.max_cosines).view(unit.shape[:-1])

    @with_hooks
    def decode(self, indices: torch.Tensor) -> torch.Tensor:
        """Unit codes `(..., code_dim)` float32 of integer indices `(...)`.

        Raises `Omni123Error` for other types and for indices outside the code book.
        """
        if not torch.is_tensor(indices) or indices.dtype == torch.bool or indices.is_floating_point():
            kind = indices.dtype if torch.is_tensor(indices) else type(indices).__name__
            raise Omni123Error(f"image token indices are of type {kind}: give an integer tensor as encode() does.")
        indices = indices.long()
        if not torch.compiler.is_compiling() and indices.numel():
            low, high = torch.stack(torch.aminmax(indices)).tolist()
            if low < 0 or high >= self.num_codes:
                raise Omni123Error(
                    f"image token indices span {low}..{high}, but the code book has {self.num_codes} codes: subtract the "
                    "vocabulary's image offset first."
                )
        return F.embedding(indices, self.codes())

    def forward(self, tokens: torch.Tensor) -> QuantizerOutput:
        """Quantises `tokens (..., code_dim)` in float32, whatever autocast says."""
        with torch.autocast(tokens.device.type, enabled=False):
            unit = F.normalize(tokens.float(), dim=-1)
            flat = unit.flatten(0, -2)
            if self.training and not self._ready(flat.detach()):
                # Zero, but tied to the code book: parallel training wants a gradient for every parameter.
                return QuantizerOutput(unit.to(tokens.dtype), self.codebook.sum() * 0.0, None)
            codes = self.codes()
            indices = nearest_codes(flat, codes, self.max_cosines)
            quantized = F.embedding(indices, codes)
            loss = self.codebook_weight * F.mse_loss(quantized, flat.detach())
            loss = loss + self.commitment_weight * F.mse_loss(flat, quantized.detach())
            if self.training and self.entropy_weight > 0:
                loss = loss + self.entropy_weight * self._sampled_entropy_loss(flat, codes)
            passed = flat + (quantized - flat).detach()
            if self.training and self.restart_after > 0:
                self._restart_idle_codes(flat.detach(), indices)
            return QuantizerOutput(passed.view(unit.shape).to(tokens.dtype), loss, indices.view(unit.shape[:-1]))

    def _sampled_entropy_loss(self, flat: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        if len(flat) > self.entropy_tokens:
            flat = flat[torch.randperm(len(flat), device=flat.device)[: self.entropy_tokens]]
        return entropy_loss(flat, codes, self.entropy_temperature, self.max_cosines)

    @torch.no_grad()
    def _ready(self, flat: torch.Tensor) -> bool:
        """Counts warm-up steps; at their end starts the code book from the last tokens. False in warm-up."""
        if bool(self.started):
            return True
        self.step += 1
        self._recent.append(flat)
        while len(self._recent) > 1 and sum(map(len, self._recent[1:])) >= 4 * self.num_codes:
            self._recent.pop(0)
        if int(self.step) < self.warmup_steps:
            return False
        if first_rank():
            points = torch.cat(self._recent)
            self.codebook.copy_(spherical_kmeans(points, self.num_codes, iterations=5, max_cosines=self.max_cosines))
        self._recent = []
        self._same_on_all_ranks()
        self._moved.append(torch.arange(self.num_codes, device=flat.device))
        self.started.fill_(True)
        return True

    def warmup_state(self) -> dict[str, torch.Tensor]:
        """Tokens that the warm-up has kept, one tensor a forward; empty outside the warm-up."""
        return {f"{number:04d}": tokens for number, tokens in enumerate(self._recent)}

    def load_warmup_state(self, state: dict[str, torch.Tensor]) -> None:
        self._recent = [state[name].to(self.codebook.device) for name in sorted(state)]

    def take_moved_codes(self) -> torch.Tensor:
        """Indices of the codes that were started or restarted since the last call (all of them at the start)."""
        moved = torch.cat(self._moved).unique() if self._moved else self.idle_steps.new_empty(0)
        self._moved = []
        return moved

    @torch.no_grad()
    def _restart_idle_codes(self, flat: torch.Tensor, indices: torch.Tensor) -> None:
        used = torch.bincount(indices, minlength=self.num_codes)
        if is_distributed():
            torch.distributed.all_reduce(used)
        self.idle_steps.copy_(torch.where(used > 0, torch.zeros_like(self.idle_steps), self.idle_steps + 1))
        dead = (self.idle_steps >= self.restart_after).nonzero().flatten()
        if len(dead) == 0:
            return
        if first_rank():
            # By distance from their codes: drawn evenly, codes would join those that the many equal tokens (a plain
            # background) have already, and idle again.
            distances = (1 - (flat * F.embedding(indices, self.codes())).sum(-1)).clamp_min(1e-8)
            rows = torch.multinomial(distances, len(dead), replacement=len(dead) > len(flat))
            jitter = torch.randn(len(dead), flat.shape[1], device=flat.device) * 0.02
            # Written through `.data`: backward of this very step still needs the graph that was built on the old codes.
            self.codebook.data[dead] = (flat[rows] + jitter).to(self.codebook.dtype)
        self.idle_steps[dead] = 0
        self._same_on_all_ranks()
        self._moved.append(dead)

    def _same_on_all_ranks(self) -> None:
        """Copies rank 0's code book: parallel training equalises gradients, and these writes are none."""
        if is_distributed():
            torch.distributed.broadcast(self.codebook.data, 0)

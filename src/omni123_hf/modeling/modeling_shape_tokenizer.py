"""The shape tokenizer: surface points to discrete 1D tokens and back to an occupancy field (paper §4.2).

Choices: phase-modulated embedding of positions (normals enter as they are); a Perceiver encoder whose cross-attention
layers replace self-attention layers; row 0 of the learned queries is a class token, dropped before quantisation; a
spherical vector quantiser; a self-attention decoder over latents; an occupancy head that reads the latents once per
query point. Logit level 0 is the surface, positive is inside.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from .configuration_shape_tokenizer import Omni123ShapeTokenizerConfig
from .quantization import SphericalVectorQuantizer, rms_normalize


@dataclass
class Omni123ShapeTokenizerOutput(ModelOutput):
    """`loss` = occupancy BCE + quantiser loss; `logits (B, Q)`; `indices (B, L)`, None while the quantiser is off."""

    loss: torch.Tensor | None = None
    occupancy_loss: torch.Tensor | None = None
    quantizer_loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    indices: torch.Tensor | None = None


class PhaseModulatedEmbedding(nn.Module):
    """Embeds positions `(..., 3)` as `[x | cos fm + cos pm | sin fm + sin pm]`, width `3 + 6 L` (paper §4.2; Cube 3D)."""

    def __init__(self, num_frequencies: int):
        super().__init__()
        self.num_frequencies = num_frequencies
        self.weight = nn.Parameter(torch.empty(3, num_frequencies))

    @property
    def width(self) -> int:
        return 3 + 6 * self.num_frequencies

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.float()
        # The carrier is computed on the fly: a non-persistent buffer would hold garbage after a meta-device load.
        t = torch.linspace(0, 1, self.num_frequencies, device=x.device)
        carrier = 2 * math.pi * ((self.num_frequencies / 8) ** (1 - t) + t)
        frequency = (x[..., None] * self.weight.float()).flatten(-2)
        phase = (x[..., None] * (math.pi / 2) + carrier).flatten(-2)
        return torch.cat([x, frequency.cos() + phase.cos(), frequency.sin() + phase.sin()], dim=-1)


class PointProjection(nn.Module):
    """Two-layer SiLU MLP from embedded points to the width of the model."""

    def __init__(self, in_features: int, hidden_size: int):
        super().__init__()
        self.in_layer = nn.Linear(in_features, hidden_size)
        self.out_layer = nn.Linear(hidden_size, hidden_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out_layer(F.silu(self.in_layer(x)))


class HeadRMSNorm(nn.Module):
    """RMSNorm over the channels of one attention head."""

    def __init__(self, head_dim: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(head_dim))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (rms_normalize(x, self.eps) * self.weight.float()).to(x.dtype)


def split_heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


class FeedForward(nn.Module):
    def __init__(self, config: Omni123ShapeTokenizerConfig):
        super().__init__()
        inner = int(config.hidden_size * config.mlp_ratio)
        self.up_proj = nn.Linear(config.hidden_size, inner)
        self.down_proj = nn.Linear(inner, config.hidden_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(F.gelu(self.up_proj(x)))


class SelfAttentionLayer(nn.Module):
    """Pre-norm self-attention with per-head RMSNorm on q and k, then an MLP."""

    def __init__(self, config: Omni123ShapeTokenizerConfig):
        super().__init__()
        self.heads = config.num_attention_heads
        self.eps = config.layer_norm_eps
        self.qk_proj = nn.Linear(config.hidden_size, 2 * config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size)
        head_dim = config.hidden_size // config.num_attention_heads
        self.q_norm = HeadRMSNorm(head_dim, config.rms_norm_eps)
        self.k_norm = HeadRMSNorm(head_dim, config.rms_norm_eps)
        self.mlp = FeedForward(config)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normed = F.layer_norm(x, x.shape[-1:], eps=self.eps)
        q, k = self.qk_proj(normed).chunk(2, dim=-1)
        q, k = self.q_norm(split_heads(q, self.heads)), self.k_norm(split_heads(k, self.heads))
        attended = F.scaled_dot_product_attention(q, k, split_heads(self.v_proj(normed), self.heads))
        x = x + self.o_proj(attended.transpose(1, 2).flatten(-2))
        return x + self.mlp(F.layer_norm(x, x.shape[-1:], eps=self.eps))


class CrossAttentionLayer(nn.Module):
    """Pre-norm cross-attention from `x` to a memory (both normalised, no q/k norm), then an MLP."""

    def __init__(self, config: Omni123ShapeTokenizerConfig):
        super().__init__()
        self.heads = config.num_attention_heads
        self.eps = config.layer_norm_eps
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.mlp = FeedForward(config)

    def project_memory(self, memory: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of a memory `(B, M, hidden)`, reusable for any number of query chunks."""
        memory = F.layer_norm(memory, memory.shape[-1:], eps=self.eps)
        return split_heads(self.k_proj(memory), self.heads), split_heads(self.v_proj(memory), self.heads)

    def forward(self, x: torch.Tensor, memory: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        q = split_heads(self.q_proj(F.layer_norm(x, x.shape[-1:], eps=self.eps)), self.heads)
        attended = F.scaled_dot_product_attention(q, *memory)
        x = x + self.o_proj(attended.transpose(1, 2).flatten(-2))
        return x + self.mlp(F.layer_norm(x, x.shape[-1:], eps=self.eps))


class PerceiverEncoder(nn.Module):
    """Learned queries read embedded points; returns `(B, 1 + num_latents, hidden)` with the class token first."""

    def __init__(self, config: Omni123ShapeTokenizerConfig, point_width: int):
        super().__init__()
        self.query = nn.Parameter(torch.empty(1 + config.num_latents, config.hidden_size))
        self.point_proj = PointProjection(point_width + config.num_normal_features, config.hidden_size)
        self.layers = nn.ModuleList(
            CrossAttentionLayer(config) if i in config.encoder_cross_attention_layers else SelfAttentionLayer(config)
            for i in range(config.num_encoder_layers)
        )
        self.final_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, embedded_points: torch.Tensor, normals: torch.Tensor) -> torch.Tensor:
        dtype = self.point_proj.in_layer.weight.dtype
        points = self.point_proj(torch.cat([embedded_points, normals.float()], dim=-1).to(dtype))
        x = self.query.expand(len(points), -1, -1)
        for layer in self.layers:
            x = layer(x, layer.project_memory(points)) if isinstance(layer, CrossAttentionLayer) else layer(x)
        return self.final_norm(x)


class LatentDecoder(nn.Module):
    """Self-attention over quantised latents with learned positions."""

    def __init__(self, config: Omni123ShapeTokenizerConfig):
        super().__init__()
        self.position_embedding = nn.Parameter(torch.empty(config.num_latents, config.hidden_size))
        self.layers = nn.ModuleList(SelfAttentionLayer(config) for _ in range(config.num_decoder_layers))

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        x = latents.to(self.position_embedding.dtype) + self.position_embedding
        for layer in self.layers:
            x = layer(x)
        return x


class OccupancyHead(nn.Module):
    """One cross-attention from embedded query points to the latents, then one logit a point."""

    def __init__(self, config: Omni123ShapeTokenizerConfig, point_width: int):
        super().__init__()
        self.query_proj = PointProjection(point_width, config.hidden_size)
        self.attention = CrossAttentionLayer(config)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.classifier = nn.Linear(config.hidden_size, 1)

    def forward(self, embedded_queries: torch.Tensor, memory: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        x = self.query_proj(embedded_queries.to(self.classifier.weight.dtype))
        return self.classifier(self.norm(self.attention(x, memory))).squeeze(-1).float()


class Omni123ShapeTokenizer(PreTrainedModel):
    """Surface points with normals ↔ `num_latents` discrete shape tokens ↔ occupancy field (paper §4.2).

    Points are in the asset frame: y up, longest side 1.92, centred; queries in the box ±1.05.
    """

    config: Omni123ShapeTokenizerConfig
    main_input_name = "points"
    _no_split_modules = ["SelfAttentionLayer", "CrossAttentionLayer"]
    _supports_sdpa = True
    _keep_in_fp32_modules_strict = ["point_embedding", "quantizer"]

    def __init__(self, config: Omni123ShapeTokenizerConfig):
        super().__init__(config)
        self.point_embedding = PhaseModulatedEmbedding(config.num_frequencies)
        self.encoder = PerceiverEncoder(config, self.point_embedding.width)
        self.quantizer = SphericalVectorQuantizer(config)
        self.decoder = LatentDecoder(config)
        self.occupancy_head = OccupancyHead(config, self.point_embedding.width)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        # std 1/sqrt(fan-in), then residual branches scaled by depth (as released by Cube 3D).
        depth = max(self.config.num_encoder_layers, self.config.num_decoder_layers)
        if isinstance(module, nn.Linear):
            init.normal_(module.weight, std=module.in_features**-0.5)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, HeadRMSNorm):
            init.ones_(module.weight)
        elif isinstance(module, PhaseModulatedEmbedding):
            init.normal_(module.weight, std=math.sqrt(0.5 * module.num_frequencies))
        elif isinstance(module, SphericalVectorQuantizer):
            init.normal_(module.codebook.weight, std=self.config.code_scale_init)
            init.ones_(module.code_scale)
            init.zeros_(module.code_shift)
            init.ones_(module.norm_weight)
        elif isinstance(module, PerceiverEncoder):
            init.uniform_(module.query, -1.0, 1.0)
        elif isinstance(module, LatentDecoder):
            init.normal_(module.position_embedding, std=0.02)
        if isinstance(module, (SelfAttentionLayer, CrossAttentionLayer)):
            branch = (4 * depth) ** -0.25
            for linear, scale in (
                (module.o_proj, branch),
                (module.mlp.up_proj, branch),
                (module.mlp.down_proj, branch),
                (module.v_proj, math.sqrt(2) * branch),
            ):
                init.normal_(linear.weight, std=linear.in_features**-0.5 * scale)

    def check_points(self, points: torch.Tensor, normals: torch.Tensor) -> None:
        """Raises `ValueError` for inputs that the encoder would turn into plausible nonsense."""
        if points.ndim != 3 or points.shape[-1] != 3 or normals.shape != points.shape:
            raise ValueError(
                f"points and normals must both be (B, N, 3); got {tuple(points.shape)} and {tuple(normals.shape)}."
            )
        if not (torch.isfinite(points).all() and torch.isfinite(normals).all()):
            raise ValueError("points or normals contain NaN or infinity: clean the mesh before sampling it.")
        if points.abs().max() > 1.05:
            raise ValueError(
                "points lie outside the box ±1.05: normalise the mesh first (longest side 1.92, centred)."
            )

    def encode_latents(self, points: torch.Tensor, normals: torch.Tensor) -> torch.Tensor:
        """Continuous latents `(B, num_latents, hidden)` of surface points and unit normals `(B, N, 3)`."""
        return self.encoder(self.point_embedding(points), normals)[:, 1:]

    def encode(self, points: torch.Tensor, normals: torch.Tensor) -> torch.Tensor:
        """Shape tokens `(B, num_latents)` int64 of surface points and unit normals `(B, N, 3)`.

        Raises `ValueError` for wrong shapes, non-finite values, or points outside ±1.05.
        """
        self.check_points(points, normals)
        return self.quantizer.encode(self.encode_latents(points, normals))

    def decode_latents(self, indices: torch.Tensor) -> torch.Tensor:
        """Decoded latents `(B, num_latents, hidden)` of shape tokens `(B, num_latents)`.

        Raises `ValueError` for another shape and for code ids out of range.
        """
        if indices.ndim != 2 or indices.shape[1] != self.config.num_latents:
            raise ValueError(
                f"shape tokens have shape {tuple(indices.shape)}: give (B, {self.config.num_latents}) as encode() does."
            )
        if indices.min() < 0 or indices.max() >= self.config.num_codes:
            raise ValueError(
                f"shape tokens must be in [0, {self.config.num_codes}); got {int(indices.min())}..{int(indices.max())}."
            )
        return self.decoder(self.quantizer.decode(indices))

    def project_latents(self, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values that the occupancy head reads: compute once, query many times."""
        return self.occupancy_head.attention.project_memory(latents)

    def query(self, latents: torch.Tensor | tuple[torch.Tensor, torch.Tensor], queries: torch.Tensor) -> torch.Tensor:
        """Occupancy logits `(B, Q)` at `queries (B, Q, 3)`; positive is inside.

        `latents` are decoded latents `(B, L, hidden)` or the result of `project_latents`.
        """
        memory = latents if isinstance(latents, tuple) else self.project_latents(latents)
        return self.occupancy_head(self.point_embedding(queries), memory)

    def forward(
        self,
        points: torch.Tensor,
        normals: torch.Tensor,
        queries: torch.Tensor,
        occupancy: torch.Tensor | None = None,
        quantize: bool = True,
    ) -> Omni123ShapeTokenizerOutput:
        """Autoencodes. `points`, `normals (B, N, 3)`, `queries (B, Q, 3)`, `occupancy (B, Q)` in {0, 1}.

        `quantize=False` leaves the code book out (warm-up).
        """
        hidden = self.encode_latents(points, normals)
        latents, quantizer_loss, indices = self.quantizer(hidden, quantize=quantize)
        logits = self.query(self.decoder(latents), queries)
        loss = occupancy_loss = None
        if occupancy is not None:
            occupancy_loss = F.binary_cross_entropy_with_logits(logits, occupancy.to(logits.dtype))
            loss = occupancy_loss + quantizer_loss
        return Omni123ShapeTokenizerOutput(
            loss=loss,
            occupancy_loss=None if occupancy_loss is None else occupancy_loss.detach(),
            quantizer_loss=quantizer_loss.detach(),
            logits=logits,
            indices=indices,
        )

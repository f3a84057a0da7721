"""The shape tokenizer: surface points to discrete 1D tokens and back to an occupancy field (paper §4.2).

Choices: phase-modulated embedding of positions (normals enter as they are); a Perceiver encoder whose cross-attention
layers replace self-attention layers; row 0 of the learned queries is a class token, dropped before quantisation; a
spherical vector quantiser; a self-attention decoder over latents; an occupancy head that reads the latents once per
query point. Logit level 0 is the surface, positive is inside; trained on truncated signed distances, the same head gives
distances, positive inside as well.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from ..errors import Omni123Error
from .checks_shape import check_codes, check_labels, check_latents, check_queries, check_surface
from .configuration_shape_tokenizer import Omni123ShapeTokenizerConfig
from .losses_shape import eikonal_loss, latent_alignment_loss, occupancy_loss, truncated_distance_loss
from .offload import OffloadableMixin, with_hooks
from .quantization import KeptInFloat32, SphericalVectorQuantizer, rms_normalize


if TYPE_CHECKING:
    from .self_distillation_shape import ShapeSelfDistillation


@dataclass
class Omni123ShapeTokenizerOutput(ModelOutput):
    """Output of `Omni123ShapeTokenizer.forward`. A loss that was not computed is None; only `loss` has a gradient.

    `loss`: `field_loss` + `quantizer_loss` + the others, each times its weight in the configuration; None without labels.
    `field_loss`: `occupancy_loss` (cross-entropy), or with `field_target` "tsdf" the truncated distance's absolute error
    in units of the truncation, in which case `occupancy_loss` is None.
    `quantizer_loss`: code book and commitment terms, weighted.
    `eikonal_loss`, `latent_alignment_loss`, `self_distillation_loss`: before their weights.
    `logits (B, Q)`: the field, positive inside. `indices (B, L)`: codes, None while the quantiser is off.
    """

    loss: torch.Tensor | None = None
    occupancy_loss: torch.Tensor | None = None
    quantizer_loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    indices: torch.Tensor | None = None
    field_loss: torch.Tensor | None = None
    eikonal_loss: torch.Tensor | None = None
    latent_alignment_loss: torch.Tensor | None = None
    self_distillation_loss: torch.Tensor | None = None


class PhaseModulatedEmbedding(KeptInFloat32):
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


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, implementation: str | None) -> torch.Tensor:
    """Attention of `(B, heads, N, D)` over `(B, heads, M, D)`, as `(B, N, heads * D)`; "eager" or "sdpa"."""
    if implementation == "eager":
        mixed = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1) @ v
    else:
        mixed = F.scaled_dot_product_attention(q, k, v)
    return mixed.transpose(1, 2).flatten(-2)


class FeedForward(nn.Module):
    def __init__(self, config: Omni123ShapeTokenizerConfig):
        super().__init__()
        inner = int(config.hidden_size * config.mlp_ratio)
        self.up_proj = nn.Linear(config.hidden_size, inner)
        self.down_proj = nn.Linear(inner, config.hidden_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(F.gelu(self.up_proj(x)))


class SelfAttentionLayer(GradientCheckpointingLayer):
    """Pre-norm self-attention with per-head RMSNorm on q and k, then an MLP."""

    def __init__(self, config: Omni123ShapeTokenizerConfig):
        super().__init__()
        self.config = config
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
        v = split_heads(self.v_proj(normed), self.heads)
        x = x + self.o_proj(attention(q, k, v, self.config._attn_implementation))
        return x + self.mlp(F.layer_norm(x, x.shape[-1:], eps=self.eps))


class CrossAttentionLayer(GradientCheckpointingLayer):
    """Pre-norm cross-attention from `x` to a memory `(B, M, hidden)` (both normalised, no q/k norm), then an MLP."""

    def __init__(self, config: Omni123ShapeTokenizerConfig):
        super().__init__()
        self.config = config
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

    def attend(self, x: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """The layer over a projected memory."""
        q = split_heads(self.q_proj(F.layer_norm(x, x.shape[-1:], eps=self.eps)), self.heads)
        x = x + self.o_proj(attention(q, keys, values, self.config._attn_implementation))
        return x + self.mlp(F.layer_norm(x, x.shape[-1:], eps=self.eps))

    def forward(self, x: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
        return self.attend(x, *self.project_memory(memory))


class PerceiverEncoder(nn.Module):
    """Learned queries read embedded points; returns `(B, 1 + num_latents, hidden)` with the class token first.

    `queries (B, M, hidden)` stand in for the learned ones (self-distillation leaves some out).
    """

    def __init__(self, config: Omni123ShapeTokenizerConfig, point_width: int):
        super().__init__()
        self.query = nn.Parameter(torch.empty(1 + config.num_latents, config.hidden_size))
        self.point_proj = PointProjection(point_width + config.num_normal_features, config.hidden_size)
        self.layers = nn.ModuleList(
            CrossAttentionLayer(config) if i in config.encoder_cross_attention_layers else SelfAttentionLayer(config)
            for i in range(config.num_encoder_layers)
        )
        self.final_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(
        self, embedded_points: torch.Tensor, normals: torch.Tensor, queries: torch.Tensor | None = None
    ) -> torch.Tensor:
        # Types are read from parameters that are no linear weights: those may be quantised to whole numbers.
        points = self.point_proj(torch.cat([embedded_points, normals.float()], dim=-1).to(self.query.dtype))
        x = self.query.expand(len(points), -1, -1) if queries is None else queries
        for layer in self.layers:
            x = layer(x, points) if isinstance(layer, CrossAttentionLayer) else layer(x)
        return self.final_norm(x)


class LatentDecoder(nn.Module):
    """Self-attention over quantised latents with learned positions; returns the result and the last layer's input.

    Fewer latents than positions are the first ones (previews of a shape whose codes are not all there yet).
    """

    def __init__(self, config: Omni123ShapeTokenizerConfig):
        super().__init__()
        self.position_embedding = nn.Parameter(torch.empty(config.num_latents, config.hidden_size))
        self.layers = nn.ModuleList(SelfAttentionLayer(config) for _ in range(config.num_decoder_layers))

    def forward(self, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = latents.to(self.position_embedding.dtype) + self.position_embedding[: latents.shape[1]]
        for layer in self.layers[:-1]:
            x = layer(x)
        return self.layers[-1](x), x


class OccupancyHead(nn.Module):
    """One cross-attention from embedded query points to the latents, then one value a point: a logit, or a distance.

    The memory is latents `(B, L, hidden)`, or their keys and values, which are then not checkpointed.
    """

    def __init__(self, config: Omni123ShapeTokenizerConfig, point_width: int):
        super().__init__()
        self.query_proj = PointProjection(point_width, config.hidden_size)
        self.attention = CrossAttentionLayer(config)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.classifier = nn.Linear(config.hidden_size, 1)

    def forward(
        self, embedded_queries: torch.Tensor, memory: torch.Tensor | tuple[torch.Tensor, torch.Tensor]
    ) -> torch.Tensor:
        return self.read(self.query_proj(embedded_queries.to(self.norm.weight.dtype)), memory)

    def read(self, x: torch.Tensor, memory: torch.Tensor | tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """Values `(B, Q)` of projected queries `(B, Q, hidden)`."""
        x = self.attention.attend(x, *memory) if isinstance(memory, tuple) else self.attention(x, memory)
        return self.classifier(self.norm(x)).squeeze(-1).float()


class Omni123ShapeTokenizer(OffloadableMixin, PreTrainedModel):
    """Surface points with normals ↔ `num_latents` discrete shape tokens ↔ occupancy field (paper §4.2).

    Points are in the asset frame: y up, longest side 1.92, centred; queries in the box ±1.05.
    """

    config: Omni123ShapeTokenizerConfig
    main_input_name = "points"
    _no_split_modules = ["SelfAttentionLayer", "CrossAttentionLayer"]
    _supports_sdpa = True
    supports_gradient_checkpointing = True
    _keep_in_fp32_modules_strict = ["point_embedding", "quantizer"]
    # The same again: this one also keeps them out of int8 and 4-bit loading.
    _keep_in_fp32_modules = ["point_embedding", "quantizer"]

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
            # Rows sorted by their distance to the class token's, as in Cube 3D.
            query = torch.empty_like(module.query).uniform_(-1.0, 1.0)
            init.copy_(module.query, query[(query - query[0]).norm(dim=-1).argsort()])
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

    @property
    def dtype(self) -> torch.dtype:
        """That of the layers, under which weights are saved; point embedding and quantiser are always float32."""
        return self.encoder.query.dtype

    def get_input_embeddings(self) -> None:  # type: ignore[override]
        """None: the inputs are points, and the code book is no vocabulary to resize."""

    @with_hooks
    def encode_latents(self, points: torch.Tensor, normals: torch.Tensor) -> torch.Tensor:
        """Continuous latents `(B, num_latents, hidden)` of surface points and unit normals `(B, N, 3)`.

        Raises `Omni123Error` for wrong shapes, no points, values that are not finite, points outside ±1.05, and
        normals whose length is not 1 within 5 %.
        """
        check_surface(points, normals)
        return self.encoder(self.point_embedding(points), normals)[:, 1:]

    @with_hooks
    @torch.no_grad()
    def encode(self, points: torch.Tensor, normals: torch.Tensor) -> torch.Tensor:
        """Shape tokens `(B, num_latents)` int64 of surface points and unit normals `(B, N, 3)`: the nearest codes.

        Raises `Omni123Error` as `encode_latents` does.
        """
        return self.quantizer.encode(self.encode_latents(points, normals))

    @with_hooks
    def decode_latents(self, indices: torch.Tensor) -> torch.Tensor:
        """Decoded latents `(B, num_latents, hidden)` of shape tokens `(B, num_latents)`, whole numbers of any width.

        Raises `Omni123Error` for another shape or type and for code ids out of range.
        """
        check_codes(indices, self.config.num_latents, self.config.num_codes)
        return self.decode_vectors(self.embed_codes(indices))

    @with_hooks
    def embed_codes(self, indices: torch.Tensor) -> torch.Tensor:
        """Quantised vectors `(B, n, hidden)` of codes `(B, n)`, of any number of them."""
        return self.quantizer.decode(indices.long())

    @with_hooks
    def decode_vectors(self, vectors: torch.Tensor) -> torch.Tensor:
        """Decoded latents of quantised vectors `(B, n, hidden)`: those of a shape, or the first n of them (previews)."""
        return self.decoder(vectors)[0]

    @with_hooks
    def project_latents(self, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values that the occupancy head reads of latents `(B, L, hidden)`: compute once, query many times."""
        check_latents(latents, self.config.hidden_size)
        return self.occupancy_head.attention.project_memory(latents.to(self.occupancy_head.norm.weight.dtype))

    @with_hooks
    def query(self, latents: torch.Tensor | tuple[torch.Tensor, torch.Tensor], queries: torch.Tensor) -> torch.Tensor:
        """The field `(B, Q)` at `queries (B, Q, 3)`, positive inside: occupancy logits, or distances / truncation.

        `latents` are decoded latents `(B, L, hidden)` or the result of `project_latents`. Queries may lie outside ±1.05,
        where the answer has no meaning. Raises `Omni123Error` for other shapes and for queries that are not finite.
        """
        memory = latents if isinstance(latents, tuple) else self.project_latents(latents)
        check_queries(queries, len(memory[0]), "the latents")
        return self.occupancy_head(self.point_embedding(queries), memory)

    @can_return_tuple
    def forward(
        self,
        points: torch.Tensor,
        normals: torch.Tensor,
        queries: torch.Tensor,
        occupancy: torch.Tensor | None = None,
        quantize: bool = True,
        signed_distance: torch.Tensor | None = None,
        self_distillation: "ShapeSelfDistillation | None" = None,
    ) -> Omni123ShapeTokenizerOutput:
        """Autoencodes surface `points` and unit `normals (B, N, 3)` into the field at `queries (B, Q, 3)`.

        The label of the configuration's `field_target` gives a loss: `occupancy (B, Q)` in [0, 1], or for "tsdf"
        `signed_distance (B, Q)` in asset units, positive inside. Without it there is none. `quantize=False` leaves the
        code book out (warm-up). `self_distillation` adds its loss to the label's. The eikonal term needs gradients: under
        `no_grad` it is left out.

        Raises `Omni123Error` for the label of the other target and for input that `encode` or `query` refuses.
        """
        check_surface(points, normals)
        check_queries(queries, len(points), "the points")
        label = self.check_label(queries, occupancy, signed_distance)
        hidden = self.encoder(self.point_embedding(points), normals)[:, 1:]
        quantized, quantizer_loss, indices = self.quantizer(hidden, quantize=quantize)
        latents, before_last_layer = self.decoder(quantized)
        logits = self.occupancy_head(self.point_embedding(queries), latents)
        losses: dict[str, torch.Tensor] = {}
        if label is not None:
            losses = self.field_losses(logits, latents, queries, label)
            if self.config.latent_alignment_loss_weight > 0:
                losses["latent_alignment_loss"] = latent_alignment_loss(quantized, before_last_layer)
            if self_distillation is not None:
                losses["self_distillation_loss"] = self_distillation.loss(self, points, normals)
        elif self_distillation is not None:
            raise Omni123Error("self_distillation adds to the loss of a label: give occupancy or signed_distance.")
        weights = {
            "field_loss": 1.0,
            "eikonal_loss": self.config.eikonal_loss_weight,
            "latent_alignment_loss": self.config.latent_alignment_loss_weight,
            "self_distillation_loss": self.config.ssl_loss_weight,
        }
        weighted = [weight * losses[name] for name, weight in weights.items() if name in losses]
        return Omni123ShapeTokenizerOutput(
            loss=sum(weighted, quantizer_loss) if label is not None else None,
            quantizer_loss=quantizer_loss.detach(),
            logits=logits,
            indices=indices,
            **{name: value.detach() for name, value in losses.items()},
        )

    def check_label(
        self, queries: torch.Tensor, occupancy: torch.Tensor | None, signed_distance: torch.Tensor | None
    ) -> torch.Tensor | None:
        """The label of the configured `field_target`, None without one. Raises `Omni123Error` for a bad one or another."""
        if self.config.field_target == "occupancy":
            if signed_distance is not None:
                raise Omni123Error("field_target is 'occupancy': give occupancy in place of signed_distance.")
            if occupancy is not None:
                check_labels("occupancy", occupancy, queries, bounds=(0.0, 1.0))
            return occupancy
        if occupancy is not None:
            raise Omni123Error("field_target is 'tsdf': give signed_distance (positive inside) in place of occupancy.")
        if signed_distance is not None:
            check_labels("signed_distance", signed_distance, queries)
        return signed_distance

    def field_losses(
        self, field: torch.Tensor, latents: torch.Tensor, queries: torch.Tensor, label: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Losses of the predicted `field (B, Q)` under their names in the output; `label (B, Q)` is the target's."""
        config = self.config
        if config.field_target == "occupancy":
            loss = occupancy_loss(field, label)
            return {"field_loss": loss, "occupancy_loss": loss}
        losses = {"field_loss": truncated_distance_loss(field, label, config.tsdf_truncation)}
        if config.eikonal_loss_weight > 0 and torch.is_grad_enabled():
            if queries.shape[1] > config.eikonal_points:
                # Uniform and near-surface queries stand one after the other: a random choice takes from both.
                chosen = torch.randperm(queries.shape[1], device=queries.device)[: config.eikonal_points]
                queries, label = queries[:, chosen], label[:, chosen]

            def field_at(points: torch.Tensor) -> torch.Tensor:
                return self.occupancy_head(self.point_embedding(points), self.project_latents(latents))

            losses["eikonal_loss"] = eikonal_loss(field_at, queries, label, config.tsdf_truncation)
        return losses

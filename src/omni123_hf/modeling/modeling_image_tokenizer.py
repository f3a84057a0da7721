"""The image tokenizer: the VAE's 2D latent to a 1D sequence of discrete tokens and back (paper §4.3 stage II).

Choices, after GigaTok: encoder queries are average pools of the latent at doubling resolutions, coarse to fine; layers
are pre-norm DETR decoder layers (self-attention, cross-attention, MLP) in which positions are added to queries and
keys only, again in every layer; decoder queries are copies of 1D token 0 that differ by their 2D position. Nothing is
causal: the order that the language model learns comes from the pooling. 2D positions are sine features of normalised
coordinates with a learned projection, so that 256² and 512² images share weights and token meaning.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from ..errors import Omni123Error
from .attention_image import QFormerAttention
from .checks_image import check_grid, check_latent
from .configuration_image_tokenizer import Omni123ImageTokenizerConfig
from .modeling_image_vae import patch_centres
from .offload import OffloadableMixin, with_hooks
from .quantization_image import CosineVectorQuantizer
from .saving import refuse_torchao_saving


@dataclass
class Omni123ImageTokenizerOutput(ModelOutput):
    """`loss` (weighted sum), its parts, `reconstruction (B, D, h, w)`, `indices (B, N)` (None in warm-up)."""

    loss: torch.Tensor | None = None
    feature_loss: torch.Tensor | None = None
    quantizer_loss: torch.Tensor | None = None
    semantic_mse: torch.Tensor | None = None
    texture_mse: torch.Tensor | None = None
    reconstruction: torch.Tensor | None = None
    indices: torch.Tensor | None = None


def level_grids(num_tokens: int) -> list[tuple[int, int]]:
    """(rows, columns) of the pooled groups that make up `num_tokens = 2^L` queries: 1, 1, 2, 4, ..., 2^(L-1) cells.

    Columns split first. The first two groups are both the global mean, as in GigaTok. A shorter list is a prefix of a
    longer one, which is why the first 256 of 1,024 tokens mean the same at 256² and at 512².
    """
    grids = [(1, 1)]
    for group in range(1, num_tokens.bit_length()):
        grids.append((2 ** ((group - 1) // 2), 2 ** (group // 2)))
    return grids


def fits_grid(num_tokens: int, grid: tuple[int, int]) -> bool:
    """Whether the finest pooled group of `num_tokens` has no more rows and columns than the grid."""
    rows, columns = level_grids(num_tokens)[-1]
    return rows <= grid[0] and columns <= grid[1]


def multi_level_pool(features: torch.Tensor, num_tokens: int) -> torch.Tensor:
    """Average pools `(B, num_tokens, C)` of `features (B, C, h, w)`, coarse to fine."""
    pools = [F.adaptive_avg_pool2d(features, grid).flatten(2) for grid in level_grids(num_tokens)]
    return torch.cat(pools, dim=-1).transpose(1, 2)


class GridPosition(nn.Module):
    """Position embeddings `(h*w, width)` of any grid: sine features of normalised cell centres, linearly projected.

    `like` gives device and precision: the weights may rest elsewhere when the model is offloaded.
    """

    def __init__(self, num_frequencies: int, width: int):
        super().__init__()
        self.num_frequencies = num_frequencies
        self.proj = nn.Linear(4 * num_frequencies, width)

    def forward(self, grid: tuple[int, int], like: torch.Tensor) -> torch.Tensor:
        centres = patch_centres(grid, like.device)
        # Linear frequencies up to half a turn per cell of a grid with `2 * num_frequencies` cells: one cell to the
        # next differs clearly, and there is no aliasing on the grids in use (8 for 8 x 8 cells,
        # 32 for 32 x 32).
        turns = torch.arange(1, self.num_frequencies + 1, device=centres.device) * (torch.pi / 2)
        angles = (centres[:, :, None] * turns).flatten(1)
        return self.proj(torch.cat([angles.sin(), angles.cos()], dim=-1).to(like.dtype))


class QFormerLayer(GradientCheckpointingLayer):
    """Pre-norm self-attention over the queries, cross-attention to the memory, GELU MLP."""

    def __init__(self, config: Omni123ImageTokenizerConfig, width: int, num_heads: int):
        super().__init__()
        inner, eps = int(width * config.mlp_ratio), config.layer_norm_eps
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.self_attention = QFormerAttention(config, width, num_heads)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.cross_attention = QFormerAttention(config, width, num_heads)
        self.norm3 = nn.LayerNorm(width, eps=eps)
        self.up_proj = nn.Linear(width, inner)
        self.down_proj = nn.Linear(inner, width)

    def forward(
        self,
        hidden: torch.Tensor,
        position: torch.Tensor,
        memory: torch.Tensor,
        memory_position: torch.Tensor,
    ) -> torch.Tensor:
        normed = self.norm1(hidden)
        hidden = hidden + self.self_attention(normed + position, normed + position, normed)
        hidden = hidden + self.cross_attention(self.norm2(hidden) + position, memory + memory_position, memory)
        return hidden + self.down_proj(F.gelu(self.up_proj(self.norm3(hidden))))


class QFormer(nn.Module):
    """A stack of `QFormerLayer` with a final norm."""

    def __init__(self, config: Omni123ImageTokenizerConfig, width: int, num_layers: int, num_heads: int):
        super().__init__()
        self.layers = nn.ModuleList([QFormerLayer(config, width, num_heads) for _ in range(num_layers)])
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)

    def forward(self, hidden, position, memory, memory_position) -> torch.Tensor:
        for layer in self.layers:
            hidden = layer(hidden, position, memory, memory_position)
        return self.norm(hidden)


class Omni123ImageTokenizer(OffloadableMixin, PreTrainedModel):
    """1D Q-Former tokenizer over latents of `Omni123ImageVAE`. `encode` and `decode` are the public doors."""

    config: Omni123ImageTokenizerConfig
    config_class = Omni123ImageTokenizerConfig
    base_model_prefix = "image_tokenizer"
    main_input_name = "latent"
    supports_gradient_checkpointing = True
    _no_split_modules = ["QFormerLayer"]
    _supports_sdpa = True
    _keep_in_fp32_modules_strict = ["quantizer"]
    _keep_in_fp32_modules = ["quantizer"]  # The form that loading in 8 bits leaves alone.

    def __init__(self, config: Omni123ImageTokenizerConfig):
        super().__init__(config)
        inner, outer = config.encoder_hidden_size, config.decoder_hidden_size
        self.latent_norm = nn.LayerNorm(config.latent_dim, eps=config.layer_norm_eps)
        self.latent_proj = nn.Linear(config.latent_dim, inner)
        self.query_proj = nn.Linear(inner, inner)
        self.encoder_position_2d = GridPosition(config.num_frequencies, inner)
        self.encoder_position_1d = nn.Parameter(torch.empty(config.num_tokens, inner))
        self.encoder = QFormer(config, inner, config.num_encoder_layers, config.num_encoder_heads)
        self.code_proj = nn.Linear(inner, config.code_dim)
        self.quantizer = CosineVectorQuantizer(
            config.num_codes,
            config.code_dim,
            codebook_weight=config.codebook_loss_weight,
            commitment_weight=config.commitment_loss_weight,
            entropy_weight=config.entropy_loss_weight,
            entropy_temperature=config.entropy_temperature,
            entropy_tokens=config.entropy_tokens,
            restart_after=config.restart_after,
            warmup_steps=config.quantizer_warmup_steps,
        )
        self.token_proj = nn.Linear(config.code_dim, outer)
        self.decoder_position_1d = nn.Parameter(torch.empty(config.num_tokens, outer))
        self.decoder_position_2d = GridPosition(config.num_frequencies, outer)
        self.decoder = QFormer(config, outer, config.num_decoder_layers, config.num_decoder_heads)
        self.out_conv = nn.Conv2d(outer, config.latent_dim, 3, padding=1)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            init.xavier_uniform_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, CosineVectorQuantizer):
            init.normal_(module.codebook)
            init.zeros_(module.step)
            init.zeros_(module.started)
            init.zeros_(module.idle_steps)
        elif isinstance(module, Omni123ImageTokenizer):
            init.normal_(module.encoder_position_1d, std=self.config.encoder_hidden_size**-0.5)
            init.normal_(module.decoder_position_1d, std=self.config.decoder_hidden_size**-0.5)

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        refuse_torchao_saving(self)
        super().save_pretrained(*args, **kwargs)

    def get_input_embeddings(self) -> None:  # type: ignore[override]
        """None: the inputs are latents, not ids of a vocabulary."""
        return None

    def tokens_for(self, grid: tuple[int, int]) -> int:
        """How many tokens a latent grid is given: the largest power of two that its cells can be pooled to.

        A 32 x 32 grid (512²) gets 1,024 and a 16 x 16 grid (256²) 256, `num_tokens` at most. A grid more than twice as
        high as wide gets fewer than it has cells, because columns split first. Raises `Omni123Error` for anything but two
        whole numbers of at least 1.
        """
        check_grid(grid)
        count = min(self.config.num_tokens, 1 << ((grid[0] * grid[1]).bit_length() - 1))
        while not fits_grid(count, grid):
            count //= 2
        return count

    def _check_num_tokens(self, num_tokens: int, grid: tuple[int, int]) -> None:
        """Raises `Omni123Error` unless `num_tokens` is a length of this model that `grid` can be pooled to."""
        is_whole = isinstance(num_tokens, (int, torch.SymInt))
        if not is_whole or num_tokens < 1 or num_tokens & (num_tokens - 1) or num_tokens > self.config.num_tokens:
            raise Omni123Error(
                f"num_tokens {num_tokens!r} must be a power of two of at most {self.config.num_tokens}."
            )
        if not fits_grid(num_tokens, grid):
            raise Omni123Error(
                f"{num_tokens} tokens pool down to {level_grids(num_tokens)[-1]} cells, but the latent has "
                f"{tuple(grid)}: use fewer tokens, or enlarge the image before the VAE."
            )

    def _encode_to_code_space(self, latent: torch.Tensor, num_tokens: int | None) -> torch.Tensor:
        """Tokens `(B, N, code_dim)` before quantisation."""
        check_latent(latent, self.config.latent_dim)
        grid = (latent.shape[2], latent.shape[3])
        count = self.tokens_for(grid) if num_tokens is None else num_tokens
        self._check_num_tokens(count, grid)
        memory = self.latent_proj(self.latent_norm(latent.to(self.dtype).flatten(2).transpose(1, 2)))
        queries = self.query_proj(multi_level_pool(memory.transpose(1, 2).unflatten(-1, grid), count))
        position = self.encoder_position_2d(grid, memory)
        hidden = self.encoder(queries, self.encoder_position_1d[:count], memory, position)
        return self.code_proj(hidden)

    def _decode_from_code_space(self, tokens: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        """Latent `(B, D, h, w)` of unit tokens `(B, N, code_dim)`."""
        memory = self.token_proj(tokens.to(self.dtype))
        queries = memory[:, :1].expand(-1, grid[0] * grid[1], -1)
        position = self.decoder_position_2d(grid, memory)
        hidden = self.decoder(queries, position, memory, self.decoder_position_1d[: tokens.shape[1]])
        return self.out_conv(hidden.transpose(1, 2).unflatten(-1, grid))

    @with_hooks
    @torch.no_grad()
    def encode(self, latent: torch.Tensor, num_tokens: int | None = None) -> torch.Tensor:
        """Indices `(B, N)` int64 of a standardised latent `(B, D, h, w)`; N is `tokens_for((h, w))` unless given.

        A smaller `num_tokens` keeps the coarser groups only. A larger one is refused, since there is nothing finer to
        pool: for 1,024 tokens of a 256² image, enlarge its pixels to 512² (bicubic) before the VAE encodes them.
        Raises `Omni123Error` for that, a number that is no power of two, another shape, integers, and NaN or infinity.
        """
        return self.quantizer.encode(self._encode_to_code_space(latent, num_tokens))

    @with_hooks
    def decode(self, indices: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        """Standardised latent `(B, D, h, w)` of indices `(B, N)` on the grid `(h, w)` that they were encoded from.

        Raises `Omni123Error` for another shape, numbers that are no code ids, a grid of anything but two whole numbers of
        at least 1, and an N that the grid cannot have.
        """
        check_grid(grid)
        if torch.is_tensor(indices) and (indices.ndim != 2 or not 1 <= indices.shape[1] <= self.config.num_tokens):
            raise Omni123Error(
                f"indices have shape {tuple(indices.shape)}: give (B, N) with at most {self.config.num_tokens} tokens."
            )
        codes = self.quantizer.decode(indices)
        self._check_num_tokens(codes.shape[1], grid)
        return self._decode_from_code_space(codes, grid)

    def feature_losses(self, reconstruction: torch.Tensor, latent: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """`(weighted sum, semantic MSE, texture MSE)`; each MSE is a mean within its group of channels."""
        split = self.config.semantic_dim
        predicted, target = reconstruction.float(), latent.float()
        semantic = F.mse_loss(predicted[:, :split], target[:, :split])
        texture = F.mse_loss(predicted[:, split:], target[:, split:])
        cosine = 1 - F.cosine_similarity(predicted[:, :split], target[:, :split], dim=1).mean()
        total = (
            self.config.semantic_loss_weight * semantic
            + self.config.texture_loss_weight * texture
            + self.config.cosine_loss_weight * cosine
        )
        return total, semantic, texture

    @can_return_tuple
    def forward(self, latent: torch.Tensor, num_tokens: int | None = None) -> Omni123ImageTokenizerOutput:
        """Reconstructs a standardised latent `(B, D, h, w)` through the quantiser and compares features only.

        Raises `Omni123Error` for what `encode` refuses.
        """
        quantized = self.quantizer(self._encode_to_code_space(latent, num_tokens))
        reconstruction = self._decode_from_code_space(quantized.quantized, (latent.shape[2], latent.shape[3]))
        feature_loss, semantic, texture = self.feature_losses(reconstruction, latent)
        return Omni123ImageTokenizerOutput(
            loss=feature_loss + quantized.loss,
            feature_loss=feature_loss,
            quantizer_loss=quantized.loss,
            semantic_mse=semantic,
            texture_mse=texture,
            reconstruction=reconstruction,
            indices=quantized.indices,
        )

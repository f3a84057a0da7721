"""A start for the shape tokenizer in which every latent already looks at its own region of space.

With the family's random start all latents read the mean of the points, and small training budgets are spent on breaking that
symmetry. Here latent i is given an anchor on a grid: its encoder query is what a point at the anchor would be embedded as, its
decoder position what a field query at the anchor would be embedded as, and the attention layers that meet space (points to
latents, latents to field queries) start with equal query and key projections, so that attention is a kernel of distance.
Nothing in the architecture changes; all weights stay free. This is our decision (the paper does not describe its start).
"""

import torch

from .modeling_shape_tokenizer import CrossAttentionLayer, Omni123ShapeTokenizer


def anchor_grid(count: int, extent: float = 0.8) -> torch.Tensor:
    """`(count, 3)` anchors: the cells of the coarsest even grid in ±extent with at least `count` cells, x fastest, bottom first."""
    side = 1
    while side**3 < count:
        side += 1
    axis = torch.linspace(-extent, extent, side) if side > 1 else torch.zeros(1)
    y, z, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    grid = torch.stack([x, y, z], dim=-1).view(-1, 3)
    return grid[torch.linspace(0, len(grid) - 1, count).round().long()]


def match_query_to_key(layer: CrossAttentionLayer, gain: float, generator: torch.Generator | None) -> None:
    """Equal orthogonal query and key projections: attention scores become similarities of the normalised inputs."""
    width = layer.q_proj.weight.shape[0]
    basis, _ = torch.linalg.qr(torch.randn(width, width, generator=generator))
    layer.q_proj.weight.copy_(basis * gain)
    layer.k_proj.weight.copy_(basis * gain)
    layer.q_proj.bias.zero_()
    layer.k_proj.bias.zero_()


@torch.no_grad()
def initialize_anchored(
    model: Omni123ShapeTokenizer, gain: float = 2.0, generator: torch.Generator | None = None
) -> None:
    """Applies the anchored start to a freshly initialised model (on the CPU, float32)."""
    anchors = anchor_grid(model.config.num_latents)
    embedded = model.point_embedding(anchors)
    normals = torch.zeros(len(anchors), model.config.num_normal_features)
    queries = model.encoder.point_proj(torch.cat([embedded, normals], dim=-1))
    scale = queries.std().clamp(min=1e-6)
    model.encoder.query[1:].copy_(queries / scale)
    for layer in model.encoder.layers:
        if isinstance(layer, CrossAttentionLayer):
            match_query_to_key(layer, gain, generator)
    positions = model.occupancy_head.query_proj(embedded)
    model.decoder.position_embedding.copy_(positions / positions.std().clamp(min=1e-6))
    match_query_to_key(model.occupancy_head.attention, gain, generator)

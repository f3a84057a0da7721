"""Random checkpoints in Cube 3D's format, of any size: its tensor names and shapes, written from their description."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file


@dataclass
class CubeSizes:
    """Sizes of a checkpoint. `width`, `heads` and `inner` are the GPT's, `tokenizer_…` the tokenizer's."""

    width: int = 32
    heads: int = 2
    inner: int = 128
    duals: int = 2
    singles: int = 1
    text: int = 20
    has_box: bool = True
    bias: bool = True
    codes: int = 13
    code_dim: int = 5
    latents: int = 6
    tokenizer_width: int = 24
    tokenizer_heads: int = 3
    tokenizer_inner: int = 96
    encoder_layers: int = 4
    cross_layers: tuple[int, ...] = (0, 2)
    decoder_layers: int = 2
    frequencies: int = 8
    embedders: tuple[str, ...] = field(default=("embedder.weight",))

    def config(self) -> dict:
        """The configuration file of these sizes."""
        return {
            "gpt_model": {
                "n_layer": self.duals,
                "n_single_layer": self.singles,
                "rope_theta": 10000,
                "n_head": self.heads,
                "n_embd": self.width,
                "bias": self.bias,
                "eps": 1e-6,
                "shape_model_vocab_size": self.codes,
                "text_model_embed_dim": self.text,
                "use_pooled_text_embed": False,
                "shape_model_embed_dim": self.code_dim,
                "encoder_with_cls_token": True,
                "use_bbox": self.has_box,
            },
            "shape_model": {
                "encoder_with_cls_token": True,
                "num_encoder_latents": self.latents,
                "num_decoder_latents": 0,
                "embed_dim": self.code_dim,
                "width": self.tokenizer_width,
                "num_heads": self.tokenizer_heads,
                "out_dim": 1,
                "eps": 1e-6,
                "num_freqs": self.frequencies,
                "point_feats": 3,
                "embed_point_feats": False,
                "num_encoder_layers": self.encoder_layers,
                "encoder_cross_attention_levels": list(self.cross_layers),
                "num_decoder_layers": self.decoder_layers,
                "num_codes": self.codes,
            },
        }


V01 = CubeSizes(duals=3, singles=1, has_box=False, latents=5)
V05 = CubeSizes()
NO_SINGLE_LAYERS = CubeSizes(width=48, heads=3, inner=100, duals=1, singles=0, code_dim=3, codes=7, text=11)
NO_BIAS = CubeSizes(
    bias=False,
    has_box=False,
    singles=2,
    tokenizer_width=32,
    tokenizer_heads=4,
    tokenizer_inner=40,
    encoder_layers=1,
    cross_layers=(0,),
    decoder_layers=3,
    frequencies=16,
    embedders=("occupancy_decoder.embedder.weight",),
)
WIDE_CODES = CubeSizes(
    duals=4,
    singles=3,
    codes=40,
    code_dim=17,
    latents=9,
    cross_layers=(0, 1, 3),
    embedders=("encoder.embedder.weight",),
)
UNSEEN = {"v0.1": V01, "v0.5": V05, "no single layers": NO_SINGLE_LAYERS, "no bias": NO_BIAS, "wide codes": WIDE_CODES}


def gpt_shapes(s: CubeSizes) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a GPT file."""
    shapes: dict[str, tuple[int, ...]] = {
        "transformer.wte.weight": (s.codes + 3, s.width),
        "lm_head.weight": (s.codes + 3, s.width),
    }

    def linear(name: str, rows: int, columns: int, bias: bool = True) -> None:
        shapes[f"{name}.weight"] = (rows, columns)
        if bias:
            shapes[f"{name}.bias"] = (rows,)

    def attention(name: str) -> None:
        linear(f"{name}.c_qk", 2 * s.width, s.width, bias=False)
        linear(f"{name}.c_v", s.width, s.width, s.bias)
        shapes[f"{name}.q_norm.weight"] = shapes[f"{name}.k_norm.weight"] = (s.width // s.heads,)

    def output(projection: str, mlp: str) -> None:
        linear(projection, s.width, s.width, s.bias)
        linear(f"{mlp}.gate_proj", s.inner, s.width, s.bias)
        linear(f"{mlp}.up_proj", s.inner, s.width, s.bias)
        linear(f"{mlp}.down_proj", s.width, s.inner, s.bias)

    linear("text_proj", s.width, s.text, s.bias)
    linear("shape_proj", s.width, s.code_dim)
    if s.has_box:
        linear("bbox_proj", s.width, 3)
    for i in range(s.duals):
        block = f"transformer.dual_blocks.{i}"
        attention(f"{block}.attn.pre_x")
        output(f"{block}.post_1.c_proj", f"{block}.post_1.mlp")
        if i < s.duals - 1:
            attention(f"{block}.attn.pre_c")
            output(f"{block}.post_2.c_proj", f"{block}.post_2.mlp")
            continue
        linear(f"{block}.attn.pre_c.c_k", s.width, s.width, s.bias)
        linear(f"{block}.attn.pre_c.c_v", s.width, s.width, s.bias)
        shapes[f"{block}.attn.pre_c.k_norm.weight"] = (s.width // s.heads,)
    for i in range(s.singles):
        block = f"transformer.single_blocks.{i}"
        attention(f"{block}.attn")
        output(f"{block}.attn.c_proj", f"{block}.mlp")
    return shapes


def tokenizer_shapes(s: CubeSizes) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a tokenizer file."""
    width, point = s.tokenizer_width, 3 + 6 * s.frequencies
    shapes: dict[str, tuple[int, ...]] = {name: (3, s.frequencies) for name in s.embedders}

    def linear(name: str, rows: int, columns: int) -> None:
        shapes[f"{name}.weight"] = (rows, columns)
        shapes[f"{name}.bias"] = (rows,)

    def layer(name: str, is_cross: bool) -> None:
        if is_cross:
            linear(f"{name}.attn.c_q", width, width)
            linear(f"{name}.attn.c_k", width, width)
        else:
            linear(f"{name}.attn.c_qk", 2 * width, width)
            shapes[f"{name}.attn.q_norm.weight"] = (width // s.tokenizer_heads,)
            shapes[f"{name}.attn.k_norm.weight"] = (width // s.tokenizer_heads,)
        linear(f"{name}.attn.c_v", width, width)
        linear(f"{name}.attn.c_proj", width, width)
        linear(f"{name}.mlp.up_proj", s.tokenizer_inner, width)
        linear(f"{name}.mlp.down_proj", width, s.tokenizer_inner)

    shapes["encoder.query"] = (1 + s.latents, width)
    linear("encoder.feat_in.in_layer", width, point + 3)
    linear("encoder.feat_in.out_layer", width, width)
    for i in range(s.encoder_layers):
        layer(f"encoder.blocks.{i}", is_cross=i in s.cross_layers)
    linear("encoder.ln_f", width, width)
    shapes["encoder.ln_f.weight"] = (width,)
    quantizer = "bottleneck.block"
    shapes[f"{quantizer}.codebook.weight"] = (s.codes, s.code_dim)
    linear(f"{quantizer}.c_in", s.code_dim, width)
    linear(f"{quantizer}.c_x", s.code_dim, width)
    linear(f"{quantizer}.c_out", width, s.code_dim)
    for name in ("cb_weight", "cb_bias", "norm.weight"):
        shapes[f"{quantizer}.{name}"] = (s.code_dim,)
    shapes["decoder.positional_encodings"] = (s.latents, width)
    for i in range(s.decoder_layers):
        layer(f"decoder.blocks.{i}", is_cross=False)
    linear("occupancy_decoder.query_in.in_layer", width, point)
    linear("occupancy_decoder.query_in.out_layer", width, width)
    layer("occupancy_decoder.attn_out", is_cross=True)
    linear("occupancy_decoder.ln_f", width, width)
    shapes["occupancy_decoder.ln_f.weight"] = (width,)
    linear("occupancy_decoder.c_head", 1, width)
    return shapes


def random_tensors(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, torch.Tensor]:
    """Weights that keep activations of order one, so that every tensor matters to the output."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in shapes.items():
        values = torch.randn(shape, generator=generator)
        if "norm" in name or name.endswith(("ln_f.weight", "cb_weight")):
            tensors[name] = 1 + 0.2 * values
        elif len(shape) == 1:
            tensors[name] = 0.2 * values
        elif "embedder" in name or "query" in name or "codebook" in name or "wte" in name:
            tensors[name] = values
        else:
            tensors[name] = values / shape[-1] ** 0.5
    embedders = [name for name in tensors if name.endswith("embedder.weight")]
    for name in embedders[1:]:
        tensors[name] = tensors[embedders[0]].clone()
    return tensors


@dataclass
class CubeCheckpoint:
    """Weights by Cube 3D's names, and the two files that hold them."""

    sizes: CubeSizes
    gpt: dict[str, torch.Tensor]
    tokenizer: dict[str, torch.Tensor]

    @classmethod
    def random(cls, sizes: CubeSizes, seed: int = 0) -> "CubeCheckpoint":
        return cls(sizes, random_tensors(gpt_shapes(sizes), seed), random_tensors(tokenizer_shapes(sizes), seed + 1))

    def save(self, folder: Path) -> tuple[str, str]:
        """Writes both files and the configuration; returns the paths of the GPT and the tokenizer."""
        folder.mkdir(parents=True, exist_ok=True)
        paths = (str(folder / "shape_gpt.safetensors"), str(folder / "shape_tokenizer.safetensors"))
        for path, tensors in zip(paths, (self.gpt, self.tokenizer), strict=True):
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
        (folder / "config.json").write_text(json.dumps(self.sizes.config()))
        return paths

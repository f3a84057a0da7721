"""A second, plain implementation of Cube 3D's two networks over its own tensor names: the oracle of the conversion tests.

Written from the description of the architecture, without any code of the package: explicit softmax, complex rotations, one
position of a mask at a time. Slow and short.
"""

import math
from pathlib import Path

import torch
from cube3d_checkpoint import CubeCheckpoint
from safetensors.torch import save_file


Tensors = dict[str, torch.Tensor]


def linear(t: Tensors, name: str, x: torch.Tensor) -> torch.Tensor:
    y = x @ t[f"{name}.weight"].T
    return y + t[f"{name}.bias"] if f"{name}.bias" in t else y


def norm(x: torch.Tensor, eps: float = 1e-6) -> torch.Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()


def rms(x: torch.Tensor) -> torch.Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()


def heads_of(x: torch.Tensor, heads: int) -> torch.Tensor:
    return x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, is_causal: bool) -> torch.Tensor:
    """Over (B, heads, N, D); with as many queries as keys when causal."""
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    if is_causal:
        later = torch.ones(q.shape[-2], k.shape[-2]).triu(1).bool()
        scores = scores.masked_fill(later, float("-inf"))
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


def rotated(x: torch.Tensor, theta: float) -> torch.Tensor:
    """Rotary positions on neighbouring pairs, as products of complex numbers."""
    frequency = theta ** (-torch.arange(0, x.shape[-1], 2).double() / x.shape[-1])
    turn = torch.polar(torch.ones(()).double(), torch.arange(x.shape[-2]).double()[:, None] * frequency)
    pairs = torch.view_as_complex(x.double().reshape(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * turn).flatten(-2).to(x.dtype)


def token_table(t: Tensors, tokenizer: Tensors) -> torch.Tensor:
    """`wte` with the projected, normalised code book in its first rows."""
    codes = code_book(tokenizer)
    return torch.cat([linear(t, "shape_proj", codes), t["transformer.wte.weight"][len(codes) :]])


def swiglu(t: Tensors, name: str, x: torch.Tensor) -> torch.Tensor:
    gate = linear(t, f"{name}.gate_proj", x)
    return linear(t, f"{name}.down_proj", gate * torch.sigmoid(gate) * linear(t, f"{name}.up_proj", x))


def gpt_logits(
    t: Tensors,
    table: torch.Tensor,
    heads: int,
    text: torch.Tensor,
    bbox: torch.Tensor | None,
    ids: torch.Tensor,
    theta=1e4,
) -> torch.Tensor:
    """Logits (B, 1 + n, K + 3) over [begin, ids], computed whole and without a cache."""
    layers = {
        kind: 1 + max((int(n.split(".")[2]) for n in t if f".{kind}_" in n), default=-1) for kind in ("dual", "single")
    }

    def parts(name: str, x: torch.Tensor, is_shape: bool) -> list[torch.Tensor]:
        """Query (or None), key and value of one stream; only the shape stream is rotated."""
        x = norm(x)
        if f"{name}.c_qk.weight" in t:
            q, k = linear(t, f"{name}.c_qk", x).chunk(2, dim=-1)
            q = rms(heads_of(q, heads)) * t[f"{name}.q_norm.weight"]
        else:
            q, k = None, linear(t, f"{name}.c_k", x)
        k = rms(heads_of(k, heads)) * t[f"{name}.k_norm.weight"]
        if is_shape:
            q, k = rotated(q, theta), rotated(k, theta)
        return [q, k, heads_of(linear(t, f"{name}.c_v", x), heads)]

    begin = torch.full((len(ids), 1), len(table) - 3)
    x = table[torch.cat([begin, ids], dim=1)]
    c = linear(t, "text_proj", text)
    if bbox is not None:
        c = torch.cat([c, linear(t, "bbox_proj", bbox)[:, None]], dim=1)
    for i in range(layers["dual"]):
        block = f"transformer.dual_blocks.{i}"
        (cq, ck, cv), (xq, xk, xv) = parts(f"{block}.attn.pre_c", c, False), parts(f"{block}.attn.pre_x", x, True)
        # A last layer asks nothing for the text; a stand-in keeps queries and keys equally many, and its rows are dropped.
        q = torch.cat([torch.zeros_like(ck) if cq is None else cq, xq], dim=2)
        mixed = attention(q, torch.cat([ck, xk], dim=2), torch.cat([cv, xv], dim=2), is_causal=True)
        x = x + linear(t, f"{block}.post_1.c_proj", mixed[:, c.shape[1] :])
        x = x + swiglu(t, f"{block}.post_1.mlp", norm(x))
        if cq is not None:
            c = c + linear(t, f"{block}.post_2.c_proj", mixed[:, : c.shape[1]])
            c = c + swiglu(t, f"{block}.post_2.mlp", norm(c))
    for i in range(layers["single"]):
        block = f"transformer.single_blocks.{i}"
        x = x + linear(t, f"{block}.attn.c_proj", attention(*parts(f"{block}.attn", x, True), is_causal=True))
        x = x + swiglu(t, f"{block}.mlp", norm(x))
    return linear(t, "lm_head", norm(x))


def code_book(t: Tensors) -> torch.Tensor:
    """The normalised codes (K, D)."""
    quantizer = "bottleneck.block"
    scaled = t[f"{quantizer}.codebook.weight"] * t[f"{quantizer}.cb_weight"] + t[f"{quantizer}.cb_bias"]
    return rms(scaled) * t[f"{quantizer}.norm.weight"]


def embedded(t: Tensors, x: torch.Tensor) -> torch.Tensor:
    """Positions (B, N, 3) as (B, N, 3 + 6 L): carrier and learned frequencies, axis by axis."""
    weight = next(value for name, value in t.items() if name.endswith("embedder.weight"))
    count = weight.shape[1]
    step = torch.linspace(0, 1, count)
    carrier = 2 * math.pi * ((count / 8) ** (1 - step) + step)
    waves = [x[..., a, None] * weight[a] for a in range(3)]
    phases = [math.pi / 2 * x[..., a, None] + carrier for a in range(3)]
    real = [wave.cos() + phase.cos() for wave, phase in zip(waves, phases, strict=True)]
    imaginary = [wave.sin() + phase.sin() for wave, phase in zip(waves, phases, strict=True)]
    return torch.cat([x, *real, *imaginary], dim=-1)


def tokenizer_layer(t: Tensors, name: str, heads: int, x: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
    """Self- or cross-attention, by the tensors that are there, then the MLP."""
    normed, attn = norm(x), f"{name}.attn"
    if f"{attn}.c_qk.weight" in t:
        q, k = (heads_of(part, heads) for part in linear(t, f"{attn}.c_qk", normed).chunk(2, dim=-1))
        q, k, source = rms(q) * t[f"{attn}.q_norm.weight"], rms(k) * t[f"{attn}.k_norm.weight"], normed
    else:
        source = norm(memory)
        q, k = heads_of(linear(t, f"{attn}.c_q", normed), heads), heads_of(linear(t, f"{attn}.c_k", source), heads)
    v = heads_of(linear(t, f"{attn}.c_v", source), heads)
    x = x + linear(t, f"{attn}.c_proj", attention(q, k, v, is_causal=False))
    up = linear(t, f"{name}.mlp.up_proj", norm(x))
    return x + linear(t, f"{name}.mlp.down_proj", 0.5 * up * (1 + torch.erf(up / math.sqrt(2))))


def projected(t: Tensors, name: str, x: torch.Tensor) -> torch.Tensor:
    inner = linear(t, f"{name}.in_layer", x)
    return linear(t, f"{name}.out_layer", inner * torch.sigmoid(inner))


def encoded(t: Tensors, heads: int, points: torch.Tensor, normals: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents (B, L, width) after the encoder and the ids (B, L) of their nearest codes."""
    memory = projected(t, "encoder.feat_in", torch.cat([embedded(t, points), normals], dim=-1))
    x = t["encoder.query"].expand(len(points), -1, -1)
    for i in range(1 + max(int(n.split(".")[2]) for n in t if n.startswith("encoder.blocks."))):
        x = tokenizer_layer(t, f"encoder.blocks.{i}", heads, x, memory)
    x = (norm(x) * t["encoder.ln_f.weight"] + t["encoder.ln_f.bias"])[:, 1:]
    z = rms(linear(t, "bottleneck.block.c_in", x)) * t["bottleneck.block.norm.weight"]
    return x, torch.cdist(z, code_book(t)[None]).argmin(-1)


def decoded(t: Tensors, heads: int, ids: torch.Tensor) -> torch.Tensor:
    """Latents (B, L, width) as the occupancy decoder reads them."""
    x = linear(t, "bottleneck.block.c_out", code_book(t)[ids]) + t["decoder.positional_encodings"]
    for i in range(1 + max(int(n.split(".")[2]) for n in t if n.startswith("decoder.blocks."))):
        x = tokenizer_layer(t, f"decoder.blocks.{i}", heads, x, x)
    return x


def occupancy(t: Tensors, heads: int, latents: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
    """Logits (B, Q) at queries (B, Q, 3)."""
    x = projected(t, "occupancy_decoder.query_in", embedded(t, queries))
    x = tokenizer_layer(t, "occupancy_decoder.attn_out", heads, x, latents)
    x = norm(x) * t["occupancy_decoder.ln_f.weight"] + t["occupancy_decoder.ln_f.bias"]
    return linear(t, "occupancy_decoder.c_head", x)[..., 0]


def inputs_and_outputs(checkpoint: CubeCheckpoint, seed: int = 5, side: int = 5) -> Tensors:
    """What `io.safetensors` holds beside such weights."""
    s, g, t = checkpoint.sizes, checkpoint.gpt, checkpoint.tokenizer
    generator = torch.Generator().manual_seed(seed)
    heads = s.tokenizer_heads
    io: Tensors = {
        "text": torch.randn(2, 7, s.text, generator=generator),
        "ids": torch.randint(s.codes, (2, s.latents - 1), generator=generator),
        "random_ids": torch.randint(s.codes, (2, s.latents), generator=generator),
        "points": torch.rand(2, 40, 3, generator=generator) * 1.9 - 0.95,
        "normals": torch.nn.functional.normalize(torch.randn(2, 40, 3, generator=generator), dim=-1),
        "queries": torch.rand(2, 30, 3, generator=generator) * 2.1 - 1.05,
    }
    if s.has_box:
        io["bbox"] = torch.rand(2, 3, generator=generator) * 1.9
    io["baked_token_table"] = token_table(g, t)
    io["logits"] = gpt_logits(g, io["baked_token_table"], s.heads, io["text"], io.get("bbox"), io["ids"])
    io["encoder_out"], io["indices"] = encoded(t, heads, io["points"], io["normals"])
    io["quantized"] = linear(t, "bottleneck.block.c_out", code_book(t)[io["indices"]])
    io["decoded_latents"] = decoded(t, heads, io["indices"])
    io["occupancy"] = occupancy(t, heads, io["decoded_latents"], io["queries"])
    io["random_latents"] = decoded(t, heads, io["random_ids"])
    io["random_occupancy"] = occupancy(t, heads, io["random_latents"], io["queries"])
    axis = torch.linspace(-1.05, 1.05, side)
    grid = torch.cartesian_prod(axis, axis, axis).expand(2, -1, -1)
    io["grid_occupancy"] = occupancy(t, heads, io["random_latents"], grid).reshape(2, side, side, side)
    return io


def save_parity_folder(folder: Path, checkpoint: CubeCheckpoint) -> Path:
    """Weights, configuration and stored inputs and outputs of the oracle."""
    checkpoint.save(folder)
    save_file(
        {name: tensor.contiguous() for name, tensor in inputs_and_outputs(checkpoint).items()},
        folder / "io.safetensors",
    )
    return folder

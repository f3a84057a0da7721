"""Fast autoregressive decoding: the same codes as the plain loop of `generation_omni123.py`, with little work for each.

- The prompt (conditioning, prefix and all tokens before the first sampled one) enters in one pass of the model itself, once
  for each prompt. Its keys and values are *shared*: all samples of a prompt attend to the one copy. Padding is left out.
- The unconditional rows' prompt holds no text: it is computed once, and kept for the next call where no prompt enters it.
- Every later token is a step over fused weights (`decoder_weights_omni123.py`). Rotated keys go into *own* buffers of the final
  size. One softmax goes over shared and own scores, so no copy of the prompt is made and no mask is built.
- On CUDA a step is static: it reads whole buckets of `BUCKET` own keys under a bias, and each bucket is one CUDA graph.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F

from .adapters_omni123 import folded_weights
from .blocks_omni123 import rotary_tables
from .decoder_weights_omni123 import LayerWeights, WeightStamp, fuse_layer, joined, linear_maker


BUCKET = 256
# Shared keys are padded to a multiple of this on CUDA, so that prompts of like lengths use the same graphs.
SHARED_MULTIPLE = 64


@dataclass
class Prompt:
    """One pass over prompts of U rows: for each layer keys and values `(U, heads, C + T, head_dim)`, in dual layers valid
    conditioning first, then T leading positions; `valid (U, C)`; `logits (U, K)` of the first code."""

    layers: list[tuple[torch.Tensor, torch.Tensor]]
    valid: torch.Tensor
    logits: torch.Tensor


@dataclass
class LayerState:
    """Keys and values of one layer: shared `(G heads, L, D)` of G prompts, own `(R heads, S, D)` of R rows."""

    shared_keys: torch.Tensor
    shared_values: torch.Tensor
    own_keys: torch.Tensor
    own_values: torch.Tensor
    bias: torch.Tensor | None


@dataclass
class Session:
    """What one call holds. `groups` G counts prompts, unconditional ones included; each has `samples` n rows, R = G n."""

    groups: int
    samples: int
    lead: int
    capacity: int
    layers: list[LayerState]
    table: torch.Tensor
    past: int = 0
    position: torch.Tensor | None = None
    own_bias: torch.Tensor | None = None
    code: torch.Tensor | None = None
    graphs: dict[tuple[int, str], tuple[Any, torch.Tensor]] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return self.groups * self.samples

    @property
    def shared_nbytes(self) -> int:
        return sum(state.shared_keys.nbytes + state.shared_values.nbytes for state in self.layers)

    def key(self) -> tuple:
        first, last = self.layers[0], self.layers[-1]
        biases = tuple(state.bias is None for state in (first, last))
        return (self.groups, self.samples, self.capacity, first.shared_keys.shape, last.shared_keys.shape, biases)


class FastDecoder:
    """The decoding engine of one model with its weights as they are now (`fits` tells whether they still are).

    weights: "model" or "int8" (`decoder_weights_omni123`). static: steps of fixed shapes, as CUDA graphs need them; the default on
    CUDA. Steps are run under `torch.no_grad`. compile_step: run each step through `torch.compile` (full graph), inside the CUDA graph where there is one.
    """

    @torch.no_grad()
    def __init__(self, model: Any, weights: str = "model", static: bool | None = None, compile_step: bool = False):
        config = model.config
        self.weights, self.compile_step = weights, compile_step
        # PEFT's wrappers have no weight of their own.
        table = folded_weights(model.embed_tokens)[0].detach()
        self.device, self.dtype = model.device, table.dtype
        self.uses_graphs = self.device.type == "cuda"
        self.static = compile_step or (self.uses_graphs if static is None else static)
        self.heads, self.head_dim = config.num_attention_heads, config.head_dim
        self.eps, self.qk_eps = config.layer_norm_eps, config.qk_norm_eps
        self.theta, self.hidden = config.rope_theta, config.hidden_size
        self.inner = config.intermediate_size
        # Opaque packed weights do not pass through the compiler.
        make = linear_maker(weights, pack=not compile_step)
        blocks = [*model.dual_blocks, *model.single_blocks]
        self.num_dual = len(model.dual_blocks)
        self.layers: list[LayerWeights] = [
            fuse_layer(block.generation_qkv, block.generation_out, make, self.heads) for block in blocks
        ]
        self.norm_eps = torch.full((1,), self.qk_eps, device=self.device)
        heads = {"shape": model.shape_head, "image": model.image_head}
        self.logit_heads = {name: make(*joined([head])) for name, head in heads.items() if head is not None}
        projections = {"shape": model.shape_code_proj, "image": model.image_code_proj}
        folded = {name: (None, None) if each is None else folded_weights(each) for name, each in projections.items()}
        self.embeddings = {
            "shape": (table, model.shape_code_table, *folded["shape"], 0),
            "image": (table, model.image_code_table, *folded["image"], config.image_offset),
        }
        self.stamp = WeightStamp(model)
        self.null_prompt: tuple[Any, Prompt] | None = None
        self.null_passes = 0
        self.kept: Session | None = None
        self._compiled: Callable[..., torch.Tensor] | None = None

    def fits(self, stamp: WeightStamp, weights: str, compile_step: bool) -> bool:
        return self.weights == weights and self.compile_step == compile_step and self.stamp == stamp

    @property
    def bytes_per_step(self) -> int:
        """Bytes of weights that one step reads, with the shape head."""
        return sum(layer.nbytes for layer in self.layers) + self.logit_heads["shape"].nbytes  # type: ignore[attr-defined]

    # The prompt.

    @torch.no_grad()
    def read_prompt(
        self, model: Any, ids: torch.Tensor, modality: str, conditions: dict[str, Any], **visibility: Any
    ) -> Prompt:
        """One uncached pass of the model over leading `ids (U, T)`, with conditioning's padding taken out of the result."""
        output = model(input_ids=ids, modality=modality, logits_to_keep=1, use_cache=True, **conditions, **visibility)
        logits = (output.shape_logits if modality == "shape" else output.image_logits)[:, -1].float()
        valid, length = output.conditioning_mask, output.conditioning_mask.shape[1]
        kept = max(int(valid.sum(dim=1).max()), 1)
        # Valid positions first, in their order.
        order = torch.argsort((~valid).int(), dim=1, stable=True)[:, :kept]
        layers = []
        for index, layer in enumerate(output.past_key_values.layers):
            pair: tuple[Any, ...] = (layer.keys, layer.values)
            if index < self.num_dual and kept < length:
                place = order[:, None, :, None].expand(-1, self.heads, -1, self.head_dim)
                pair = tuple(
                    torch.cat([states[:, :, :length].gather(2, place), states[:, :, length:]], dim=2)
                    for states in pair
                )
            layers.append(pair)
        return Prompt(layers, valid.gather(1, order), logits)

    def read_null_prompt(self, key: Any, read: Callable[[], Prompt]) -> Prompt:
        """`read()`, or its last result where `key` is still the same; `key` None is never kept."""
        if key is not None and self.null_prompt is not None and _same(self.null_prompt[0], key):
            return self.null_prompt[1]
        self.null_passes += 1
        prompt = read()
        if key is not None:
            self.null_prompt = (key, prompt)
        return prompt

    def open(
        self, prompts: list[Prompt], groups: int, samples: int, lead: int, hidden_prefix: int, capacity: int
    ) -> Session:
        """A session behind `prompts`: one of conditional rows and maybe one of unconditional rows, each of 1 or P rows, which
        become `groups` G prompts. `hidden_prefix`: leading positions that the unconditional ones do not see."""
        each = groups // len(prompts)
        pad = SHARED_MULTIPLE if self.static else 1
        width = max(prompt.valid.shape[1] for prompt in prompts)
        width = -(-(width + lead) // pad) * pad - lead
        single = -(-lead // pad) * pad
        capacity = max(1, -(-capacity // BUCKET) * BUCKET if self.static else capacity)
        seen = torch.zeros(groups, width + lead, dtype=torch.bool, device=self.device)
        for number, prompt in enumerate(prompts):
            part = seen[number * each : (number + 1) * each]
            part[:, : prompt.valid.shape[1]] = prompt.valid
            part[:, width + (hidden_prefix if number else 0) :] = True
        seen_single = F.pad(seen[:, width:], (0, single - lead))
        biases = [self._bias(mask) for mask in (seen, seen_single)]
        rows, states = groups * samples, []
        for index in range(len(self.layers)):
            is_dual = index < self.num_dual
            pair = []
            for which in (0, 1):
                shape = (groups, self.heads, width + lead if is_dual else single, self.head_dim)
                shared = torch.zeros(shape, dtype=self.dtype, device=self.device)
                for number, prompt in enumerate(prompts):
                    given = prompt.layers[index][which]
                    part = shared[number * each : (number + 1) * each]
                    text = given.shape[2] - lead
                    part[:, :, :text] = given[:, :, :text]
                    start = width if is_dual else 0
                    part[:, :, start : start + lead] = given[:, :, text:]
                pair.append(shared.flatten(0, 1))
            own = [
                torch.zeros(rows * self.heads, capacity, self.head_dim, dtype=self.dtype, device=self.device)
                for _ in range(2)
            ]
            states.append(LayerState(pair[0], pair[1], own[0], own[1], biases[0 if is_dual else 1]))
        positions = torch.arange(lead, lead + capacity, device=self.device)
        cos, sin = rotary_tables(positions, self.head_dim, self.theta)
        table = torch.stack([cos, sin]) if self.static else torch.complex(cos, sin)
        session = Session(groups, samples, lead, capacity, states, table)
        return self._keep(session) if self.static else session

    def _bias(self, seen: torch.Tensor) -> torch.Tensor | None:
        """`(G heads, 1, L)` to add to scores, or None where all is seen."""
        if bool(seen.all()) and not self.static:
            return None
        bias = torch.zeros(seen.shape, dtype=self.dtype, device=self.device).masked_fill(~seen, -torch.inf)
        return bias[:, None].expand(-1, self.heads, -1).reshape(-1, 1, seen.shape[1])

    def _keep(self, session: Session) -> Session:
        """The kept session filled anew, where it has the same shapes: its graphs read its buffers."""
        kept = self.kept
        if kept is None or kept.key() != session.key():
            self.kept = kept = session
            kept.position = torch.zeros(1, dtype=torch.long, device=self.device)
            kept.own_bias = torch.zeros(1, 1, kept.capacity, dtype=self.dtype, device=self.device)
            kept.code = torch.zeros(kept.rows, dtype=torch.long, device=self.device)
        else:
            for old, new in zip(kept.layers, session.layers, strict=True):
                old.shared_keys.copy_(new.shared_keys)
                old.shared_values.copy_(new.shared_values)
                # Each layer has the one of its kind.
                if old.bias is not None and new.bias is not None:
                    old.bias.copy_(new.bias)
            kept.table.copy_(session.table)
            kept.lead, kept.past = session.lead, 0
        assert kept.own_bias is not None
        kept.own_bias.fill_(-torch.inf)
        return kept

    # Steps.

    def embed_code(self, code: torch.Tensor, modality: str) -> torch.Tensor:
        """Embeds local codes `(B,)` of one modality as `(B, hidden)`: what `embed_ids` gives for them."""
        table, vectors, projection, bias, offset = self.embeddings[modality]
        embeds = F.embedding(code + offset if offset else code, table)
        if vectors is None or projection is None:
            return embeds
        # Only adapters bring a bias.
        embeds = embeds if bias is None else embeds + bias
        return torch.addmm(embeds, F.embedding(code, vectors.to(self.dtype)), projection.t())

    def step(self, session: Session, code: torch.Tensor, read_as: str, modality: str) -> torch.Tensor:
        """Feeds the last codes `(B,)` of modality `read_as`, local; returns logits `(R, K)` over `modality`."""
        if self.static:
            return self._static(session, code, read_as, modality)
        embeds = self.embed_code(code, read_as)
        return self.append(session, embeds[:, None], modality)

    def append(self, session: Session, embeds: torch.Tensor, modality: str) -> torch.Tensor:
        """Feeds embeddings `(B, T, hidden)` of T tokens, B = R or half of it for both guidance halves; logits `(R, K)` after
        the last."""
        length, past = embeds.shape[1], session.past
        if embeds.shape[0] != session.rows:
            embeds = embeds.repeat(2, 1, 1)
        mask = None
        if length > 1:
            later = torch.ones(length, past + length, dtype=torch.bool, device=self.device).triu(past + 1)
            mask = torch.zeros(later.shape, dtype=self.dtype, device=self.device).masked_fill_(later, -torch.inf)[None]
        rotation = session.table[..., past : past + length, :]
        hidden = self._layers(session, embeds.flatten(0, 1), rotation, past, past + length, mask)
        session.past += length
        last = hidden if length == 1 else hidden.unflatten(0, (session.rows, length))[:, -1]
        return self._logits(last, modality)

    def _static(self, session: Session, code: torch.Tensor, read_as: str, modality: str) -> torch.Tensor:
        assert session.position is not None and session.own_bias is not None and session.code is not None
        past = session.past
        # Nothing here waits for the device.
        session.position.fill_(past)
        session.own_bias[..., : past + 1] = 0
        session.code.view(-1, code.shape[0]).copy_(code)
        bucket = min(session.capacity, (past // BUCKET + 1) * BUCKET)
        session.past += 1
        if not self.uses_graphs:
            return self._static_step(session, bucket, read_as, modality)
        key = (bucket, f"{read_as} {modality}")
        if key not in session.graphs:
            session.graphs[key] = self._capture(session, bucket, read_as, modality)
        graph, logits = session.graphs[key]
        graph.replay()
        return logits

    def _capture(self, session: Session, bucket: int, read_as: str, modality: str) -> tuple[Any, torch.Tensor]:
        # A step writes the same values whenever it is repeated, so the warm-up that capture needs changes nothing.
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self._static_step(session, bucket, read_as, modality)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            logits = self._static_step(session, bucket, read_as, modality)
        return graph, logits

    def _static_step(self, session: Session, bucket: int, read_as: str, modality: str) -> torch.Tensor:
        if not self.compile_step:
            return self._static_forward(session, bucket, read_as, modality)
        if self._compiled is None:
            self._compiled = torch.compile(self._static_forward, fullgraph=True, dynamic=False)
        return self._compiled(session, bucket, read_as, modality)

    def _static_forward(self, session: Session, bucket: int, read_as: str, modality: str) -> torch.Tensor:
        assert session.position is not None and session.own_bias is not None and session.code is not None
        hidden = self.embed_code(session.code, read_as)
        rotation = session.table.index_select(-2, session.position)
        hidden = self._layers(session, hidden, rotation, session.position, bucket, session.own_bias[..., :bucket])
        return self._logits(hidden, modality)

    def _logits(self, hidden: torch.Tensor, modality: str) -> torch.Tensor:
        return self.logit_heads[modality](self._norm(hidden)).float()

    def _norm(self, hidden: torch.Tensor) -> torch.Tensor:
        if self.dtype == torch.float32:
            return torch.layer_norm(hidden, (self.hidden,), None, None, self.eps)
        return torch.layer_norm(hidden.float(), (self.hidden,), None, None, self.eps).to(self.dtype)

    def _layers(
        self,
        session: Session,
        hidden: torch.Tensor,
        rotation: torch.Tensor,
        place: int | torch.Tensor,
        length: int,
        mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """All blocks over `hidden (R T, width)`, whose tokens stand from own position `place` on; own keys `[0, length)` are
        read, under `mask` `(1, T, length)` where not all of them are seen by all."""
        rows, heads = session.rows, self.heads
        for layer, state in zip(self.layers, session.layers, strict=True):
            qkv = layer.qkv(self._norm(hidden)).view(rows, -1, 3 * heads, self.head_dim)
            query = self._enter(layer, state, qkv, rotation, place)
            mixed = self._attend(session, state, query, length, mask)
            hidden = layer.out(mixed).add_(hidden)
            gate_up = layer.gate_up(self._norm(hidden))
            inner = F.silu(gate_up[:, : self.inner]).mul_(gate_up[:, self.inner :])
            hidden = layer.down(inner).add_(hidden)
        return hidden

    def _enter(
        self,
        layer: LayerWeights,
        state: LayerState,
        qkv: torch.Tensor,
        rotation: torch.Tensor,
        place: int | torch.Tensor,
    ) -> torch.Tensor:
        """Norms and rotates queries and keys of `qkv (R, T, 3 heads, D)`, writes keys and values; returns `(R, heads, T, D)`."""
        heads, length = self.heads, qkv.shape[1]
        both = qkv[:, :, : 2 * heads].float()
        size = torch.linalg.vector_norm(both, dim=-1, keepdim=True)
        scale = torch.addcmul(self.norm_eps, size, size, value=1 / self.head_dim).rsqrt_()
        both = (both * scale).mul_(layer.norm).view(qkv.shape[0], length, 2 * heads, -1, 2)
        values = qkv[:, :, 2 * heads :].transpose(1, 2)
        both = _turn(both, rotation).transpose(1, 2).to(self.dtype)
        own_keys = state.own_keys.view(qkv.shape[0], heads, -1, self.head_dim)
        own_values = state.own_values.view(qkv.shape[0], heads, -1, self.head_dim)
        if isinstance(place, int):
            own_keys.narrow(2, place, length).copy_(both[:, heads:])
            own_values.narrow(2, place, length).copy_(values)
        else:
            own_keys.index_copy_(2, place, both[:, heads:])
            own_values.index_copy_(2, place, values)
        return both[:, :heads]

    def _attend(
        self, session: Session, state: LayerState, query: torch.Tensor, length: int, mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Attention of `(R, heads, T, D)` over the shared keys of the row's prompt and its own; `(R T, heads D)`."""
        rows, heads, tokens, dim = query.shape
        own = query.reshape(rows * heads, tokens, dim)
        asked = _gather(own, session, heads)
        shared_keys = state.shared_keys.transpose(1, 2)
        if state.bias is None:
            shared_scores = torch.bmm(asked, shared_keys)
        else:
            shared_scores = torch.baddbmm(state.bias, asked, shared_keys)
        own_keys = state.own_keys[:, :length].transpose(1, 2)
        own_scores = torch.bmm(own, own_keys) if mask is None else torch.baddbmm(mask, own, own_keys)
        scores = torch.cat([_spread(shared_scores, session, heads), own_scores], dim=-1)
        weights = scores.softmax(dim=-1, dtype=torch.float32).to(self.dtype)
        known = shared_scores.shape[-1]
        mixed = torch.bmm(_gather(weights[..., :known], session, heads), state.shared_values)
        mixed = torch.baddbmm(_spread(mixed, session, heads), weights[..., known:], state.own_values[:, :length])
        return mixed.view(rows, heads, tokens, dim).transpose(1, 2).reshape(rows * tokens, heads * dim)


def _turn(pairs: torch.Tensor, rotation: torch.Tensor) -> torch.Tensor:
    """Rotates pairs `(R, T, heads, D / 2, 2)` by complex `(T, D / 2)`, or by real `(2, T, D / 2)`, which compilers fuse."""
    if rotation.is_complex():
        return torch.view_as_real(torch.view_as_complex(pairs) * rotation[:, None]).flatten(-2)
    cos, sin = rotation[:, :, None]
    even, odd = pairs.unbind(-1)
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)


def _gather(rows: torch.Tensor, session: Session, heads: int) -> torch.Tensor:
    """`(G n heads, T, X)` by row as `(G heads, n T, X)` by prompt."""
    if session.samples == 1:
        return rows
    tokens, last = rows.shape[1:]
    by_prompt = rows.unflatten(0, (session.groups, session.samples, heads)).transpose(1, 2)
    return by_prompt.reshape(session.groups * heads, session.samples * tokens, last)


def _spread(prompts: torch.Tensor, session: Session, heads: int) -> torch.Tensor:
    """The inverse of `_gather`."""
    if session.samples == 1:
        return prompts
    by_prompt = prompts.view(session.groups, heads, session.samples, -1, prompts.shape[-1])
    return by_prompt.transpose(1, 2).reshape(session.rows * heads, -1, prompts.shape[-1])


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        return first.shape == second.shape and first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, tuple) and isinstance(second, tuple):
        return len(first) == len(second) and all(_same(a, b) for a, b in zip(first, second, strict=True))
    return type(first) is type(second) and first == second

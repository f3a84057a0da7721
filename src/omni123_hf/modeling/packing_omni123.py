"""Several training sequences in one row of the backbone, so that a batch of unequal tasks holds no padding.

A packed row holds *documents* one after another: `document_ids (1, T)` say to which document each generation position
belongs, 0..D-1 in ascending order, and D for padding at the end. Every document has its own text (row d of the text
inputs), prefix length and flags; positions count from 0 in each, and nothing is visible across documents. So a packed row
gives each document the same states as a row of its own would.
"""

from collections.abc import Sequence as Items
from dataclasses import dataclass

import torch

from ..errors import Omni123Error
from .checks_omni123 import read_pairs
from .masking import AttentionMasks, DocumentMask, VisibilityRule
from .tasks import Sequence


# As a packed row's own multiple does, this keeps the number of different lengths small.
CONDITIONING_MULTIPLE = 64


@dataclass(frozen=True)
class PackedRow:
    """`input_ids`, `labels` and `document_ids` are int64 `(1, T)`, `prefix_length` `(D,)`."""

    input_ids: torch.Tensor
    labels: torch.Tensor
    document_ids: torch.Tensor
    prefix_length: torch.Tensor


def pack_sequences(sequences: Items[Sequence], pad_id: int, multiple: int = 1) -> PackedRow:
    """Lays out single sequences (ids `(T_d,)`) as one row, padded at its end to a multiple of `multiple` positions.

    A multiple keeps the number of different lengths small, and with it what `torch.compile` and flex attention compile.
    """
    if not sequences or any(sequence.ids.ndim != 1 for sequence in sequences):
        raise Omni123Error("packing takes one or more single sequences, ids of shape (T,).")
    lengths = torch.tensor([len(sequence.ids) for sequence in sequences])
    padding = -int(lengths.sum()) % multiple
    documents = torch.arange(len(sequences) + 1).repeat_interleave(torch.cat([lengths, torch.tensor([padding])]))
    ids = torch.cat([*(s.ids for s in sequences), torch.full((padding,), pad_id)])
    labels = torch.cat([*(s.labels for s in sequences), torch.full((padding,), -100)])
    prefix = torch.tensor([s.prefix_length for s in sequences])
    return PackedRow(ids[None], labels[None], documents[None], prefix)


def document_positions(document_ids: torch.Tensor) -> torch.Tensor:
    """`(T,)` positions inside each document of `document_ids (1, T)`."""
    documents = document_ids[0].contiguous()
    return torch.arange(len(documents), device=documents.device) - torch.searchsorted(documents, documents)


def check_documents(document_ids: torch.Tensor, input_ids: torch.Tensor, documents: int) -> None:
    """Raises `Omni123Error` unless `document_ids` number the documents of one row in order."""
    if document_ids.shape != input_ids.shape or input_ids.shape[0] != 1:
        raise Omni123Error(
            f"document_ids are {tuple(document_ids.shape)} and input_ids {tuple(input_ids.shape)}: a packed batch is one row, "
            "(1, length) both."
        )
    falls = (document_ids[0].diff() < 0).any()
    # One read, because it waits for an accelerator.
    [[lowest, highest], [has_falls, _]] = read_pairs([document_ids.aminmax(), (falls, falls)])
    if has_falls or lowest < 0 or highest > documents:
        raise Omni123Error(
            f"document_ids must ascend from 0, with {documents} (the number of documents) for padding at the end."
        )


@dataclass(frozen=True)
class PackedVisibilityRule(VisibilityRule):
    """The rule of `masking.py` inside each document, and nothing visible between documents.

    `conditioning_mask` is `(1, L)`, the documents' streams one after another, and `conditioning_documents (L,)` says whose
    each position is. `document_ids` and `positions` are `(T,)`; `prefix_length` and `drop_prefix` are `(D + 1,)`, with an
    entry for the padding.
    """

    document_ids: torch.Tensor | None = None
    positions: torch.Tensor | None = None
    conditioning_documents: torch.Tensor | None = None

    def generation(self, row: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        assert self.document_ids is not None and self.positions is not None
        document = self.document_ids[query]
        place, key_place = self.positions[query], self.positions[key]
        # In the plain rule a document stands where a row stands.
        return (document == self.document_ids[key]) & super().generation(document, place, key_place)

    def last_dual(self, row: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        assert self.document_ids is not None and self.conditioning_documents is not None
        length = self.conditioning_mask.shape[1]
        place = key.clamp(max=length - 1)
        text = self.conditioning_mask[row, place] & (self.conditioning_documents[place] == self.document_ids[query])
        return torch.where(key < length, text, self.generation(row, query, (key - length).clamp(min=0)))

    def dual(self, row: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        assert self.conditioning_documents is not None
        length = self.conditioning_mask.shape[1]
        place, asking = key.clamp(max=length - 1), self.conditioning_documents[query.clamp(max=length - 1)]
        text = self.conditioning_mask[row, place] & (key < length) & (self.conditioning_documents[place] == asking)
        if self.text_causal:
            text = text & (key <= query)
        behind = self.last_dual(row, head, (query - length).clamp(min=0), key)
        return torch.where(query < length, text | (key == query), behind)


def pack_conditioning(conditioning: torch.Tensor, valid: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The streams `(D, C, hidden)` of D documents as one `(1, L, hidden)`, its validity `(1, L)` and documents `(L,)`.

    What `valid (D, C)` excludes, nobody sees: it is left out, up to a multiple of `CONDITIONING_MULTIPLE` positions.
    """
    flat, stream = valid.flatten(), conditioning.flatten(0, 1)
    kept = torch.arange(len(flat), device=flat.device)
    # Counting waits for an accelerator and makes a shape of a value, which a compiled graph cannot follow.
    if not torch.compiler.is_compiling():
        count = -(-int(flat.sum()) // CONDITIONING_MULTIPLE) * CONDITIONING_MULTIPLE
        # Stable: the valid ones in their order, then as many of the others as fill the multiple.
        kept = flat.byte().argsort(descending=True, stable=True)[:count]
    return stream[kept][None], flat[kept][None], kept // valid.shape[1]


def packed_rule(
    valid: torch.Tensor,
    conditioning_documents: torch.Tensor,
    document_ids: torch.Tensor,
    positions: torch.Tensor,
    prefix_length: torch.Tensor | None,
    drop_prefix: torch.Tensor | None,
    text_causal: bool,
) -> PackedVisibilityRule:
    """The rule of a packed row: `valid (1, L)` and `conditioning_documents (L,)` from `pack_conditioning`, `prefix_length (D,)`,
    `drop_prefix (D,)`."""

    def with_padding(values: torch.Tensor | None) -> torch.Tensor | None:
        return None if values is None else torch.cat([values, values.new_zeros(1)])

    return PackedVisibilityRule(
        valid,
        0,
        with_padding(prefix_length),
        with_padding(drop_prefix),
        text_causal,
        document_ids[0],
        positions,
        conditioning_documents,
    )


def document_table(documents: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of positions `(L,)` labelled by document: their places `(count, W)` by document, which entries of that are filled, and
    where in the flat table each position stands `(L,)`.

    Padding, labelled `count`, is in no document: nobody sees it, and it takes the result of the first entry.
    """
    order = documents.argsort(stable=True)
    lengths = torch.bincount(documents, minlength=count + 1)[:count]
    width, total = torch.stack([lengths.max(), lengths.sum()]).tolist()
    order = order[:total]
    owner = documents[order]
    rank = torch.arange(total, device=order.device) - (lengths.cumsum(0) - lengths)[owner]
    table = order.new_zeros(count, width)
    filled = torch.zeros_like(table, dtype=torch.bool)
    table[owner, rank], filled[owner, rank] = order, True
    places = torch.zeros_like(documents)
    places[order] = owner * width + rank
    return table, filled, places


def build_document_masks(rule: PackedVisibilityRule, documents: int) -> AttentionMasks:
    """The rule of a packed row of `documents` D, for sdpa: each document attends in a row of its own, padded to the longest."""
    assert rule.document_ids is not None and rule.conditioning_documents is not None
    generation = document_table(rule.document_ids, documents)
    both = document_table(torch.cat([rule.conditioning_documents, rule.document_ids]), documents)
    row = torch.zeros(1, 1, 1, dtype=torch.long, device=rule.document_ids.device)

    def mask(predicate, asking: tuple[torch.Tensor, ...], asked: tuple[torch.Tensor, ...]) -> DocumentMask:
        queries, is_query, places = asking
        keys, is_key, _ = asked
        allowed = predicate(row, row, queries[:, :, None], keys[:, None, :]) & is_key[:, None]
        # A row without any key is undefined: what fills up a document sees the first.
        first = torch.arange(keys.shape[1], device=keys.device) == 0
        allowed = torch.where(is_query[:, :, None], allowed, first)
        return DocumentMask(queries, keys, allowed[:, None], places)

    return AttentionMasks(
        dual=mask(rule.dual, both, both),
        last_dual=mask(rule.last_dual, generation, both),
        single=mask(rule.single, generation, generation),
    )

"""Captions that an asset brings, kept where they fit its renders: alignment filtering without a model that writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from omni123_hf.data.captioning.alignment import AlignmentFilter
from omni123_hf.data.captioning.cache import JsonCache, views_hash
from omni123_hf.data.captioning.conversation import CaptionRequest
from omni123_hf.data.captioning.result import CaptionResult, Provenance
from omni123_hf.data.captioning.runner import keep_aligned
from omni123_hf.errors import Omni123Error


@dataclass(frozen=True)
class GivenCaptioner:
    """A captioner that adds no words. view_size: pixels a side of the renders that the scorer sees."""

    alignment: AlignmentFilter
    cache: JsonCache
    view_size: int = 384

    @property
    def identity(self) -> dict[str, Any]:
        """The scorer and threshold that captions must pass, and what it sees."""
        return {"captioner": "given", "view_size": self.view_size, "alignment": self.alignment.identity}

    def caption(self, request: CaptionRequest) -> CaptionResult:
        """`request.given` without the captions that do not fit. Raises as `AlignmentFilter.keep`."""
        if request.given is None:
            raise Omni123Error(f"{request.asset_id}: there are no captions to judge")
        captions = {level: list(texts) for level, texts in request.given.items()}
        result = CaptionResult(request.asset_id, captions, "", "", Provenance("given", "none", "given-1"))
        return keep_aligned(result, request.views, views_hash(request.views), self.alignment, self.cache)

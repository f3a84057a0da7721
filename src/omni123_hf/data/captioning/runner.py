"""Many assets: threads wait for the endpoint, the cache pays for nothing twice, one bad asset never stops the run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

from PIL import Image

from omni123_hf.data.captioning.alignment import AlignmentFilter
from omni123_hf.data.captioning.cache import JsonCache, views_hash
from omni123_hf.data.captioning.conversation import CaptionRequest, ConversationCaptioner
from omni123_hf.data.captioning.result import CaptionResult
from omni123_hf.errors import Omni123Error, RejectedError


@dataclass(frozen=True)
class Rejected:
    """An asset without captions: `reason` for counting, `detail` for reading."""

    asset_id: str
    reason: str
    detail: str


@dataclass(frozen=True)
class CachedCaptioner:
    """A captioner that asks nothing twice: asset, renders, metadata, model, prompts and settings name the answer.

    alignment: its scores have an entry of their own, named by captions, renders and scorer: another scorer costs no
    conversation, and another threshold costs nothing.
    """

    captioner: ConversationCaptioner
    cache: JsonCache
    alignment: AlignmentFilter | None = None

    @property
    def identity(self) -> dict[str, Any]:
        """As `ConversationCaptioner.identity`, and the scorer and threshold that captions must pass."""
        return self.captioner.identity | {"alignment": self.alignment.identity if self.alignment is not None else None}

    @property
    def view_size(self) -> int:
        """As `ConversationCaptioner.view_size`."""
        return self.captioner.view_size

    def caption(self, request: CaptionRequest) -> CaptionResult:
        """As `ConversationCaptioner.caption` and `AlignmentFilter.apply`."""
        views = views_hash(request.views)
        inputs = {
            "asset_id": request.asset_id,
            "views": views,
            "metadata": request.metadata.to_dict(),
            **self.captioner.identity,
        }
        stored = self.cache.get_or_make(inputs, lambda: self.captioner.caption(request).to_dict())
        result = CaptionResult.from_dict(stored)
        if self.alignment is None:
            return result
        return keep_aligned(result, request.views, views, self.alignment, self.cache)


def keep_aligned(
    result: CaptionResult, images: Mapping[str, Image.Image], views: str, alignment: AlignmentFilter, cache: JsonCache
) -> CaptionResult:
    """`AlignmentFilter.apply` with scores from the cache. views: `views_hash` of the images."""
    scored = {"captions": result.captions, "views": views, "scorer": alignment.scorer.identity}
    return alignment.keep(result, cache.get_or_make(scored, lambda: alignment.scores(result, images)))


def caption_assets(
    requests: Iterable[CaptionRequest], captioner: CachedCaptioner, workers: int = 8
) -> Iterator[CaptionResult | Rejected]:
    """Captions of each asset as they are ready, in any order; `requests` is read only a little ahead (it holds
    images).

    An asset that cannot be captioned comes as `Rejected`. An endpoint that is gone raises `BackendError`: what is
    done is in the cache, so the same call goes on later.
    """
    if workers < 1:
        raise Omni123Error(f"workers must be at least 1, got {workers}")

    def work(request: CaptionRequest) -> CaptionResult | Rejected:
        try:
            return captioner.caption(request)
        except RejectedError as error:
            return Rejected(request.asset_id, error.reason, str(error))

    yield from _ahead(work, requests, workers)


def _ahead(
    work: Callable[[CaptionRequest], CaptionResult | Rejected], requests: Iterable[CaptionRequest], workers: int
) -> Iterator[CaptionResult | Rejected]:
    with ThreadPoolExecutor(workers) as pool:
        waiting: set[Future[CaptionResult | Rejected]] = set()
        try:
            for request in requests:
                waiting.add(pool.submit(work, request))
                if len(waiting) >= 2 * workers:
                    done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
            while waiting:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        except BaseException:
            # Finish only what is being asked now.
            pool.shutdown(wait=False, cancel_futures=True)
            raise

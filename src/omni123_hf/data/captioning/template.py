"""The result of a captioner without a model: our generator's and the sources' own template captions, or a name."""

from __future__ import annotations

from omni123_hf.data.assets import Asset, ParametricSpec, open_asset
from omni123_hf.data.captioning.result import CaptionResult, Metadata, Provenance
from omni123_hf.data.sources.base import seeded_generator
from omni123_hf.data.sources.captions import Description, describe, size_phrase
from omni123_hf.errors import Omni123Error


TEMPLATE_VERSION = "template-v1"


def template_captions(asset: Asset) -> CaptionResult:
    """Captions of a parametric object from its program, and of a source's asset as its catalogue words them."""
    # A spec's program is drawn where it is built; drawing it again here would describe another object.
    words = open_asset(asset).captions if isinstance(asset, ParametricSpec) else asset.captions
    captions = {level: list(texts) for level, texts in words.items()}
    return _result(asset.id, captions, asset.category, asset.category)


def describe_metadata(asset_id: str, metadata: Metadata, category: str = "") -> CaptionResult:
    """Captions at three lengths of an asset of which only metadata are known; without a name raises `Omni123Error`."""
    if not metadata.name.strip():
        raise Omni123Error(f"{asset_id}: template captions need a name; give the asset one or caption it with a model")
    size = size_phrase(*metadata.size_cm) if metadata.size_cm is not None else ""
    name = " ".join(metadata.name.lower().split())
    words = describe(Description(name, size=size), seeded_generator("captions", asset_id))
    return _result(asset_id, words, category or name, name)


def _result(asset_id: str, captions: dict[str, list[str]], category: str, subject: str) -> CaptionResult:
    return CaptionResult(
        asset_id=asset_id, captions=captions, category=category, subject=subject,
        provenance=Provenance("template", "none", TEMPLATE_VERSION),
    )  # fmt: skip

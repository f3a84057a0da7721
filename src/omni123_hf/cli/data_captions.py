"""The options about captions and about models that judge, shared by `omni123 data prepare` and `omni123 data synthesize`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast, get_args

import typer

from omni123_hf.errors import Omni123Error


if TYPE_CHECKING:
    from omni123_hf.data.captioning.alignment import AlignmentFilter
    from omni123_hf.data.captioning.backends import ChatBackend
    from omni123_hf.data.captioning.given import GivenCaptioner
    from omni123_hf.data.captioning.prompts import PromptSet
    from omni123_hf.data.captioning.runner import CachedCaptioner

ResponseFormat = Literal["json_schema", "json_object", "none"]
# The scale of each kind of score.
SCALES = {"clip": (-1.0, 1.0), "judge": (0.0, 1.0)}

CaptionEndpoint = Annotated[
    str | None,
    typer.Option("--caption-endpoint", help="OpenAI-compatible address of a vision-language model, ending in /v1."),
]
CaptionModel = Annotated[str | None, typer.Option("--caption-model", help="Name of the model at the endpoint.")]
CaptionTransformers = Annotated[
    str | None,
    typer.Option(
        "--caption-transformers",
        help="Folder or Hub id of an image-text-to-text model that runs here instead of an endpoint.",
    ),
]
CaptionDevice = Annotated[
    str | None,
    typer.Option("--caption-device", help="Where models of this machine run: cpu or cuda; cuda where there is one."),
]
CaptionResponseFormat = Annotated[
    str,
    typer.Option(
        "--caption-response-format", help="What the endpoint is asked to hold to: json_schema, json_object or none."
    ),
]
CaptionPrompts = Annotated[
    Path | None, typer.Option("--caption-prompts", help="Folder of prompts, an edited copy of captioning/prompts/v1.")
]
CaptionCache = Annotated[Path, typer.Option("--caption-cache", help="Folder of answers, kept between runs.")]
Alignment = Annotated[
    str | None,
    typer.Option(
        "--alignment", help="Drop captions that do not fit the renders: clip, or judge (a model rates them)."
    ),
]
AlignmentModel = Annotated[
    str | None,
    typer.Option(
        "--alignment-model",
        help="clip: folder or Hub id. judge: name at the endpoint; the model that writes if not given.",
    ),
]
AlignmentThreshold = Annotated[
    float | None,
    typer.Option("--alignment-threshold", help="Least score of a caption: clip -1 to 1, judge 0 to 1. No default."),
]


@dataclass(frozen=True)
class CaptionOptions:
    """What the command line says about captions; `check` before anything is loaded."""

    endpoint: str | None = None
    model: str | None = None
    transformers: str | None = None
    device: str | None = None
    response_format: str = "json_schema"
    prompts: Path | None = None
    cache: Path = Path("data/captions")
    alignment: str | None = None
    alignment_model: str | None = None
    alignment_threshold: float | None = None

    @property
    def writes(self) -> bool:
        """Whether a model writes the captions."""
        return bool(self.model or self.transformers)

    @property
    def is_local(self) -> bool:
        """Whether a model runs in the processes that prepare."""
        return bool(self.transformers) or self.alignment == "clip"

    def check(self) -> None:
        """Raise `Omni123Error` for options that contradict each other or would have no effect."""
        judged = self.alignment == "judge"
        if self.transformers and self.model:
            raise Omni123Error("--caption-transformers and --caption-model name two models; give one of them")
        check_endpoint(
            "caption", self.endpoint, self.model or (self.alignment_model if judged else None), self.response_format
        )
        if self.prompts is not None and not (self.writes or judged):
            raise Omni123Error(
                "--caption-prompts are asked of a model; give --caption-model or --caption-transformers"
            )
        if self.device is not None and not self.is_local:
            raise Omni123Error(
                "--caption-device is of a model that runs here: --caption-transformers or --alignment clip"
            )
        self._check_alignment()

    def _check_alignment(self) -> None:
        if self.alignment is None:
            if self.alignment_model is not None or self.alignment_threshold is not None:
                raise Omni123Error("--alignment-model and --alignment-threshold need --alignment clip or judge")
            return
        if self.alignment not in SCALES:
            raise Omni123Error(f"--alignment must be clip or judge, got {self.alignment!r}")
        low, high = SCALES[self.alignment]
        if self.alignment_threshold is None or not low <= self.alignment_threshold <= high:
            raise Omni123Error(
                f"--alignment {self.alignment} needs --alignment-threshold from {low:g} to {high:g}; choose it on captions "
                "that you have read (docs/captioning.md)"
            )
        if self.alignment == "clip" and not self.alignment_model:
            raise Omni123Error("--alignment clip needs --alignment-model, the folder or Hub id of a CLIP model")
        if self.alignment == "judge" and not self.endpoint and not self.transformers:
            raise Omni123Error(
                "--alignment judge needs a model that judges: --caption-endpoint with --caption-model or "
                "--alignment-model, or --caption-transformers"
            )

    def captioner(self, device: str | None = None) -> CachedCaptioner | GivenCaptioner | None:
        """What writes captions, or only judges those that are there; None when the options name neither.

        device: of models of this machine, where the options name none.
        """
        if not self.writes and not self.alignment:
            return None
        from omni123_hf.data.captioning.cache import JsonCache
        from omni123_hf.data.captioning.conversation import ConversationCaptioner
        from omni123_hf.data.captioning.given import GivenCaptioner
        from omni123_hf.data.captioning.runner import CachedCaptioner

        if self.is_local:
            from transformers.utils import logging as transformers_logging

            transformers_logging.disable_progress_bar()
        # Workers may stand in another folder.
        cache = JsonCache(self.cache.absolute())
        prompts = self.prompt_set()
        writer = self._writer(device)
        alignment = self._alignment_filter(writer, prompts, device)
        if writer is None:
            assert alignment is not None
            return GivenCaptioner(alignment, cache)
        return CachedCaptioner(ConversationCaptioner(writer, prompts), cache, alignment)

    def prompt_set(self) -> PromptSet | None:
        """The prompts of a folder of the user's; None for the shipped ones."""
        from omni123_hf.data.captioning.prompts import PromptSet

        return None if self.prompts is None else PromptSet.load(self.prompts)

    def _writer(self, device: str | None) -> ChatBackend | None:
        if self.transformers:
            from omni123_hf.data.captioning.local_models import LocalBackend, usable_device

            return LocalBackend.open(self.transformers, usable_device(self.device or device))
        return self._at_endpoint(self.model) if self.model else None

    def _at_endpoint(self, model: str) -> ChatBackend:
        assert self.endpoint is not None
        return endpoint_backend(self.endpoint, model, self.response_format)

    def _alignment_filter(
        self, writer: ChatBackend | None, prompts: PromptSet | None, device: str | None
    ) -> AlignmentFilter | None:
        if self.alignment is None:
            return None
        from omni123_hf.data.captioning.alignment import AlignmentFilter, AlignmentScorer, JudgeScorer
        from omni123_hf.data.captioning.judge import Judge
        from omni123_hf.data.captioning.local_models import LocalClip, usable_device

        assert self.alignment_threshold is not None
        scorer: AlignmentScorer
        if self.alignment == "clip":
            assert self.alignment_model is not None
            scorer = LocalClip.open(self.alignment_model, usable_device(self.device or device))
        else:
            judge = self._at_endpoint(self.alignment_model) if self.alignment_model else writer
            assert judge is not None
            scorer = JudgeScorer(Judge(judge, prompts))
        return AlignmentFilter(scorer, self.alignment_threshold)


def check_endpoint(kind: str, endpoint: str | None, model: str | None, response_format: str) -> None:
    """Raise `Omni123Error` unless the options `--KIND-endpoint`, `-model` and `-response-format` name a model or nothing."""
    if bool(endpoint) != bool(model):
        raise Omni123Error(f"a model at an endpoint needs both --{kind}-endpoint and --{kind}-model")
    known = get_args(ResponseFormat)
    if response_format not in known:
        raise Omni123Error(f"--{kind}-response-format must be {', '.join(known)}, got {response_format!r}")
    if not endpoint and response_format != "json_schema":
        raise Omni123Error(f"--{kind}-response-format is of an endpoint; give --{kind}-endpoint with it")


def endpoint_backend(endpoint: str, model: str, response_format: str) -> Any:
    """The model at an endpoint; an address that is none raises `Omni123Error`."""
    from omni123_hf.data.captioning.openai_backend import EndpointSettings, OpenAIBackend

    settings = EndpointSettings(response_format=cast(ResponseFormat, response_format))
    return OpenAIBackend(endpoint, model, settings)

"""What a person reads: errors as one line, progress as a bar, facts about a mesh in words."""

import html
import logging
from typing import Any

from omni123_hf.app.jobs import JobCancelled, Progress
from omni123_hf.errors import Omni123Error


logger = logging.getLogger(__name__)
UNEXPECTED = "something went wrong on the server; its log has the details"


def error_line(error: BaseException) -> str:
    """One line for the client. Errors that are not the user's are logged with their traceback, and not shown."""
    if isinstance(error, Omni123Error | JobCancelled):
        return " ".join(str(error).split())
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        logger.error("out of memory", exc_info=error)
        return "out of memory; use a lower resolution or fewer samples"
    logger.error("a job failed", exc_info=error)
    return UNEXPECTED


def progress_bar(progress: Progress) -> str:
    """HTML: what is being done, and how far it is."""
    share = progress.done / progress.total if progress.total else 0.0
    counted = f" {progress.done:,} of {progress.total:,}" if progress.total else ""
    return (
        f'<div class="job" role="status"><div class="job-text">{html.escape(progress.stage)}{counted}</div>'
        f'<div class="job-track"><div class="job-fill" style="width:{share:.1%}"></div></div></div>'
    )


def status_line(text: str, kind: str = "") -> str:
    """HTML: one line of text. kind: "", "good" or "bad"."""
    return f'<div class="job {kind}" role="status"><div class="job-text">{html.escape(text)}</div></div>'


def health_words(health: dict[str, Any] | None, failure: str | None) -> str:
    """Markdown: what is sound about a mesh and what is not."""
    if health is None:
        return f"**No surface.** {html.escape(failure or '')}. Try another seed, another wording or more samples."
    closed = "**Watertight**" if health["watertight"] else "**Not watertight**"
    pieces = f"{health['components']:,} piece" + ("" if health["components"] == 1 else "s")
    parts = [closed, f"{health['faces']:,} faces", pieces]
    if health["genus"] is not None:
        parts.append("no tunnel" if not health["genus"] else f"{health['genus']} tunnel(s) or handle(s)")
    if not health["winding_consistent"]:
        parts.append("faces point in mixed directions")
    return " · ".join(parts)


def locality_words(locality: dict[str, Any] | None, changed: bool | None) -> str:
    """Markdown: how much an edit changed, and whether the rest stayed where it was."""
    if locality is None:
        return ""
    if not changed:
        return "The edit changed nothing: the model gave the same shape again."
    regions = len(locality["regions"])
    rest = locality.get("chamfer_outside")
    text = f"**{locality['changed_volume_share']:.1%}** of the volume changed, in {regions} region" + (
        "" if regions == 1 else "s"
    )
    if rest is not None:
        text += f"; outside of them the surface moved by {rest:.4f} on average (longest side 1.92)"
    return text + "."

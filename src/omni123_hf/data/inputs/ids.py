"""Ids of found assets: safe file names that do not change when other assets come or go."""

from __future__ import annotations

import hashlib
import re


MAX_SLUG = 60
_SAFE = re.compile(r"[a-z0-9][a-z0-9._-]{0,119}")
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?")


def slug(text: str) -> str:
    """Lower-case letters, digits and single hyphens of `text`, at most 60 characters; "asset" when nothing is left."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:MAX_SLUG].rstrip("-") or "asset"


def given_id(text: str) -> str:
    """An id that the source states: itself when it is a safe file name, otherwise a slug and a hash of it."""
    # Upper case is not safe: two ids that differ in case only are one file on some systems.
    if _SAFE.fullmatch(text) and not _RESERVED.fullmatch(text) and not text.endswith("."):
        return text
    return f"{slug(text)}-{_digest(text)}"


def path_id(source: str, relative: str) -> str:
    """An id for a file by its place in the source. The hash tells apart files whose names differ in what a slug drops."""
    stem = relative.rsplit(".", 1)[0]
    return f"{slug(source)}-{slug(stem)}-{_digest(relative)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:8]

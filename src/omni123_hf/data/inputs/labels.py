"""`LABEL=PATH`: the name under which a source's assets are recorded."""

import re
from pathlib import Path


def split_label(text: str) -> tuple[str, str]:
    """Label ("" where there is none) and source. A path that holds "=" itself and exists has no label."""
    label, separator, rest = text.partition("=")
    if separator and re.fullmatch(r"[\w.-]+", label) and not Path(text).exists():
        return label, rest
    return "", text

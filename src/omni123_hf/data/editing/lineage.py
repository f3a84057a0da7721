"""Generators whose terms reach the shapes they made: such pairs are read only by a decision that is stated."""

from __future__ import annotations

from collections.abc import Sequence

from omni123_hf.errors import Omni123Error


# Name as it stands in a generator chain (lower case, start of an entry) to the reason.
RESTRICTED_GENERATORS = {
    "hunyuan3d": (
        "the licences of Hunyuan3D-2 and 2.1 forbid using their outputs to improve any other AI model and do not cover"
        " the European Union, the United Kingdom and South Korea; another licence on the data set does not undo that"
    ),
}


def licence_warning(chain: Sequence[str]) -> str | None:
    """Why shapes of this chain may not train a model, None when nothing is known against it."""
    for entry in chain:
        for name, reason in RESTRICTED_GENERATORS.items():
            if entry.lower().startswith(name):
                return f"made with {entry}: {reason}"
    return None


def check_lineage(chain: Sequence[str], allow_restricted: bool, what: str) -> str | None:
    """The warning to record; a restricted chain raises `Omni123Error` unless it is allowed."""
    warning = licence_warning(chain)
    if warning is not None and not allow_restricted:
        raise Omni123Error(
            f"{what} is {warning}. Pass allow_restricted=True (--allow-restricted) only if you may use it all the same"
        )
    return warning

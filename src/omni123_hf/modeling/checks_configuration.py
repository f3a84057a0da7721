"""What the tokenizers' and the VAE's configurations refuse: sizes and factors that no model has.

Called from plain methods, not from `validate_*` ones: errors of those come wrapped in a class that is no `ValueError`.
"""

import math
from typing import Any

from ..errors import Omni123Error


def check_sizes(config: Any, *names: str, at_least: int = 1) -> None:
    """Raises `Omni123Error` unless every named whole number is `at_least` that."""
    for name in names:
        if getattr(config, name) < at_least:
            raise Omni123Error(f"{name} is {getattr(config, name)}: it must be at least {at_least}.")


def check_positive(config: Any, *names: str) -> None:
    """Raises `Omni123Error` unless every named factor is finite and greater than 0."""
    for name in names:
        if not 0 < getattr(config, name) < math.inf:
            raise Omni123Error(f"{name} is {getattr(config, name)}: it must be a finite number greater than 0.")


def check_mlp(config: Any, ratio: str, width: str) -> None:
    """Raises `Omni123Error` unless the MLPs of width `width * ratio` have a channel."""
    check_positive(config, ratio)
    if getattr(config, width) * getattr(config, ratio) < 1:
        raise Omni123Error(
            f"{ratio} {getattr(config, ratio)} leaves the MLPs of {width} {getattr(config, width)} without a channel: "
            "raise it."
        )

"""Named colours and materials. The name is the word used in captions, so every name reads as an adjective."""

from __future__ import annotations

from omni123_hf.errors import Omni123Error


PALETTE: dict[str, tuple[int, int, int]] = {
    "red": (204, 44, 40),
    "orange": (236, 134, 38),
    "yellow": (242, 206, 58),
    "green": (62, 150, 72),
    "blue": (48, 98, 196),
    "purple": (126, 68, 168),
    "pink": (236, 142, 178),
    "brown": (112, 70, 42),
    "black": (46, 46, 50),
    "gray": (132, 134, 138),
    "white": (240, 240, 236),
    "beige": (222, 202, 164),
    "wooden": (184, 132, 78),
    "metal": (178, 186, 196),
    "golden": (218, 172, 60),
}

BRIGHT = ("red", "orange", "yellow", "green", "blue", "purple", "pink")
PAINT = BRIGHT + ("brown", "black", "gray", "white")
FURNITURE = ("wooden", "brown", "white", "black", "red", "blue", "green", "yellow")
METALS = ("metal", "black", "golden", "white")
CERAMIC = ("white", "red", "blue", "green", "yellow", "orange", "pink", "black", "beige")
WALLS = ("white", "beige", "gray", "red", "yellow", "brown", "pink")
ROOFS = ("red", "brown", "black", "blue", "green", "orange")


def rgb(name: str) -> tuple[int, int, int]:
    """RGB in 0..255 of a palette name; an unknown name raises `Omni123Error`."""
    if name not in PALETTE:
        raise Omni123Error(f"unknown colour {name!r}; use one of: {', '.join(PALETTE)}")
    return PALETTE[name]

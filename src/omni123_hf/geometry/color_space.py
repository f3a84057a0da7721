"""The one place where display colours (sRGB) and linear light turn into each other (IEC 61966-2-1).

Colours in memory are display values: vertex and face colours of a mesh, texels, pixels. So are the numbers in PLY and OBJ files.
glTF differs: its textures hold sRGB, its vertex colours (`COLOR_0`) and factors linear light (glTF 2.0 §3.9.2). `geometry.export`
converts on the way out, `geometry.loading.gltf_material` on the way in. Blender's colour attributes are linear, too.
"""

import numpy as np


def linear_from_srgb(color: np.ndarray) -> np.ndarray:
    """Linear light of sRGB values, both in 0..1, of any shape."""
    return np.where(color <= 0.04045, color / 12.92, ((color + 0.055) / 1.055) ** 2.4)


def srgb_from_linear(color: np.ndarray) -> np.ndarray:
    """sRGB values of linear light, both in 0..1, of any shape."""
    return np.where(color <= 0.0031308, color * 12.92, 1.055 * np.maximum(color, 0.0) ** (1 / 2.4) - 0.055)

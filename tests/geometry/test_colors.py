from __future__ import annotations

import numpy as np
import pytest
import trimesh
from PIL import Image

from omni123_hf.geometry.colors import surface_colors


SimpleMaterial, PBRMaterial = trimesh.visual.material.SimpleMaterial, trimesh.visual.material.PBRMaterial


def triangle(material, uv=((0, 0), (1, 0), (0, 1))) -> trimesh.Trimesh:
    mesh = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 2]], process=False)
    mesh.visual = trimesh.visual.TextureVisuals(uv=np.array(uv, float), material=material)
    return mesh


def at(mesh: trimesh.Trimesh, *uv: tuple[float, float]) -> np.ndarray:
    """Colours at texture coordinates of the triangle above."""
    weights = np.array([(1 - u - v, u, v) for u, v in uv])
    return surface_colors(mesh).at(np.zeros(len(uv), int), weights)


def test_texels_are_hit_at_their_centres_blended_between_and_repeated():
    texels = np.array([[[10] * 3, [20] * 3], [[30] * 3, [40] * 3]], np.uint8)  # row 0 is the top: v near 1
    mesh = triangle(PBRMaterial(baseColorTexture=Image.fromarray(texels)))
    got = at(mesh, (0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.5, 0.5), (0.5, 0.25))[:, 0]
    np.testing.assert_allclose(got, [30, 40, 10, 25, 35], atol=1e-4)
    shifted = triangle(mesh.visual.material, uv=((2, -1), (3, -1), (2, 0)))
    np.testing.assert_allclose(at(shifted, (0.25, 0.25), (0.75, 0.25))[:, 0], [30, 40], atol=1e-4)


def test_the_factor_multiplies_the_texture():
    texels = Image.fromarray(np.full((2, 2, 3), 200, np.uint8))
    for factor in ([0.5, 1.0, 0.25, 1.0], [128, 255, 64, 255]):
        mesh = triangle(PBRMaterial(baseColorTexture=texels, baseColorFactor=factor))
        np.testing.assert_allclose(at(mesh, (0.3, 0.3))[0], [100, 200, 50], atol=0.6)


HALF = Image.fromarray(np.full((2, 2, 4), (200, 100, 50, 128), np.uint8))
PALETTE = HALF.convert("RGB").convert("P")
PALETTE.info["transparency"] = 0


@pytest.mark.parametrize(
    "material, cutoff",
    [
        (PBRMaterial(baseColorTexture=HALF), None),
        (PBRMaterial(baseColorTexture=HALF, alphaMode="OPAQUE"), None),
        (PBRMaterial(baseColorTexture=HALF, alphaMode="MASK"), 0.5),
        (PBRMaterial(baseColorTexture=HALF, alphaMode="MASK", alphaCutoff=0.2), 0.2),
        (PBRMaterial(baseColorTexture=HALF, alphaMode="BLEND"), 0.5),
        (SimpleMaterial(image=HALF), 0.5),
        (SimpleMaterial(image=PALETTE), 0.5),
        (SimpleMaterial(image=HALF.convert("RGB")), None),
    ],
)
def test_which_materials_are_cut_out(material, cutoff):
    colors = surface_colors(triangle(material))
    assert colors.cutoff == cutoff and colors.is_cut_out == (cutoff is not None)


def test_opacity_is_compared_with_the_cut_off():
    def present(**material) -> bool:
        colors = surface_colors(triangle(PBRMaterial(baseColorTexture=HALF, **material)))
        return bool(colors.present(np.array([0]), np.array([[0.4, 0.3, 0.3]]))[0])

    assert present(alphaMode="MASK") and not present(alphaMode="MASK", alphaCutoff=0.6)
    assert not present(alphaMode="MASK", baseColorFactor=[1.0, 1.0, 1.0, 0.5])
    # Glass: its even transparency does not remove the pane.
    assert present(alphaMode="BLEND", baseColorFactor=[1.0, 1.0, 1.0, 0.1])


def test_hidden_texels_do_not_darken_the_edge():
    texels = np.zeros((2, 2, 4), np.uint8)
    texels[:, 0] = (0, 200, 0, 255)
    mesh = triangle(PBRMaterial(baseColorTexture=Image.fromarray(texels), alphaMode="MASK"))
    np.testing.assert_allclose(at(mesh, (0.45, 0.4))[0], [0, 200, 0], atol=0.1)


def test_meshes_without_textures_keep_their_colours():
    box = trimesh.creation.box()
    box.visual.face_colors = np.tile((10, 20, 30, 255), (12, 1))
    weights = np.full((12, 3), 1 / 3)
    np.testing.assert_allclose(surface_colors(box).at(np.arange(12), weights), np.tile((10, 20, 30), (12, 1)))
    plain = triangle(PBRMaterial(baseColorFactor=[255, 0, 128, 255]))
    np.testing.assert_allclose(at(plain, (0.3, 0.3)), [(255, 0, 128)])
    assert not surface_colors(plain).is_cut_out

"""Views by Blender's path tracer: shadows, occlusion, highlights and environment pictures (paper §3.3).

Optional and for making data only. `bpy` is GPL-3.0, so nothing imports this module by default and the package does not
depend on it. Its wheels ask for Python 3.11 and, up to 5.0, NumPy below 2: give it an environment of its own, with
trimesh, SciPy and Pillow. This room runs there, and the views that it saves are read anywhere.

Depth, normals and silhouette are those of `SoftwareRenderer`; only colour and coverage come from Blender.
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from PIL import Image

from omni123_hf.errors import Omni123Error
from omni123_hf.geometry.cameras import Camera
from omni123_hf.geometry.color_space import linear_from_srgb
from omni123_hf.geometry.colors import SurfaceColors, TextureColors, surface_colors
from omni123_hf.geometry.lighting import DEFAULT_LIGHTING, Lighting
from omni123_hf.geometry.rasterizer import mesh_triangles
from omni123_hf.geometry.rendered_view import RenderedView
from omni123_hf.geometry.rendering import SoftwareRenderer
from omni123_hf.geometry.smooth_normals import corner_normals


# Blender's z is up: our (x, y, z) is its (x, -z, y). Environment pictures then stand upright.
TO_BLENDER = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
GAMMA = 2.2
DEFAULT_ROUGHNESS = 0.7
# Cycles keeps the name "color" for itself: a layer of that name renders black.
COLOR_LAYER = "omni123_color"


@dataclass(frozen=True)
class BlenderRenderer:
    """`Renderer` that takes colours from Cycles on the CPU. Without `bpy` it raises `Omni123Error`.

    samples: rays a pixel; 64 leaves slight noise. crease_angle: as in `SoftwareRenderer`. environment: an
    equirectangular picture (.hdr, .exr) that lights the object in place of a `Lighting`; its middle lies at
    `environment_azimuth` degrees from the front (+z) towards +x. seed: of the noise. threads: of Blender.
    """

    samples: int = 64
    crease_angle: float | None = 40.0
    environment: Path | None = None
    environment_azimuth: float = 0.0
    seed: int = 0
    threads: int = 1

    def __post_init__(self) -> None:
        if self.environment is not None and not Path(self.environment).is_file():
            raise Omni123Error(f"environment picture {self.environment} does not exist; give a .hdr or .exr file")
        load_bpy()

    def render_views(
        self, mesh: trimesh.Trimesh, cameras: Sequence[Camera], size: int, lighting: Lighting = DEFAULT_LIGHTING
    ) -> list[RenderedView]:
        """One view of (size,size) pixels a camera, in their order. With an environment, `lighting` is not used."""
        software = SoftwareRenderer(crease_angle=self.crease_angle, per_pixel_color=True)
        views = software.render_views(mesh, cameras, size, lighting)
        if not len(mesh.faces):
            return views
        with self._scene(size) as scene, tempfile.TemporaryDirectory() as folder:
            _add_mesh(scene, mesh, self.crease_angle)
            rendered = []
            for number, view in enumerate(views):
                _set_camera(scene, view.camera)
                if self.environment is None:
                    _set_lights(scene, lighting, view.camera)
                path = Path(folder) / f"{number}.png"
                scene.render.filepath = str(path)
                load_bpy().ops.render.render(write_still=True, scene=scene.name)
                with Image.open(path) as picture:
                    rendered.append(replace(view, rgba=np.array(picture.convert("RGBA"))))
        return rendered

    def render_view(
        self, mesh: trimesh.Trimesh, camera: Camera, size: int, lighting: Lighting = DEFAULT_LIGHTING
    ) -> RenderedView:
        """One view of (size,size) pixels."""
        return self.render_views(mesh, [camera], size, lighting)[0]

    @contextmanager
    def _scene(self, size: int) -> Iterator[Any]:
        """A scene of our own, taken away with all that was made for it: Blender's data lives as long as the process."""
        data = load_bpy().data
        kinds = (data.objects, data.meshes, data.cameras, data.lights, data.worlds, data.materials, data.images)
        before = {block.as_pointer() for kind in kinds for block in kind}
        scene = data.scenes.new("omni123")
        try:
            scene.render.engine = "CYCLES"
            scene.cycles.device = "CPU"
            scene.cycles.samples = self.samples
            scene.cycles.seed = self.seed
            scene.cycles.use_denoising = False
            # Adaptive sampling would spend fewer rays on dark pixels, and make noise differ between views.
            scene.cycles.use_adaptive_sampling = False
            scene.render.threads_mode, scene.render.threads = "FIXED", self.threads
            scene.render.resolution_x = scene.render.resolution_y = size
            scene.render.resolution_percentage = 100
            scene.render.film_transparent = True
            scene.render.image_settings.file_format = "PNG"
            scene.render.image_settings.color_mode = "RGBA"
            # The default transform (AgX) greys colours: a white surface in full light would not be white.
            scene.view_settings.view_transform = "Standard"
            scene.world = data.worlds.new("omni123")
            scene.world.use_nodes = True
            if self.environment is not None:
                _set_environment(scene.world.node_tree, self.environment, self.environment_azimuth)
            yield scene
        finally:
            data.scenes.remove(scene)
            data.batch_remove([block for kind in kinds for block in kind if block.as_pointer() not in before])


def load_bpy() -> Any:
    """The `bpy` module, or an `Omni123Error` that says how to get it."""
    try:
        return importlib.import_module("bpy")
    except ImportError as error:
        raise Omni123Error(
            "rendering with Blender needs its Python module (GPL-3.0, not part of omni123-hf); make an environment for "
            "it with: pip install bpy trimesh scipy pillow. Or use the software renderer"
        ) from error


def linear_levels(lighting: Lighting) -> tuple[float, list[float]]:
    """Ambient level and intensities of the lamps as linear light.

    `Lighting` multiplies stored sRGB values and a path tracer linear ones. The levels agree for a surface in ambient
    light only and for one that faces every lamp.
    """
    lamps = [light.intensity for light in lighting.lights]
    ambient = lighting.ambient**GAMMA
    direct = (lighting.ambient + sum(lamps)) ** GAMMA - ambient
    return ambient, [direct * lamp / sum(lamps) for lamp in lamps]


def _add_mesh(scene: Any, mesh: trimesh.Trimesh, crease_angle: float | None) -> None:
    bpy = load_bpy()
    triangles = mesh_triangles(mesh)
    count = len(triangles)
    data = bpy.data.meshes.new("omni123")
    # Each face has vertices of its own, so that faces given twice or without area need no repair.
    data.vertices.add(3 * count)
    data.vertices.foreach_set("co", (triangles.reshape(-1, 3) @ TO_BLENDER.T).astype(np.float32).ravel())
    data.loops.add(3 * count)
    data.loops.foreach_set("vertex_index", np.arange(3 * count, dtype=np.int32))
    data.polygons.add(count)
    data.polygons.foreach_set("loop_start", np.arange(0, 3 * count, 3, dtype=np.int32))
    data.update(calc_edges=True)
    colors = surface_colors(mesh)
    _add_colors(data, colors, count)
    if crease_angle is not None:
        data.polygons.foreach_set("use_smooth", np.ones(count, dtype=bool))
        normals = corner_normals(triangles, crease_angle).reshape(-1, 3) @ TO_BLENDER.T
        data.normals_split_custom_set(normals.tolist())
    data.materials.append(_material(colors, mesh))
    scene.collection.objects.link(bpy.data.objects.new("omni123", data))


def _add_colors(data: Any, colors: SurfaceColors, count: int) -> None:
    """Texture coordinates, or a colour a corner, of a Blender mesh."""
    if isinstance(colors, TextureColors):
        layer = data.uv_layers.new(name="uv")
        layer.data.foreach_set("uv", colors.corners.astype(np.float32).ravel())
        return
    corners = np.stack([colors.at(np.arange(count), np.tile(row, (count, 1))) for row in np.eye(3)], axis=1)
    rgba = np.ones((count, 3, 4), dtype=np.float32)
    rgba[..., :3] = linear_from_srgb(corners / 255.0)
    layer = data.color_attributes.new(name=COLOR_LAYER, type="FLOAT_COLOR", domain="CORNER")
    layer.data.foreach_set("color", rgba.ravel())


def _material(colors: SurfaceColors, mesh: trimesh.Trimesh) -> Any:
    """A material with the base colour of the mesh, and its roughness and metalness where it says so."""
    bpy = load_bpy()
    material = bpy.data.materials.new("omni123")
    material.use_nodes = True
    nodes, links = material.node_tree.nodes, material.node_tree.links
    surface = next(node for node in nodes if node.type == "BSDF_PRINCIPLED")
    given = getattr(mesh.visual, "material", None)
    roughness, metallic = (getattr(given, name, None) for name in ("roughnessFactor", "metallicFactor"))
    surface.inputs["Roughness"].default_value = DEFAULT_ROUGHNESS if roughness is None else float(roughness)
    surface.inputs["Metallic"].default_value = 0.0 if metallic is None else float(metallic)
    if not isinstance(colors, TextureColors):
        source = nodes.new("ShaderNodeVertexColor")
        source.layer_name = COLOR_LAYER
        links.new(source.outputs["Color"], surface.inputs["Base Color"])
        return material
    texture = nodes.new("ShaderNodeTexImage")
    texture.image = _image(colors)
    links.new(texture.outputs["Color"], surface.inputs["Base Color"])
    if colors.cutoff is not None:
        present = nodes.new("ShaderNodeMath")
        present.operation = "GREATER_THAN"
        present.inputs[1].default_value = colors.cutoff
        links.new(texture.outputs["Alpha"], present.inputs[0])
        links.new(present.outputs["Value"], surface.inputs["Alpha"])
    return material


def _image(colors: TextureColors) -> Any:
    height, width = colors.texels.shape[:2]
    image = load_bpy().data.images.new("omni123", width, height, alpha=True)
    # Blender's first row is the lowest; a generated image holds sRGB values in 0..1.
    texels = colors.texels[::-1] * (colors.factor / np.float32(255.0))
    image.pixels.foreach_set(np.ascontiguousarray(texels, dtype=np.float32).ravel())
    image.update()
    return image


def _set_camera(scene: Any, camera: Camera) -> None:
    from mathutils import Matrix  # comes with bpy

    data = load_bpy().data
    if scene.camera is None:
        scene.camera = data.objects.new("omni123", data.cameras.new("omni123"))
        scene.collection.objects.link(scene.camera)
    lens = scene.camera.data
    if camera.field_of_view:
        lens.type, lens.angle = "PERSP", np.radians(camera.field_of_view)
    else:
        lens.type, lens.ortho_scale = "ORTHO", 2.0 * camera.half_extent
    lens.clip_start, lens.clip_end = 1e-3, 100.0 * camera.distance
    pose = np.eye(4)
    pose[:3, :3] = TO_BLENDER @ camera.axes.T
    pose[:3, 3] = camera.distance * pose[:3, 2]
    # Nested lists would be read by columns.
    scene.camera.matrix_world = Matrix(pose.tolist())


def _set_lights(scene: Any, lighting: Lighting, camera: Camera) -> None:
    """Lamps and an even sky in place of those of the view before."""
    from mathutils import Vector  # comes with bpy

    data = load_bpy().data
    for lamp in [thing.data for thing in scene.collection.objects if thing.type == "LIGHT"]:
        data.lights.remove(lamp)
    ambient, levels = linear_levels(lighting)
    sky = next(node for node in scene.world.node_tree.nodes if node.type == "BACKGROUND")
    sky.inputs["Color"].default_value = (*np.power(lighting.ambient_tint, GAMMA).tolist(), 1.0)
    sky.inputs["Strength"].default_value = ambient
    for light, level in zip(lighting.lights, levels, strict=True):
        direction = np.asarray(light.direction)
        toward = TO_BLENDER @ (direction @ camera.axes if lighting.frame == "camera" else direction)
        sun = data.lights.new("omni123", "SUN")
        # A diffuse surface sends back a part in pi of what falls on it.
        sun.energy = np.pi * level
        sun.color = np.power(light.tint, GAMMA).tolist()
        lamp = data.objects.new("omni123", sun)
        lamp.rotation_mode = "QUATERNION"
        lamp.rotation_quaternion = Vector(toward.tolist()).to_track_quat("Z", "Y")
        scene.collection.objects.link(lamp)


def _set_environment(tree: Any, path: Path, azimuth: float) -> None:
    """Light from a picture whose middle lies at `azimuth` degrees from the front (+z) towards +x."""
    nodes, links = tree.nodes, tree.links
    position, turn, picture = (nodes.new(f"ShaderNode{kind}") for kind in ("TexCoord", "Mapping", "TexEnvironment"))
    picture.image = load_bpy().data.images.load(str(path))
    # Blender's middle of a picture is its +x, a quarter turn from its -y, which is our front.
    turn.inputs["Rotation"].default_value[2] = np.radians(90.0 - azimuth)
    sky = next(node for node in nodes if node.type == "BACKGROUND")
    links.new(position.outputs["Generated"], turn.inputs["Vector"])
    links.new(turn.outputs["Vector"], picture.inputs["Vector"])
    links.new(picture.outputs["Color"], sky.inputs["Color"])

"""What is kept of each format: shape, side, frame and colours."""

import numpy as np
import pytest
from mesh_samples import (
    BLUE,
    MTL,
    QUADS,
    RED,
    TRIANGLES,
    VERTICES,
    Gltf,
    colored_box,
    obj,
    packed,
    png,
    samples,
    write_files,
)

import omni123_hf.data.sources  # noqa: F401  (registers LDraw and Sweet Home 3D)
from omni123_hf.geometry.colors import face_colors
from omni123_hf.geometry.export import export_glb
from omni123_hf.geometry.loading import load_mesh


SAMPLES = samples()


def load_gltf(tmp_path, gltf):
    return load_mesh(write_files(tmp_path, {"x.glb": gltf.glb()}))


def srgb(linear):
    return round(255 * (1.055 * linear ** (1 / 2.4) - 0.055))


@pytest.mark.parametrize("kind", SAMPLES)
def test_box(tmp_path, kind):
    mesh = load_mesh(write_files(tmp_path, SAMPLES[kind]))
    assert len(mesh.faces) == 12 and mesh.is_watertight and mesh.volume == pytest.approx(8.0, rel=1e-5)
    assert np.allclose(mesh.extents, [1, 2, 4], rtol=1e-5)
    colors = face_colors(mesh)
    if kind.startswith("stl"):
        assert (colors == 190).all()
        return
    right = mesh.face_normals[:, 0] > 0.9
    assert right.sum() == 2 and (colors[right] == RED).all() and (colors[~right] == BLUE).all()
    assert not [name for name in mesh.metadata["missing_files"] if name != "LDConfig.ldr"]


def test_ldraw_frame(tmp_path):
    mesh = load_mesh(write_files(tmp_path, SAMPLES["dat"]))
    assert np.allclose(mesh.bounds, [[0, 0, 0], [1, 2, 4]], atol=1e-5), "y down and front at -z in the file"


def test_own_export_keeps_colors(tmp_path):
    mesh = load_mesh(write_files(tmp_path, SAMPLES["off"]))
    mesh.visual.face_colors = [100, 150, 200, 255]
    again = load_mesh(export_glb(mesh, tmp_path / "again.glb"))
    assert (face_colors(again) == [100, 150, 200]).all() and again.is_watertight


def test_node_transforms(tmp_path):
    box = colored_box()
    half = np.sqrt(0.5)
    box.tree["nodes"] = [
        {"children": [1], "translation": [10, 0, 0], "rotation": [0, half, 0, half]},
        {"mesh": 0, "scale": [-1, 1, 1]},
    ]
    mesh = load_gltf(tmp_path, box)
    # x is mirrored, then a quarter turn about y sends (x, y, z) to (z, y, -x).
    assert np.allclose(mesh.bounds, [[10, 0, 0], [14, 2, 1]], atol=1e-6)
    assert mesh.volume == pytest.approx(8.0), "a mirror must not turn the faces inside out"
    red = (face_colors(mesh) == RED).all(axis=1)
    assert np.allclose(mesh.face_normals[red], [0, 0, 1], atol=1e-6)


def test_instances_and_unused_nodes(tmp_path):
    box = colored_box()
    box.tree["nodes"] = [{"mesh": 0}, {"mesh": 0, "translation": [0, 5, 0]}, {"mesh": 0, "translation": [0, 90, 0]}]
    box.tree["scenes"] = [{"nodes": []}, {"nodes": [0, 1]}]
    box.tree["scene"] = 1
    mesh = load_gltf(tmp_path, box)
    assert mesh.volume == pytest.approx(16.0) and mesh.extents[1] == pytest.approx(7.0)


@pytest.mark.parametrize("mode", [5, 6])
def test_strips_and_fans(tmp_path, mode):
    square = np.array(
        [[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]] if mode == 5 else [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]
    )
    gltf = Gltf()
    gltf.primitive(square, None)["mode"] = mode
    gltf.primitive(square + 5, None)["mode"] = 1
    gltf.primitive(square + 9, None)["mode"] = 0
    mesh = load_gltf(tmp_path, gltf)
    assert mesh.area == pytest.approx(1.0) and np.allclose(mesh.face_normals, [0, 0, 1])


def test_linear_colors(tmp_path):
    gltf = Gltf()
    colors = gltf.accessor(np.full((8, 4), 128, dtype=np.uint8), normalized=True)
    gltf.primitive(
        VERTICES, TRIANGLES, gltf.material(pbrMetallicRoughness={"baseColorFactor": [0.5, 1, 0, 1]}), COLOR_0=colors
    )
    mesh = load_gltf(tmp_path, gltf)
    expected = [srgb(0.5 * 128 / 255), srgb(128 / 255), 0]
    assert (face_colors(mesh) == expected).all()


def test_texture_opacity_and_place(tmp_path):
    picture = np.zeros((64, 64, 4), dtype=np.uint8)
    picture[:, :32], picture[:, 32:] = (255, 255, 0, 0), (0, 255, 255, 0)
    stream = __import__("io").BytesIO()
    __import__("PIL.Image").Image.fromarray(picture).save(stream, "PNG")
    for offset, color in ((0.0, (255, 255, 0)), (0.5, (0, 255, 255))):
        gltf = Gltf()
        gltf.tree["images"] = [{"bufferView": gltf.view(stream.getvalue()), "mimeType": "image/png"}]
        gltf.tree["textures"] = [{"source": 0}]
        uv = gltf.accessor((np.full((8, 2), 0.25) + VERTICES[:, :2] / 1000).astype(np.float32))
        placed = {"KHR_texture_transform": {"offset": [offset, 0]}}
        red = gltf.material(pbrMetallicRoughness={"baseColorTexture": {"index": 0, "extensions": placed}})
        gltf.primitive(VERTICES, TRIANGLES, red, TEXCOORD_0=uv)
        mesh = load_gltf(tmp_path, gltf)
        assert (face_colors(mesh) == color).all(), "the opacity of an opaque material means nothing"


def test_invisible_material(tmp_path):
    box = colored_box()
    box.tree["materials"][0] = {"alphaMode": "BLEND", "pbrMetallicRoughness": {"baseColorFactor": [1, 1, 1, 0]}}
    assert len(load_gltf(tmp_path, box).faces) == 10


def test_sparse_and_quantized(tmp_path):
    gltf = Gltf()
    gltf.tree["extensionsRequired"] = ["KHR_mesh_quantization"]
    entry = gltf.primitive(VERTICES, TRIANGLES)
    moved = gltf.accessor(np.array([3], dtype=np.uint16)), gltf.accessor(np.array([[0, 2, -9]], dtype=np.float32))
    indices, values = (gltf.tree["accessors"][index] for index in moved)
    gltf.tree["accessors"][entry["attributes"]["POSITION"]]["sparse"] = {
        "count": 1, "indices": {"bufferView": indices["bufferView"], "componentType": 5123}, "values": {"bufferView": values["bufferView"]},
    }  # fmt: skip
    assert load_gltf(tmp_path, gltf).bounds[0, 2] == -9
    gltf = Gltf()
    gltf.primitive(VERTICES, TRIANGLES)["attributes"]["POSITION"] = gltf.accessor(
        (VERTICES * 8191).astype(np.int16), normalized=True
    )
    assert np.allclose(load_gltf(tmp_path, gltf).extents, VERTICES.max(axis=0) * 8191 / 32767)


def test_skin_in_bind_pose(tmp_path):
    box = colored_box()
    joint = np.eye(4, dtype=np.float32)
    joint[3, :3] = [0, -7, 0]
    box.tree["skins"] = [
        {"joints": [2, 1], "inverseBindMatrices": box.accessor(np.array([joint, joint]).reshape(2, 16))}
    ]
    box.tree["nodes"] = [
        {"mesh": 0, "skin": 0, "translation": [100, 100, 100], "children": []},
        {"translation": [3, 7, 0], "children": [2]},
        {"rotation": [0, 1, 0, 0]},
    ]
    box.tree["scenes"][0]["nodes"] = [0, 1]
    mesh = load_gltf(tmp_path, box)
    assert np.allclose(mesh.bounds, [[3, 0, 0], [4, 2, 4]]), "the node of a skinned mesh does not move it"


def test_morph_targets_are_ignored(tmp_path):
    box = colored_box()
    box.tree["meshes"][0]["primitives"][0]["targets"] = [{"POSITION": box.accessor(VERTICES * 50)}]
    box.tree["meshes"][0]["weights"] = [1.0]
    assert np.allclose(load_gltf(tmp_path, box).extents, [1, 2, 4])


def test_missing_texture_is_told(tmp_path):
    mesh = load_mesh(write_files(tmp_path, {"box.obj": obj(), "box.mtl": MTL}))
    assert mesh.metadata["missing_files"] == ["red.png"] and len(mesh.faces) == 12
    gltf = colored_box({"uri": "gone.png"})
    mesh = load_mesh(write_files(tmp_path, {"x.glb": gltf.glb()}))
    assert mesh.metadata["missing_files"] == ["gone.png"]


def test_obj_dialects(tmp_path):
    text = b"v 0 0 0 1 0 0\r\nv 1 0 0 1 0 0\r\nv 0 1 0 1 0 0\r\nl 1 2\r\np 1\r\nf 1//1 2//1 \\\r\n 3//1\r\n"
    mesh = load_mesh(write_files(tmp_path, {"x.obj": text}))
    assert len(mesh.faces) == 1 and (face_colors(mesh) == RED).all()
    old_mac = b"v 0 0 0\rv 1 0 0\rv 0 1 0\rf -3 -2 -1\r"
    assert len(load_mesh(write_files(tmp_path, {"y.obj": old_mac})).faces) == 1


def test_zero_area_and_repeated_faces_are_dropped(tmp_path):
    text = b"v 0 0 0\nv 1 0 0\nv 0 1 0\nv 2 0 0\nv 3 0 0\nf 1 2 3\nf 2 3 1\nf 1 2 4\nf 1 1 2\nf 2 4 5\n"
    mesh = load_mesh(write_files(tmp_path, {"x.obj": text}))
    assert len(mesh.faces) == 1 and len(mesh.vertices) == 3


@pytest.mark.parametrize("header", ["OFF\n8 6 12\n", "OFF8 6 12\n", "OFF 8 6 12\n"])
def test_off_headers(tmp_path, header):
    rows = [" ".join(map(str, row)) for row in VERTICES] + [" ".join(map(str, [4, *quad])) for quad in QUADS]
    mesh = load_mesh(write_files(tmp_path, {"x.off": (header + "\n".join(rows)).encode()}))
    assert mesh.volume == pytest.approx(8.0) and (face_colors(mesh) == 190).all()


def test_vertex_colors_of_ply_and_off(tmp_path):
    ply = "ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\nproperty float z\n"
    ply += "property uchar red\nproperty uchar green\nproperty uchar blue\nelement face 1\n"
    ply += "property list uchar int vertex_index\nend_header\n0 0 0 1 0 1\n1 0 0 1 0 1\n0 1 0 1 0 1\n3 0 1 2\n"
    assert (face_colors(load_mesh(write_files(tmp_path, {"x.ply": ply.encode()}))) == [1, 0, 1]).all(), (
        "bytes, not fractions"
    )
    off = b"COFF\n3 1 0\n0 0 0 1.0 0.0 0.0 1.0\n1 0 0 1.0 0 0 1\n0 1 0 1.0 0 0 1\n3 0 1 2\n"
    assert (face_colors(load_mesh(write_files(tmp_path, {"x.off": off}))) == RED).all()


def test_zip_with_glb(tmp_path):
    mesh = load_mesh(
        write_files(
            tmp_path, {"x.zip": packed({"m.glb": colored_box().glb(), "__MACOSX/m.glb": b"?", "a.txt": png()})}
        )
    )
    assert len(mesh.faces) == 12

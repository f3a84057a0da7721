"""Hostile and broken files: each is refused by its reason, before it costs memory and without leaving its folder."""

import io
import json
import os
import stat
import struct
import zipfile
import zlib

import numpy as np
import pytest
from mesh_samples import (
    MTL,
    TRIANGLES,
    VERTICES,
    Gltf,
    colored_box,
    library,
    obj,
    packed,
    ply,
    png,
    samples,
    stl,
    write_files,
)

import omni123_hf.data.sources  # noqa: F401  (registers LDraw and Sweet Home 3D)
from omni123_hf.errors import Omni123Error, RejectedError
from omni123_hf.geometry.loading import LoadLimits, load_mesh


def reason(folder, files, limits=None, root=None):
    path = write_files(folder, files)
    with pytest.raises(RejectedError) as caught:
        load_mesh(path, limits, root)
    return caught.value.reason


def broken_glb(change):
    box = colored_box()
    change(box)
    return {"x.glb": box.glb()}


def set_node(**fields):
    return lambda box: box.tree["nodes"][0].update(fields)


def set_accessor(**fields):
    return lambda box: box.tree["accessors"][box.tree["meshes"][0]["primitives"][0]["attributes"]["POSITION"]].update(
        fields
    )


def require(*names):
    return lambda box: box.tree.update(extensionsRequired=list(names))


def pack_by_draco(box):
    primitive = box.tree["meshes"][0]["primitives"][0]
    primitive["extensions"] = {"KHR_draco_mesh_compression": {"bufferView": 0, "attributes": {"POSITION": 0}}}
    del box.tree["accessors"][primitive["attributes"]["POSITION"]]["bufferView"]


GLTF = {
    "draco": (require("KHR_draco_mesh_compression"), "compressed_mesh"),
    "draco, not required": (pack_by_draco, "compressed_mesh"),
    "meshopt": (require("EXT_meshopt_compression"), "compressed_mesh"),
    "unknown extension": (require("KHR_texture_transform", "ACME_voxels"), "unsupported_extension"),
    "old version": (lambda box: box.tree["asset"].update(version="1.0"), "unsupported_format"),
    "billion vertices": (set_accessor(count=10**9), "too_many_vertices"),
    "billion zeros": (lambda box: (set_accessor(count=10**9)(box), box.tree["accessors"][1].pop("bufferView")), "too_many_vertices"),
    "too many for the buffer": (set_accessor(count=1000), "truncated"),
    "negative offset": (set_accessor(byteOffset=-4), "broken_file"),
    "offset behind the view": (set_accessor(byteOffset=10**12), "truncated"),
    "wrong type": (set_accessor(type="SCALAR"), "broken_file"),
    "no such type": (set_accessor(componentType=7), "broken_file"),
    "view behind the buffer": (lambda box: box.tree["bufferViews"][1].update(byteLength=10**10), "truncated"),
    "short stride": (lambda box: box.tree["bufferViews"][2].update(byteStride=1), "truncated"),
    "self as child": (set_node(children=[0]), "node_cycle"),
    "cycle": (lambda box: box.tree.update(nodes=[{"children": [1]}, {"mesh": 0, "children": [0]}]), "node_cycle"),
    "no root": (lambda box: box.tree.update(nodes=[{"children": [1]}, {"children": [0]}], scenes=[]), "node_cycle"),
    "two parents": (
        lambda box: box.tree.update(nodes=[{"children": [1, 2]}, {"children": [3]}, {"children": [3]}, {"mesh": 0}]), "node_cycle",
    ),
    "chain": (
        lambda box: box.tree.update(nodes=[*({"children": [index + 1]} for index in range(999)), {"mesh": 0}]), "too_deep",
    ),
    "missing mesh": (set_node(mesh=99), "bad_index"),
    "mesh by name": (set_node(mesh="0"), "bad_index"),
    "negative mesh": (set_node(mesh=-1), "bad_index"),
    "matrix too short": (set_node(matrix=[1, 2, 3]), "broken_file"),
    "scale of text": (set_node(scale=["a", 1, 1]), "broken_file"),
    "flat": (set_node(scale=[0, 0, 0]), "no_area"),
    "huge": (set_node(scale=[1e30, 1e30, 1e30]), "coordinates_out_of_range"),
    "denormal": (set_node(scale=[1e-40, 1e-40, 1e-40]), "coordinates_out_of_range"),
    "overflow": (set_node(scale=[1e308, 1e308, 1e308], translation=[1e308, 0, 0]), "not_finite"),
    "nodes of numbers": (lambda box: box.tree.update(nodes=[1, 2]), "bad_index"),
    "scene of text": (lambda box: box.tree.update(scene="main"), "bad_index"),
    "broken picture": (lambda box: box.tree["bufferViews"][0].update(byteLength=40), "broken_texture"),
    "file address": (lambda box: box.tree.update(images=[{"uri": "file:///etc/passwd"}]), "remote_reference"),
    "web address": (lambda box: box.tree.update(images=[{"uri": "https://example.org/x.png"}]), "remote_reference"),
    "climbing": (lambda box: box.tree.update(images=[{"uri": "../x.png"}]), "path_outside_root"),
    "climbing, encoded": (lambda box: box.tree.update(images=[{"uri": "%2e%2e/x.png"}]), "path_outside_root"),
    "absolute, encoded": (lambda box: box.tree.update(images=[{"uri": "%2Fetc/passwd"}]), "path_outside_root"),
    "absolute": (lambda box: box.tree.update(images=[{"uri": "/etc/passwd"}]), "path_outside_root"),
    "windows": (lambda box: box.tree.update(images=[{"uri": "C:\\x.png"}]), "path_outside_root"),
    "not base64": (lambda box: box.tree.update(images=[{"uri": "data:image/png;base64,@@@"}]), "broken_file"),
    "only points": (lambda box: [entry.update(mode=0) for entry in box.tree["meshes"][0]["primitives"]], "no_faces"),
    "too many instances": (
        lambda box: box.tree.update(nodes=[{"mesh": 0}] * 15_000, scenes=[{"nodes": list(range(15_000))}]), "too_many_vertices",
    ),
    "too many nodes": (lambda box: box.tree.update(nodes=[{}] * 100_001), "too_many_nodes"),
}  # fmt: skip


@pytest.mark.parametrize("name", GLTF)
def test_gltf(tmp_path, name):
    change, expected = GLTF[name]
    # A limit above what the boxes need, and low enough that no test copies millions of faces first.
    limits = LoadLimits(max_vertices=200_000)
    assert reason(tmp_path, broken_glb(change), limits) == expected


def test_gltf_values(tmp_path):
    for values, expected in (([[np.nan, 0, 0]], "not_finite"), ([[1e30, 0, 0]], "coordinates_out_of_range")):
        gltf = Gltf()
        gltf.primitive(np.concatenate([VERTICES[1:], np.array(values)]), [7, 1, 2, 3, 4, 5])
        assert reason(tmp_path, {"x.glb": gltf.glb()}) == expected
    gltf = Gltf()
    gltf.primitive(VERTICES, TRIANGLES + 1)
    assert reason(tmp_path, {"x.glb": gltf.glb()}) == "bad_index"
    deep = b"[" * 100_000
    assert reason(tmp_path, {"x.gltf": b'{"asset":{"version":"2.0"},"nodes":' + deep}) == "broken_file"
    many = b'{"asset":{"version":"2.0"},"nodes":[' + b"[]," * 3_000_000 + b"0]}"
    assert reason(tmp_path, {"y.gltf": many}) == "too_many_values"
    assert reason(tmp_path, {"z.gltf": b'{"asset":{"version":"2.0"},"scene":1' + b"0" * 5000 + b"}"}) == "broken_file"


@pytest.mark.parametrize("cut", [0, 3, 11, 12, 19, 30, -1, -200])
def test_glb_cut(tmp_path, cut):
    assert reason(tmp_path, {"x.glb": colored_box().glb()[:cut]}) in ("truncated", "broken_file")


def test_promises_are_checked_before_allocation(tmp_path):
    ascii_ply = ply().replace(b"element face 6", b"element face 1000000000")
    assert reason(tmp_path, {"x.ply": ascii_ply}) == "truncated"
    for order in ("binary_little_endian", "binary_big_endian"):
        assert reason(tmp_path, {"x.ply": ply(order).replace(b"vertex 8", b"vertex 1000000000")}) == "truncated"
    assert reason(tmp_path, {"x.stl": stl()[:80] + struct.pack("<I", 10**9) + stl()[84:]}) == "truncated"
    assert reason(tmp_path, {"x.off": b"OFF\n1000000000 1000000000 0\n0 0 0\n"}) == "truncated"
    assert reason(tmp_path, {"x.off": b"OFF\n-8 6 0\n0 0 0\n"}) == "broken_file"
    list_of_a_billion = ply("binary_little_endian").replace(b"list uchar int", b"list uint int ", 1)
    assert reason(tmp_path, {"x.ply": list_of_a_billion}) in ("truncated", "bad_index")


def test_limits(tmp_path):
    boxes = samples()
    for kind, files in boxes.items():
        expected = ("too_many_faces", "too_many_vertices")
        assert reason(tmp_path / kind, files, LoadLimits(max_faces=5, max_vertices=6)) in expected, kind
        assert reason(tmp_path / kind, files, LoadLimits(max_file_bytes=50)) == "file_too_large"
    assert reason(tmp_path, boxes["obj"], LoadLimits(max_total_bytes=300)) == "asset_too_large"
    assert reason(tmp_path, boxes["obj"], LoadLimits(max_texture_pixels=63)) == "texture_too_large"
    assert reason(tmp_path, boxes["obj"], LoadLimits(max_line_bytes=10)) == "line_too_long"
    with pytest.raises(Omni123Error, match="max_faces must be at least 1"):
        LoadLimits(max_faces=0)


def test_texture_bomb(tmp_path):
    # The size in the header counts: no pixel of these exists.
    for width, height in ((20_000, 20_000), (2**31 - 1, 2**31 - 1), (8193, 8193)):
        header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        bomb = png()[:8] + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + png()[33:]
        assert reason(tmp_path, {"box.obj": obj(), "box.mtl": MTL, "red.png": bomb}) == "texture_too_large"


def test_long_line_and_large_polygon(tmp_path):
    assert reason(tmp_path, {"x.obj": b"v 0 0 0\nf " + b"1 " * 2**20}) == "line_too_long"
    # A comb: every second corner bends inwards.
    teeth = [(index, (index % 2) * 9.0) for index in range(3000)]
    lines = [f"v {x} {y} 0" for x, y in teeth] + ["f " + " ".join(str(index + 1) for index in range(3000))]
    path = write_files(tmp_path, {"comb.obj": "\n".join(lines).encode()})
    try:
        assert np.isfinite(load_mesh(path).vertices).all()
    except RejectedError as error:
        assert error.reason == "polygon_too_complex"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("../secret.png", "path_outside_root"),
        ("..\\secret.png", "path_outside_root"),
        ("a/../../secret.png", "path_outside_root"),
        ("/etc/passwd", "path_outside_root"),
        ("\\\\server\\share\\x.png", "path_outside_root"),
        ("C:\\x.png", "path_outside_root"),
        ("http://example.org/x.png", "remote_reference"),
        ("link.png", "path_outside_root"),
        ("folder", "unreadable_file"),
        ("pipe", "unreadable_file"),
        ("x" * 5000, "unreadable_file"),
        ("a\0b", "path_outside_root"),
    ],
)
def test_names_in_materials(tmp_path, name, expected):
    folder = tmp_path / "model"
    (folder / "folder").mkdir(parents=True)
    (tmp_path / "secret.png").write_bytes(png())
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    os.mkfifo(folder / "pipe")
    material = f"newmtl red\nmap_Kd {name}\n".encode()
    assert reason(folder, {"box.obj": obj(), "box.mtl": material}) == expected
    assert reason(folder, {"box.obj": obj(name)}) == expected


def test_root(tmp_path):
    (tmp_path / "t").mkdir()
    (tmp_path / "t/red.png").write_bytes(png())
    files = {"box.obj": obj(), "box.mtl": b"newmtl red\nmap_Kd ../t/red.png\n"}
    path = write_files(tmp_path / "m", files)
    assert load_mesh(path, root=tmp_path).metadata["missing_files"] == []
    outside = tmp_path / "m/outside.obj"
    outside.symlink_to(tmp_path / "t/other.obj")
    (tmp_path / "t/other.obj").write_bytes(b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    assert len(load_mesh(outside).faces) == 1, "the caller named it, as in a download cache of links"
    with pytest.raises(RejectedError) as caught:
        load_mesh(outside, root=tmp_path / "m")
    assert caught.value.reason == "path_outside_root"


def test_ldraw_references(tmp_path):
    place = "1 16 0 0 0 1 0 0 0 1 0 0 0 1"
    assert (
        reason(tmp_path, {"a.ldr": f"{place} b.dat".encode(), "b.dat": f"{place} a.ldr".encode()}) == "reference_cycle"
    )
    assert reason(tmp_path, {"x.ldr": f"{place} gone.dat".encode()}) == "missing_file"
    assert reason(tmp_path, {"x.ldr": f"{place} ../../etc/passwd".encode()}) == "missing_file"
    (tmp_path / "out.dat").symlink_to("/etc/passwd")
    assert reason(tmp_path, {"x.ldr": f"{place} out.dat".encode()}) == "path_outside_root"
    assert reason(tmp_path, {"x.ldr": b"3 99999999999999999999 0 0 0 1 0 0 0 1 0"}) == "broken_file"
    doubling = {f"d{level}.dat": (f"{place} d{level + 1}.dat\n" * 10).encode() for level in range(8)}
    three = b"3 16 0 0 0 1 0 0 0 1 0\n"
    assert reason(tmp_path, {"x.ldr": f"{place} d0.dat".encode(), **doubling, "d8.dat": three}) == "too_many_faces"
    chain = {f"c{level}.dat": f"{place} c{level + 1}.dat".encode() for level in range(40)}
    assert reason(tmp_path, {"x.ldr": f"{place} c0.dat".encode(), **chain, "c40.dat": three}) == "too_deep"


def zip_with(change=None, **members):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            if change:
                change(info)
            archive.writestr(info, content)
    return stream.getvalue()


def test_archives(tmp_path):
    box = colored_box().glb()

    def load(data, limits=None):
        return reason(tmp_path, {"x.zip": data}, limits)

    assert load(packed({"../x.glb": box})) == "path_outside_root"
    assert load(packed({"/x.glb": box})) == "path_outside_root"
    assert load(packed({"C:/x.glb": box})) == "path_outside_root"
    assert load(packed({"x.glb": box, "..\\y": b""})) == "path_outside_root"
    assert (
        load(
            zip_with(
                lambda info: setattr(info, "external_attr", (stat.S_IFLNK | 0o777) << 16), **{"x.glb": "/etc/passwd"}
            )
        )
        == "archive_link"
    )
    assert load(packed({"x.obj": bytes(50 * 2**20)})) == "compression_ratio"
    assert load(packed({"x.zip": packed({"x.glb": box})})) == "nested_archive"
    assert load(packed({"a.glb": box, "b.glb": box})) == "ambiguous_archive"
    assert load(packed({"readme.txt": b"hello"})) == "no_model"
    assert (
        load(packed({f"{index}.txt": b"" for index in range(30)}), LoadLimits(max_archive_members=20))
        == "too_many_members"
    )
    assert load(b"PK\x03\x04 not really") == "broken_archive"
    assert load(packed({"x.glb": box})[:-30]) == "broken_archive"
    assert load(packed({"a/x.obj": obj("../../box.mtl")})) == "path_outside_root"
    lying = bytearray(packed({"x.obj": b"v 0 0 0\n" * 9999}))
    # The central directory says a few bytes where the stream holds eighty thousand.
    place = lying.index(b"PK\x01\x02")
    lying[place + 24 : place + 28] = struct.pack("<I", 10)
    assert load(bytes(lying)) in ("broken_archive", "no_faces")
    assert load(zip_with(None, **{"x.dat": b"0 part"})) == "unsupported_format"
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("x.glb", box)
    assert load(stream.getvalue()) == "unsupported_compression"


def test_libraries(tmp_path):
    assert reason(tmp_path, {"x.sh3f": packed({"a.obj": obj()})}) == "no_model"
    twice = b"model#1=/m/box.obj\nmodel#2=/m/box.obj\n"
    assert reason(tmp_path, {"x.sh3f": packed({"PluginFurnitureCatalog.properties": twice})}) == "ambiguous_archive"
    climbing = b"model#1=/../../box.obj\n"
    assert reason(tmp_path, {"x.sh3f": packed({"PluginFurnitureCatalog.properties": climbing})}) == "broken_file"
    assert reason(tmp_path, {"x.sh3f": library()[:400]}) == "broken_archive"


def test_other_files(tmp_path):
    assert reason(tmp_path, {"x.fbx": b""}) == "unsupported_format"
    assert reason(tmp_path, {"x.obj": b"\x1f\x8b\x08\0\0"}) == "compressed_file"
    assert reason(tmp_path, {"x.glb": packed({"x.glb": b""})}) == "compressed_file"
    for name in ("x.obj", "x.ply", "x.stl", "x.off", "x.glb", "x.gltf", "x.ldr"):
        assert reason(tmp_path, {name: b""}) in ("no_faces", "broken_file", "truncated"), name
    with pytest.raises(RejectedError) as caught:
        load_mesh(tmp_path / "gone.glb")
    assert caught.value.reason == "missing_file"
    (tmp_path / "folder.obj").mkdir()
    with pytest.raises(RejectedError) as caught:
        load_mesh(tmp_path / "folder.obj")
    assert caught.value.reason == "unreadable_file"


def test_obj_indices(tmp_path):
    triangle = b"v 0 0 0\nv 1 0 0\nv 0 1 0\n"
    for face in (b"f 0 1 2\nv 1 1 1\n", b"f 1 2 4\n", b"f -4 1 2\n", b"f 1 2 99999999999999999999\n"):
        assert reason(tmp_path, {"x.obj": triangle + face}) == "bad_index", face
    for broken in (b"f a b c\n", b"v 1 2\n", b"v 1 2 x\n"):
        assert reason(tmp_path, {"x.obj": triangle + broken}) == "broken_file", broken
    assert reason(tmp_path, {"x.obj": triangle.replace(b"1 0 0", b"nan 0 0") + b"f 1 2 3\n"}) == "not_finite"


def test_json_of_other_kinds(tmp_path):
    tree = json.loads(colored_box().gltf())
    for key in ("nodes", "meshes", "accessors", "bufferViews", "buffers", "materials", "scenes", "asset"):
        for value in (None, 7, "text", [None], [[]], {"0": {}}, [{}], True):
            path = write_files(tmp_path, {"x.gltf": json.dumps({**tree, key: value}).encode()})
            try:
                assert np.isfinite(load_mesh(path).vertices).all()
            except RejectedError:
                pass

"""Readers of real meshes, on a library of furniture and a tree of brick parts that the tests write themselves."""

import io
import pickle
import struct
import zipfile

import numpy as np
import pytest
from PIL import Image

from omni123_hf.data.sources import fetch, iter_assets, ldraw, sweethome3d
from omni123_hf.data.sources.base import build_mesh
from omni123_hf.data.sources.captions import LIMITS, Description, describe, head_phrase, size_phrase
from omni123_hf.data.sources.fetch import extend_sources, unpack_deb
from omni123_hf.errors import Omni123Error
from omni123_hf.geometry.loading.polygons import triangulate
from omni123_hf.geometry.loading.wavefront import parse_materials, read_obj


CC_BY = "These files are under the Creative Commons Attribution 3.0 United States license"
CC_ZERO = "Released under\nCreative Commons Zero (Public Domain)\n"
FREE_ART = "Free Art License 1.3, copyleft"

# A 1 x 2 x 4 box (x, y, z) whose +x side is red and whose other sides are blue.
BOX_OBJ = """mtllib box.mtl
v 0 0 0
v 1 0 0
v 1 2 0
v 0 2 0
v 0 0 4
v 1 0 4
v 1 2 4
v 0 2 4
usemtl red
f 2 3 7 6
usemtl blue
f 1 5 8 4
f 1 2 6 5
f 4 8 7 3
f 1 4 3 2
f 5 6 7 8
usemtl ghost
f 1 2 7
"""
BOX_MTL = "newmtl red\nKd 1 0 0\nnewmtl blue\nKd 0 0 1\nnewmtl ghost\nd 0.0\n"


def png(color):
    stream = io.BytesIO()
    Image.new("RGBA", (8, 8), color).save(stream, "PNG")
    return stream.getvalue()


def entry(number, key, model, **more):
    values = {
        "id": f"Library#{key}", "name": "Chevrolet" if key == "car" else "Box", "tags": "Blend Swap, Storage", "category": "Bedroom",
        "icon": "/lib/icon.png", "model": model, "width": "50", "depth": "200", "height": "100", "creator": "Ada", **more,
    }  # fmt: skip
    return "".join(f"{name}#{number}={value}\n" for name, value in values.items())


def write_library(path, catalog, licence=CC_BY, files=()):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("PluginFurnitureCatalog.properties", "# comment\n" + catalog)
        archive.writestr("LICENSE.TXT", licence)
        archive.writestr("lib/icon.png", png((250, 250, 250, 255)))
        for name, content in {"lib/box/box.obj": BOX_OBJ, "lib/box/box.mtl": BOX_MTL, **dict(files)}.items():
            archive.writestr(name, content)
    return path.parent


@pytest.fixture
def furniture(tmp_path):
    turned = entry(3, "turned", "/lib/box/box.obj", modelRotation="0 0 1 0 1 0 -1 0 0", width="200", depth="50")
    catalog = entry(1, "box", "/lib/box/box.obj") + entry(2, "car", "/lib/car/box.obj") + turned
    files = {"lib/car/box.obj": BOX_OBJ, "lib/car/box.mtl": BOX_MTL, "lib/car/CC_LICENSE.txt": CC_ZERO}
    return write_library(tmp_path / "Lib.sh3f", catalog, files=files)


def test_furniture_assets(furniture):
    assets = {asset.name: asset for asset in iter_assets("sweethome3d", furniture)}
    box, car = assets["box"], assets["car"]
    assert box.id == "sweethome3d/Lib/turned" or box.id == "sweethome3d/Lib/box"
    assert box.category == "bedroom" and box.licence == "CC-BY-3.0-US" and "Ada" in box.attribution
    assert car.licence == "CC0-1.0", "a model's own licence file is the word on that model"
    assert box.attributes["tags"] == ["storage"] and box.attributes["colors"] == ["white"]


def test_furniture_mesh(furniture):
    asset = next(iter_assets("sweethome3d", furniture))
    mesh = pickle.loads(pickle.dumps(asset)).load()
    assert np.allclose(mesh.extents, [0.5, 1.0, 2.0])
    assert len(mesh.faces) == 12 and mesh.is_watertight and mesh.volume == pytest.approx(1.0)
    colors = mesh.visual.face_colors[:, :3]
    right = mesh.face_normals[:, 0] > 0.9
    assert (colors[right] == [255, 0, 0]).all() and (colors[~right] == [0, 0, 255]).all()


def test_furniture_rotation(furniture):
    asset = next(asset for asset in iter_assets("sweethome3d", furniture) if asset.id.endswith("turned"))
    mesh = asset.load()
    assert np.allclose(mesh.extents, [2.0, 1.0, 0.5])
    # The matrix sends +x to -z, so the red side looks to the back.
    red = (mesh.visual.face_colors[:, :3] == [255, 0, 0]).all(axis=1)
    assert np.allclose(mesh.face_normals[red], [0, 0, -1])


def test_furniture_licences(tmp_path):
    write_library(tmp_path / "Closed.sh3f", entry(1, "box", "/lib/box/box.obj"), licence=FREE_ART)
    assert list(sweethome3d.iter_assets(tmp_path)) == []
    assert sweethome3d.library_licences(tmp_path) == {"Closed": None}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (CC_ZERO, "CC0-1.0"),
        (CC_BY, "CC-BY-3.0-US"),
        ("<b>Creative Commons\n Attribution 3.0</b>. You can use", "CC-BY-3.0"),
        ("Creative Commons Attribution-ShareAlike 3.0", None),
        ("Creative Commons Attribution-NonCommercial 4.0", None),
        ("GNU General Public License", None),
        (FREE_ART, None),
        ("", None),
    ],
)
def test_classify_licence(text, expected):
    assert sweethome3d.classify_licence(text) == expected


def test_furniture_bad_input(tmp_path, monkeypatch):
    with pytest.raises(Omni123Error, match="no .sh3f library"):
        list(sweethome3d.iter_assets(tmp_path))
    write_library(tmp_path / "a.sh3f", entry(1, "box", "/../../etc/passwd.obj"))
    with pytest.raises(Omni123Error, match="leaves the library"):
        list(sweethome3d.iter_assets(tmp_path))
    (tmp_path / "a.sh3f").write_bytes(b"not a zip")
    sweethome3d._open_in_process.cache_clear()
    with pytest.raises(Omni123Error, match="fetch it again"):
        list(sweethome3d.iter_assets(tmp_path))
    (tmp_path / "a.sh3f").unlink()
    write_library(tmp_path / "b.sh3f", entry(1, "box", "/lib/box/box.obj"))
    asset = next(sweethome3d.iter_assets(tmp_path))
    monkeypatch.setattr(sweethome3d, "MAX_TEXT_BYTES", 100)
    with pytest.raises(Omni123Error, match="more than 100"):
        asset.load()


def test_texture_and_negative_indices():
    picture = Image.new("RGB", (64, 64), (0, 0, 0))
    picture.paste((200, 100, 50), (32, 0, 64, 64))
    text = (
        "mtllib m\nusemtl wood\nv 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0.7 0.5\nvt 0.72 0.5\nvt 0.7 0.52\nf -3/-3 -2/-2 -1/-1\n"
    )
    vertices, faces, colors = read_obj(
        text, lambda name: "newmtl wood\nmap_Kd -s 1 1 1 oak plank.png", lambda name: picture
    )
    assert vertices.shape == (3, 3) and faces.tolist() == [[0, 1, 2]] and colors.tolist() == [[200, 100, 50]]
    assert parse_materials("newmtl wood\nmap_Kd -s 1 1 1 oak plank.png")["wood"].texture == "oak plank.png"
    with pytest.raises(Omni123Error, match="does not exist"):
        read_obj("v 0 0 0\nf 1 2 3\n", lambda name: None, lambda name: None)
    with pytest.raises(Omni123Error, match="broken OBJ vertex"):
        read_obj("v 0 zero 0\n", lambda name: None, lambda name: None)


@pytest.mark.parametrize("turn", range(6))
@pytest.mark.parametrize("axes", [(0, 1, 2), (1, 2, 0), (2, 1, 0)])
def test_concave_polygon(turn, axes):
    outline = np.roll(np.array([[0, 0], [4, 0], [4, 1], [1, 1], [1, 3], [0, 3]], dtype=float), turn, axis=0)
    vertices = np.concatenate([outline, np.zeros((6, 1))], axis=1)[:, axes]
    triangles = np.array(triangulate(vertices, list(range(6))))
    corners = vertices[triangles]
    crosses = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]) / 2
    assert len(triangles) == 4
    assert np.linalg.norm(crosses, axis=1).sum() == pytest.approx(6.0), "no triangle may lie outside or overlap"


def test_build_mesh_refuses():
    faces, colors = np.array([[0, 1, 2]]), np.zeros((1, 3), np.uint8)
    with pytest.raises(Omni123Error, match="no faces"):
        build_mesh(np.zeros((3, 3)), np.zeros((0, 3), int), colors[:0], "x")
    with pytest.raises(Omni123Error, match="not finite"):
        build_mesh(np.array([[0, 0, 0], [1, 0, np.nan], [0, 1, 0]]), faces, colors, "x")
    with pytest.raises(Omni123Error, match="coincide"):
        build_mesh(np.zeros((3, 3)), faces, colors, "x")


LICENCE = "0 !LICENSE Redistributable under CCAL version 2.0 : see CAreadme.txt"
# Corners ±1, every face counter-clockwise seen from outside.
CUBE = """0 Cube
0 BFC CERTIFY CCW
4 16 1 -1 -1 1 1 -1 1 1 1 1 -1 1
4 16 -1 -1 -1 -1 -1 1 -1 1 1 -1 1 -1
4 16 -1 1 -1 -1 1 1 1 1 1 1 1 -1
4 16 -1 -1 -1 1 -1 -1 1 -1 1 -1 -1 1
4 16 -1 -1 1 1 -1 1 1 1 1 -1 1 1
4 16 -1 -1 -1 -1 1 -1 1 1 -1 1 -1 -1
"""


def part(title, body, licence=LICENCE):
    return f"0 {title}\n0 Author: Ada [a]\n0 !LDRAW_ORG Part UPDATE 2020-01\n{licence}\n0 BFC CERTIFY CCW\n{body}\n"


@pytest.fixture
def bricks(tmp_path):
    root = tmp_path / "usr/share/ldraw"
    place = "1 16 0 0 0 10 0 0 0 12 0 0 0 20"
    files = {
        "p/cube.dat": CUBE,
        "p/mirrored.dat": "0 Mirrored\n0 BFC CERTIFY CCW\n1 16 0 0 0 -1 0 0 0 1 0 0 0 1 cube.dat\n",
        "parts/s/body.dat": f"0 ~Body\n{LICENCE}\n0 BFC CERTIFY CCW\n{place} mirrored.dat\n",
        "parts/3001.dat": part("Brick  2 x  4", "1 16 0 0 0 1 0 0 0 1 0 0 0 1 s\\body.dat"),
        "parts/3001p01.dat": part("Brick  2 x  4 with Face Pattern", f"{place} cube.dat"),
        "parts/3001b.dat": part("Brick  2 x  4", f"{place} cube.dat"),
        "parts/900.dat": part("~Moved to 3001", f"{place} cube.dat"),
        "parts/901.dat": part("Minifig Helmet SW Trooper", f"{place} cube.dat"),
        "parts/902.dat": part("Technic Axle  4", f"{place} 902.dat"),
        "parts/903.dat": part("Minifig Hat", f"1 1 0 0 0 1 0 0 0 1 0 0 0 1 cube.dat\n{place} missing.dat"),
        "parts/904.dat": part("Plate  1 x  1", f"{place} cube.dat", "0 !LICENSE Not redistributable : see NonCAreadme.txt"),
        "parts/905.dat": part("Tyre 10", "1 0x2FF8000 0 0 0 1 0 0 0 1 0 0 0 1 cube.dat\n1 1 5 -7 9 1 0 0 0 1 0 0 0 1 cube.dat"),
        "LDConfig.ldr": "0 !COLOUR Red   CODE   4   VALUE #B40000   EDGE #333333\n0 !COLOUR Blue CODE 1 VALUE #1E5AA8 EDGE #333333\n",
    }  # fmt: skip
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return tmp_path


def test_brick_selection(bricks):
    assets = list(iter_assets("ldraw", bricks))
    assert [asset.id for asset in assets] == ["ldraw/3001", "ldraw/902", "ldraw/903", "ldraw/905"]
    brick = assets[0]
    assert brick.name == "building brick 2 x 4" and brick.category == "building brick" and brick.licence == "CC-BY-2.0"
    assert "Ada" in brick.attribution and brick.attributes["color"] in ("red", "blue")
    assert brick.captions["short"][0].endswith(f"{brick.attributes['color']} brick 2 x 4")
    assert "1.6 by 3.2 centimetres" in brick.captions["long"][0]
    assert assets[3].attributes["color"] is None, "a part that fixes its colours is not described by the drawn colour"
    again = list(ldraw.iter_assets(bricks))
    assert [asset.captions for asset in again] == [asset.captions for asset in assets]


def test_brick_mesh(bricks):
    brick = pickle.loads(pickle.dumps(next(ldraw.iter_assets(bricks))))
    mesh = brick.load()
    assert np.allclose(mesh.extents, np.array([20, 24, 40]) * 0.0004)
    # The body is placed through a mirror: the faces must have been turned over, or the volume would be negative.
    assert mesh.is_watertight and mesh.volume == pytest.approx(20 * 24 * 40 * 0.0004**3)
    assert (mesh.visual.face_colors[:, :3] == brick.color).all()


def test_brick_colors_and_frame(bricks):
    mesh = next(asset for asset in ldraw.iter_assets(bricks) if asset.id.endswith("905")).load()
    blue = (mesh.visual.face_colors[:, :3] == [0x1E, 0x5A, 0xA8]).all(axis=1)
    assert blue.sum() == 12 and (mesh.visual.face_colors[~blue, :3] == [0xFF, 0x80, 0x00]).all()
    # y down and z back in the file: (5, -7, 9) is right, up and back.
    assert np.allclose(mesh.triangles_center[blue].mean(axis=0) / 0.0004, [5, 7, -9])


def test_brick_bad_files(bricks, tmp_path):
    assets = {asset.id: asset for asset in ldraw.iter_assets(bricks)}
    with pytest.raises(Omni123Error, match="refers to itself"):
        assets["ldraw/902"].load()
    with pytest.raises(Omni123Error, match="missing.dat is not in the library"):
        assets["ldraw/903"].load()
    with pytest.raises(Omni123Error, match="no LDraw library"):
        list(ldraw.iter_assets(tmp_path / "nowhere"))
    (bricks / "usr/share/ldraw/parts/3001.dat").write_text(part("Brick  2 x  4", "3 16 0 0 0 1 one 0 0 1 0"))
    with pytest.raises(Omni123Error, match="broken LDraw line"):
        assets["ldraw/3001"].load()


def test_caption_lengths():
    names = ["box", "technical steering wheel hub with brake disc and 3 pegholes", "tile 1 x 1", "set of kitchen tools", "a b c d e f g h i j k l m n o p"]  # fmt: skip
    for seed in range(40):
        for name in names:
            for colors in ([], ["red"], ["light grey", "dark blue"]):
                size = size_phrase(seed + 0.5, 30, 200) if seed % 2 else ""
                facts = ["It is tall and slender, much higher than it is wide."] if seed % 3 else []
                captions = describe(
                    Description(name, colors, "the bedroom section of a catalogue", size, facts),
                    np.random.default_rng(seed),
                )
                for level, (low, high) in LIMITS.items():
                    assert captions[level]
                    for text in captions[level]:
                        assert low <= len(text.split()) <= high, (level, text)


def test_head_phrase():
    assert head_phrase("building brick 2 x 4", 4) == "brick 2 x 4"
    assert head_phrase("toy figure construction helmet with hair ponytail", 3) == "construction helmet"
    assert head_phrase("technical pin joiner plate 1 x 2 x 1", 4) == "pin joiner plate"


def test_extend_sources():
    text = "Types: deb deb-src\nURIs: mirror://a\nSuites: x\nComponents: main\n\nTypes: deb\nURIs: b\nSuites: y\nComponents: other\n"
    extended = extend_sources(text, True, ("contrib", "non-free"))
    assert (
        "Types: deb\nURIs: mirror://a\nSuites: x\nComponents: main contrib non-free" in extended
        and "URIs: b" not in extended
    )
    lines = extend_sources(
        "# c\ndeb [arch=amd64] mirror://a x main\ndeb-src mirror://a x main\ndeb b y other\n", False, ("non-free",)
    )
    assert lines == "deb [arch=amd64] mirror://a x main non-free\n"


def test_unpack_deb_without_dpkg(tmp_path, monkeypatch):
    import tarfile

    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:xz") as archive:
        info = tarfile.TarInfo("./usr/share/thing.txt")
        info.size = 5
        archive.addfile(info, io.BytesIO(b"hello"))
    deb = tmp_path / "thing.deb"
    blob = b"!<arch>\n"
    for name, data in (("debian-binary", b"2.0\n1"), ("data.tar.xz", inner.getvalue())):
        blob += struct.pack("16s12s6s6s8s10s2s", name.ljust(16).encode(), b"0".ljust(12), b"0".ljust(6), b"0".ljust(6), b"644".ljust(8), str(len(data)).ljust(10).encode(), b"`\n")  # fmt: skip
        blob += data + b"\n" * (len(data) % 2)
    deb.write_bytes(blob)
    monkeypatch.setattr("shutil.which", lambda name: None)
    unpack_deb(deb, tmp_path / "tree")
    assert (tmp_path / "tree/usr/share/thing.txt").read_text() == "hello"
    (tmp_path / "bad.deb").write_bytes(b"zip")
    with pytest.raises(Omni123Error, match="not a Debian package"):
        unpack_deb(tmp_path / "bad.deb", tmp_path / "other")


def test_fetch_refuses(tmp_path, monkeypatch):
    with pytest.raises(Omni123Error, match="unknown source"):
        fetch("thingiverse", tmp_path)
    (tmp_path / "ldraw").mkdir()
    assert fetch("ldraw", tmp_path) == tmp_path / "ldraw", "what is there is left alone"
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(Omni123Error, match="Download the Debian package sweethome3d-furniture"):
        fetch("sweethome3d", tmp_path)
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}")
    with pytest.raises(Omni123Error, match="no package source with a main section"):
        fetch("sweethome3d", tmp_path, apt_root=tmp_path / "no-apt")
    assert [path.name for path in tmp_path.iterdir()] == ["ldraw"], "nothing half-done stays behind"


def test_command_line(bricks, tmp_path):
    from typer.testing import CliRunner

    from omni123_hf.cli.data import data_app
    from omni123_hf.data.inputs import InputOptions, read_source

    raw = tmp_path / "raw"
    (raw / "ldraw").mkdir(parents=True)
    (bricks / "usr").rename(raw / "ldraw/usr")
    assert len(read_source("ldraw", InputOptions(raw))) == 4
    few = read_source("ldraw", InputOptions(raw, per_category=1, limit=2))
    assert [asset.id for asset in few] == ["ldraw/3001", "ldraw/902"]
    with pytest.raises(Omni123Error, match="unknown source"):
        read_source("thingiverse", InputOptions(raw))
    with pytest.raises(Omni123Error, match="fetch sweethome3d"):
        read_source("sweethome3d", InputOptions(raw))
    out = tmp_path / "set"
    prepared = CliRunner().invoke(
        data_app, ["prepare", "ldraw", "--out", str(out), "--raw", str(raw), "--preset", "mini"]
    )
    assert prepared.exit_code == 0, prepared.output
    assert "2 prepared, 2 rejected" in prepared.output
    shown = CliRunner().invoke(data_app, ["stats", str(out)])
    assert shown.exit_code == 0 and "CC-BY-2.0" in shown.output and "missing_file" in shown.output

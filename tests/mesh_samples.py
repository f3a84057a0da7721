"""One box, 1 x 2 x 4, in every format that `load_mesh` reads: the side at +x is red, the others are blue."""

from __future__ import annotations

import base64
import io
import json
import struct
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image


VERTICES = np.array([[x, y, z] for z in (0, 4) for x, y in ((0, 0), (1, 0), (1, 2), (0, 2))], dtype=np.float32)
QUADS = [[1, 2, 6, 5], [0, 4, 7, 3], [0, 1, 5, 4], [3, 7, 6, 2], [0, 3, 2, 1], [4, 5, 6, 7]]
TRIANGLES = np.array([[a, b, c] for q in QUADS for a, b, c in ((q[0], q[1], q[2]), (q[0], q[2], q[3]))])
RED, BLUE = (255, 0, 0), (0, 0, 255)
COLORS = [RED] + [BLUE] * 5


def png(color: tuple[int, ...] = RED, size: tuple[int, int] = (8, 8)) -> bytes:
    """A picture of one colour."""
    stream = io.BytesIO()
    Image.new("RGBA" if len(color) == 4 else "RGB", size, color).save(stream, "PNG")
    return stream.getvalue()


class Gltf:
    """Builds a glTF file entry by entry; `tree` is the JSON, to be broken at will."""

    def __init__(self) -> None:
        self.binary = bytearray()
        self.tree: dict = {
            "asset": {"version": "2.0"}, "scene": 0, "scenes": [{"nodes": [0]}], "nodes": [{"mesh": 0}],
            "meshes": [{"primitives": []}], "materials": [], "accessors": [], "bufferViews": [],
        }  # fmt: skip

    def view(self, data: bytes) -> int:
        self.binary += b"\0" * (-len(self.binary) % 4)
        self.tree["bufferViews"].append({"buffer": 0, "byteOffset": len(self.binary), "byteLength": len(data)})
        self.binary += data
        return len(self.tree["bufferViews"]) - 1

    def accessor(self, values: np.ndarray, **more) -> int:
        components = {"b": 5120, "B": 5121, "h": 5122, "H": 5123, "I": 5125, "f": 5126}
        width = {(1,): "SCALAR", (2,): "VEC2", (3,): "VEC3", (4,): "VEC4", (16,): "MAT4"}
        shape = values.reshape(len(values), -1).shape[1:]
        entry = {"bufferView": self.view(values.tobytes()), "componentType": components[values.dtype.char]}
        self.tree["accessors"].append({**entry, "count": len(values), "type": width[shape], **more})
        return len(self.tree["accessors"]) - 1

    def primitive(
        self, positions: np.ndarray, faces: np.ndarray | None, material: int | None = None, **attributes
    ) -> dict:
        entry: dict = {"attributes": {"POSITION": self.accessor(positions.astype(np.float32)), **attributes}}
        if faces is not None:
            entry["indices"] = self.accessor(np.asarray(faces, dtype=np.uint16).reshape(-1))
        if material is not None:
            entry["material"] = material
        self.tree["meshes"][0]["primitives"].append(entry)
        return entry

    def material(self, **fields) -> int:
        self.tree["materials"].append(fields)
        return len(self.tree["materials"]) - 1

    def glb(self) -> bytes:
        self.binary += b"\0" * (-len(self.binary) % 4)
        text = json.dumps({**self.tree, "buffers": [{"byteLength": len(self.binary)}]}).encode()
        text += b" " * (-len(text) % 4)
        chunks = struct.pack("<II", len(text), 0x4E4F534A) + text
        chunks += struct.pack("<II", len(self.binary), 0x004E4942) + bytes(self.binary)
        return b"glTF" + struct.pack("<II", 2, 12 + len(chunks)) + chunks

    def gltf(self, uri: str | None = None) -> bytes:
        """JSON; the buffer is embedded unless `uri` names its file."""
        uri = uri or "data:application/octet-stream;base64," + base64.b64encode(bytes(self.binary)).decode()
        return json.dumps({**self.tree, "buffers": [{"byteLength": len(self.binary), "uri": uri}]}).encode()


def colored_box(image: dict | None = None) -> Gltf:
    """The box as glTF: the red side by a texture, the blue ones by a factor. `image`: instead of one in the buffer."""
    box = Gltf()
    box.tree["images"] = [image or {"bufferView": box.view(png()), "mimeType": "image/png"}]
    box.tree["textures"] = [{"source": 0}]
    red = box.material(pbrMetallicRoughness={"baseColorTexture": {"index": 0}})
    blue = box.material(pbrMetallicRoughness={"baseColorFactor": [0, 0, 1, 1]})
    uv = box.accessor(np.full((8, 2), 0.5, dtype=np.float32))
    box.primitive(VERTICES, TRIANGLES[:2], red, TEXCOORD_0=uv)
    box.primitive(VERTICES, TRIANGLES[2:], blue)
    return box


def obj(material: str = "box.mtl") -> bytes:
    """The box as OBJ; both colours need its material library, the red one its texture."""
    lines = [f"mtllib {material}", *(f"v {x:g} {y:g} {z:g}" for x, y, z in VERTICES), "vt 0.5 0.5", "usemtl red"]
    for index, quad in enumerate(QUADS):
        lines += ["usemtl blue"] if index == 1 else []
        lines.append("f " + " ".join(f"{corner + 1}/1" for corner in quad))
    return ("\n".join(lines) + "\n").encode()


MTL = b"newmtl red\nmap_Kd red.png\nnewmtl blue\nKd 0 0 1\n"


def ply(order: str = "ascii", mixed: bool = False) -> bytes:
    """The box as PLY with colours of faces; `mixed` cuts the first side in two triangles."""
    faces = [q[:3] for q in QUADS[:1]] + [[q[0], *q[2:]] for q in QUADS[:1]] + QUADS[1:] if mixed else QUADS
    colors = [RED, *COLORS] if mixed else COLORS
    header = (
        f"ply\nformat {order} 1.0\ncomment made by hand\nelement vertex 8\n"
        "property float x\nproperty float y\nproperty float z\n"
        f"element face {len(faces)}\nproperty list uchar int vertex_indices\n"
        "property uchar red\nproperty uchar green\nproperty uchar blue\nend_header\n"
    )
    if order == "ascii":
        rows = [" ".join(f"{value:g}" for value in row) for row in VERTICES]
        rows += [" ".join(map(str, [len(f), *f, *c])) for f, c in zip(faces, colors, strict=True)]
        return (header + "\n".join(rows) + "\n").encode()
    sign = "<" if "little" in order else ">"
    body = VERTICES.astype(f"{sign}f4").tobytes()
    for face, color in zip(faces, colors, strict=True):
        body += struct.pack(f"{sign}B{len(face)}i3B", len(face), *face, *color)
    return header.encode() + body


def stl(ascii: bool = False) -> bytes:
    """The box as STL, without colours."""
    corners = VERTICES[TRIANGLES]
    if ascii:
        facets = [
            "facet normal 0 0 0\nouter loop\n"
            + "".join(f"vertex {x:g} {y:g} {z:g}\n" for x, y, z in triangle)
            + "endloop\nendfacet\n"
            for triangle in corners
        ]
        return ("solid box\n" + "".join(facets) + "endsolid box\n").encode()
    body = b"".join(struct.pack("<12fH", 0, 0, 0, *triangle.reshape(-1), 0) for triangle in corners)
    return b"box".ljust(80) + struct.pack("<I", len(corners)) + body


def off() -> bytes:
    """The box as OFF with colours of faces."""
    rows = [" ".join(f"{value:g}" for value in row) for row in VERTICES]
    rows += [" ".join(map(str, [4, *quad, *color])) for quad, color in zip(QUADS, COLORS, strict=True)]
    return ("OFF\n# by hand\n8 6 12\n" + "\n".join(rows) + "\n").encode()


def ldraw() -> bytes:
    """The box as LDraw: y down, front at -z, 2,500 units a metre, so that it comes out like the others."""
    points = VERTICES.astype(float) * np.array([2500, -2500, -2500])
    lines = ["0 Box", "0 BFC CERTIFY CCW"]
    for quad, (red, green, blue) in zip(QUADS, COLORS, strict=True):
        numbers = " ".join(f"{value:g}" for corner in quad for value in points[corner])
        lines.append(f"4 0x2{red:02X}{green:02X}{blue:02X} {numbers}")
    return ("\n".join(lines) + "\n").encode()


def packed(files: dict[str, bytes]) -> bytes:
    """A zip archive."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def library() -> bytes:
    """A Sweet Home 3D library of one model."""
    catalog = b"id#1=box\nname#1=Box\nmodel#1=/m/box.obj\nwidth#1=100\ndepth#1=400\nheight#1=200\n"
    files = {"PluginFurnitureCatalog.properties": catalog, "m/box.obj": obj(), "m/box.mtl": MTL, "m/red.png": png()}
    return packed(files)


def samples() -> dict[str, dict[str, bytes]]:
    """For each kind of file the files of its folder; the first is the model."""
    external = colored_box({"uri": "red%20side.png"})
    plain = {"box.mtl": MTL, "red.png": png()}
    return {
        "glb": {"box.glb": colored_box().glb()},
        "gltf embedded": {"box.gltf": colored_box().gltf()},
        "gltf files": {"box.gltf": external.gltf("box.bin"), "box.bin": bytes(external.binary), "red side.png": png()},
        "obj": {"box.obj": obj(), **plain},
        "ply ascii": {"box.ply": ply()},
        "ply little": {"box.ply": ply("binary_little_endian")},
        "ply big": {"box.ply": ply("binary_big_endian")},
        "ply mixed": {"box.ply": ply("binary_little_endian", mixed=True)},
        "stl binary": {"box.stl": stl()},
        "stl ascii": {"box.stl": stl(ascii=True)},
        "off": {"box.off": off()},
        "ldr": {"box.ldr": b"0 Two\n1 16 0 0 0 1 0 0 0 1 0 0 0 1 part.dat\n", "part.dat": ldraw()},
        "dat": {"box.dat": ldraw()},
        "sh3f": {"box.sh3f": library()},
        "zip": {"box.zip": packed({"a/box.obj": obj("../m/box.mtl"), "m/box.mtl": MTL, "a/red.png": png()})},
    }


def write_files(folder: Path, files: dict[str, bytes]) -> Path:
    """Write the files of one sample; the path of its model."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder / next(iter(files))

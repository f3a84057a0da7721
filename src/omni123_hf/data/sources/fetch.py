"""Get a source's Debian package through the system's own apt settings, checked, without installing anything.

`ldraw-parts` lies in Debian's non-free section (its CC-BY 2.0 texts), which many systems do not list. So apt runs on a
private copy of the system's source list with that section added; the system's own lists, cache and settings stay as
they are, and no root rights are needed.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from ...errors import Omni123Error
from . import fluent_emoji
from .npm import fetch_packages


PACKAGES = {"sweethome3d": "sweethome3d-furniture", "ldraw": "ldraw-parts"}
EXTRA_COMPONENTS = {"debian": ("contrib", "non-free"), "ubuntu": ("universe", "multiverse")}
TIMEOUT_SECONDS = 1800


def fetch(name: str, out: Path | str, apt_root: Path = Path("/etc/apt")) -> Path:
    """Folder `out/name` with the unpacked package of the source `name` ("sweethome3d", "ldraw", "fluent-emoji").

    Pictures come from npm, see `npm.fetch_packages`; what follows is about the Debian packages.

    A folder that is already there is returned untouched. The download is checked against the SHA-256 of apt's signed
    metadata, unpacked beside the target and moved into place at the end. Raises Omni123Error when apt is missing, has
    no usable sources, or cannot reach them.
    """
    if name == fluent_emoji.NAME:
        return fetch_packages(name, fluent_emoji.PACKAGES, out)
    if name not in PACKAGES:
        raise Omni123Error(f"unknown source {name!r}; known: {', '.join([*PACKAGES, fluent_emoji.NAME])}")
    package, target = PACKAGES[name], Path(out) / name
    if target.exists():
        return target
    if shutil.which("apt-get") is None or shutil.which("apt-cache") is None:
        raise Omni123Error(f"apt-get is not on this system. {_by_hand(name)}")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=target.parent) as scratch_name:
        scratch = Path(scratch_name).resolve()
        options = _private_apt(scratch, apt_root, name)
        # A list that cannot be reached is a warning to apt; the missing package below is what matters then.
        _apt(["apt-get", *options, "update"], name, scratch)
        shown = _apt(["apt-cache", *options, "show", "--no-all-versions", package], name, scratch)
        _apt(["apt-get", *options, "download", package], name, scratch)
        debs = sorted(scratch.glob("*.deb"))
        if len(debs) != 1:
            raise Omni123Error(f"apt-get download {package} wrote {len(debs)} files. {_by_hand(name)}")
        digest = _sha256(debs[0])
        fields = dict(re.findall(r"^(Version|SHA256): (\S+)$", shown, flags=re.MULTILINE))
        if fields.get("SHA256") != digest:
            raise Omni123Error(f"{debs[0].name}: SHA-256 {digest} is not what apt's metadata says; fetch it again")
        tree = scratch / "tree"
        unpack_deb(debs[0], tree)
        note = {"source": name, "package": package, "version": fields.get("Version"), "sha256": digest}
        (tree / "source.json").write_text(json.dumps(note, indent=2) + "\n")
        os.replace(tree, target)
    return target


def unpack_deb(deb: Path, target: Path) -> None:
    """Unpack the files of a Debian package into the new folder `target`: dpkg-deb, or Python where it is missing."""
    target.mkdir(parents=True)
    if shutil.which("dpkg-deb") is not None:
        result = subprocess.run(["dpkg-deb", "-x", str(deb), str(target)], capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise Omni123Error(f"dpkg-deb cannot unpack {deb.name}: {_last_line(result.stderr)}; fetch it again")
        return
    member, data = _ar_member(deb, "data.tar")
    if member.endswith(".zst"):
        raise Omni123Error(f"{deb.name} is packed with zstd; install dpkg (for dpkg-deb) to unpack it")
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        archive.extractall(target, filter="data")


def _ar_member(path: Path, prefix: str) -> tuple[str, bytes]:
    """Name and bytes of the first member of an ar archive whose name starts with `prefix`."""
    with path.open("rb") as stream:
        if stream.read(8) != b"!<arch>\n":
            raise Omni123Error(f"{path.name} is not a Debian package; fetch it again")
        while len(header := stream.read(60)) == 60:
            name, size = header[:16].decode("ascii", "replace").rstrip(" /"), int(header[48:58])
            if name.startswith(prefix):
                return name, stream.read(size)
            # Members start at even offsets.
            stream.seek(size + size % 2, os.SEEK_CUR)
    raise Omni123Error(f"{path.name} holds no {prefix}; fetch it again")


def extend_sources(text: str, deb822: bool, extra: tuple[str, ...]) -> str:
    """The text of an apt source list reduced to binary entries with a "main" section, with `extra` sections added."""
    if deb822:
        stanzas = [extended for stanza in re.split(r"\n\s*\n", text) if (extended := _extend_stanza(stanza, extra))]
        return "\n\n".join(stanzas) + "\n" if stanzas else ""
    lines = []
    for line in text.splitlines():
        match = re.match(r"\s*deb\s+(\[[^\]]*\]\s+)?(\S+)\s+(\S+)\s+([^#]+)", line)
        if match and "main" in match[4].split():
            sections = list(dict.fromkeys([*match[4].split(), *extra]))
            lines.append(" ".join(["deb", (match[1] or "").strip(), match[2], match[3], *sections]).replace("  ", " "))
    return "".join(line + "\n" for line in lines)


def _extend_stanza(stanza: str, extra: tuple[str, ...]) -> str | None:
    lines = [line for line in stanza.splitlines() if line.strip() and not line.startswith("#")]
    fields = {key.strip().lower(): value.split() for key, _, value in (line.partition(":") for line in lines)}
    if "main" not in fields.get("components", []) or "deb" not in fields.get("types", []):
        return None
    if fields.get("enabled", ["yes"]) in (["no"], ["false"], ["0"]):
        return None
    sections = " ".join(dict.fromkeys([*fields["components"], *extra]))
    replaced = {"components": f"Components: {sections}", "types": "Types: deb"}
    return "\n".join(replaced.get(line.partition(":")[0].strip().lower(), line) for line in lines)


def _private_apt(scratch: Path, apt_root: Path, name: str) -> list[str]:
    """Write an apt configuration of our own into `scratch`; the options that make apt use it."""
    parts = scratch / "sources"
    for folder in (parts, scratch / "lists" / "partial", scratch / "archives" / "partial"):
        folder.mkdir(parents=True)
    (scratch / "status").touch()
    extra = EXTRA_COMPONENTS.get(_distribution(), EXTRA_COMPONENTS["debian"])
    found = 0
    candidates = [apt_root / "sources.list", *sorted((apt_root / "sources.list.d").glob("*"))]
    for index, path in enumerate(candidates):
        if path.suffix not in (".list", ".sources") or not path.is_file():
            continue
        text = extend_sources(path.read_text(), path.suffix == ".sources", extra)
        if text:
            (parts / f"{index:02d}{path.suffix}").write_text(text)
            found += 1
    if not found:
        raise Omni123Error(f"no package source with a main section under {apt_root}. {_by_hand(name)}")
    settings = {
        "Dir::Etc::sourcelist": "/dev/null",
        "Dir::Etc::sourceparts": str(parts),
        "Dir::State::lists": str(scratch / "lists"),
        "Dir::State::status": str(scratch / "status"),
        "Dir::Cache": str(scratch),
        "Dir::Cache::archives": str(scratch / "archives"),
        # As root, apt would download as the user _apt, who may not write into our folder.
        "APT::Sandbox::User": "",
        "Acquire::Languages": "none",
    }
    return [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]


def _distribution() -> str:
    path = Path("/etc/os-release")
    text = path.read_text() if path.is_file() else ""
    match = re.search(r'^ID="?([a-z]+)"?$', text, flags=re.MULTILINE)
    return match[1] if match else "debian"


def _apt(command: list[str], name: str, folder: Path) -> str:
    environment = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    try:
        result = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=TIMEOUT_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise Omni123Error(f"{command[0]} took more than {TIMEOUT_SECONDS} s. {_by_hand(name)}") from error
    if result.returncode != 0:
        raise Omni123Error(f"{command[0]} failed: {_last_line(result.stderr)}. {_by_hand(name)}")
    return result.stdout


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no message"


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _by_hand(name: str) -> str:
    package = PACKAGES[name]
    return (
        f"Download the Debian package {package} (any release) by hand, unpack it with "
        f"'dpkg-deb -x {package}_*.deb RAW/{name}', and pass the folder RAW as --raw"
    )

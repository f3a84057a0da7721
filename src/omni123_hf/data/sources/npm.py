"""Get packages from the npm registry that npm is configured for, checked against pinned hashes; nothing is executed.

npm itself is only asked where a tarball lies (`npm view`). The download is ours: bounded, and resumed where it stopped.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ...errors import Omni123Error


TIMEOUT_SECONDS = 60.0
ATTEMPTS = 4
CHUNK = 1 << 18


@dataclass(frozen=True)
class NpmPackage:
    """A package at one version. integrity: "sha512-" and base64, as in a lock file. Sizes are upper bounds in bytes."""

    name: str
    version: str
    integrity: str
    max_packed: int
    max_unpacked: int
    max_files: int

    @property
    def folder(self) -> str:
        """Name without its scope."""
        return self.name.rsplit("/", 1)[-1]


def fetch_packages(name: str, packages: Sequence[NpmPackage], out: Path | str) -> Path:
    """Folder `out/name` with one folder a package. One that is there already is returned untouched.

    A stopped download goes on where it stopped. Tarballs are checked, unpacked beside the target and moved into place
    together. Raises `Omni123Error` when npm is missing, the registry cannot be reached or a tarball is not the pinned one.
    """
    target = Path(out) / name
    if target.exists():
        return target
    if shutil.which("npm") is None:
        raise Omni123Error(f"npm is not on this system. {_by_hand(name, packages)}")
    scratch = target.with_name(f".{name}.part")
    scratch.mkdir(parents=True, exist_ok=True)
    tree = scratch / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    for package in packages:
        tarball = scratch / f"{package.folder}-{package.version}.tgz"
        if not _is_whole(tarball, package):
            download(tarball_address(package), tarball, package.max_packed)
        if not _is_whole(tarball, package):
            tarball.unlink()
            raise Omni123Error(
                f"{package.name} {package.version} is not the pinned file (SHA-512 differs); fetch it again"
            )
        unpack_tarball(tarball, tree / package.folder, package.max_unpacked, package.max_files)
    note = {"source": name, "packages": {p.name: {"version": p.version, "integrity": p.integrity} for p in packages}}
    (tree / "source.json").write_text(json.dumps(note, indent=2) + "\n")
    os.replace(tree, target)
    shutil.rmtree(scratch)
    return target


def tarball_address(package: NpmPackage) -> str:
    """Where the registry that npm is configured for keeps the tarball. `npm view` reads metadata and runs no script."""
    command = ["npm", "view", f"{package.name}@{package.version}", "dist.tarball", "--json"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise Omni123Error(f"npm did not answer within {TIMEOUT_SECONDS:.0f} s; check its registry") from error
    try:
        address = json.loads(result.stdout)
    except json.JSONDecodeError:
        address = None
    if result.returncode != 0 or not isinstance(address, str):
        lines = [line for line in result.stderr.splitlines() if "error" in line.lower()]
        raise Omni123Error(f"npm does not know {package.name}@{package.version}: {(lines or ['no message'])[0][:200]}")
    if not address.startswith(("https://", "http://")):
        raise Omni123Error(f"npm names the address {address[:80]!r} for {package.name}; only http and https are read")
    return address


def download(address: str, path: Path, most: int) -> None:
    """The bytes of `address` as `path`, at most `most`; what is there already is kept and the rest is asked for."""
    problem = "no answer"
    for _ in range(ATTEMPTS):
        have = path.stat().st_size if path.is_file() else 0
        request = urllib.request.Request(address, headers={"Range": f"bytes={have}-"} if have else {})
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
                # A server that does not know ranges sends the whole again.
                with open(path, "ab" if answer.status == 206 else "wb") as file:
                    while chunk := answer.read(CHUNK):
                        if file.tell() + len(chunk) > most:
                            raise Omni123Error(f"{address} is larger than {most} bytes; it is not the expected file")
                        file.write(chunk)
                expected = answer.headers.get("Content-Length")
                received = path.stat().st_size - (have if answer.status == 206 else 0)
            if expected is None or received == int(expected):
                return
            problem = f"the connection ended after {received} of {expected} bytes"
        except urllib.error.HTTPError as error:
            if error.code == 416:  # nothing is left to send; the hash tells whether the file is right
                return
            problem = f"HTTP {error.code}"
        except (OSError, ValueError) as error:
            problem = str(error)
    raise Omni123Error(f"cannot download {address}: {problem}; run it again to go on")


def unpack_tarball(path: Path, target: Path, max_bytes: int, max_files: int) -> None:
    """Write the plain files of a package's tarball into the new folder `target`, without their first folder.

    Links, devices, names that leave the folder, names given twice and more bytes or files than allowed raise
    `Omni123Error`.
    """
    try:
        with gzip.open(path) as stream:
            data = stream.read(max_bytes + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise Omni123Error(f"{path.name} is no gzip file: {error}") from error
    if len(data) > max_bytes:
        raise Omni123Error(f"{path.name} unpacks to more than {max_bytes} bytes; it is not the expected file")
    target.mkdir(parents=True)
    count = 0
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            for member in tar:
                if member.isdir():
                    continue
                parts = PurePosixPath(member.name).parts
                unsafe = ".." in parts or member.name.startswith("/") or "\\" in member.name or len(parts) < 2
                if not member.isreg() or unsafe:
                    raise Omni123Error(f"{path.name} holds {member.name[:80]!r}, which is no plain file of a package")
                count += 1
                if count > max_files:
                    raise Omni123Error(f"{path.name} holds more than {max_files} files; it is not the expected file")
                content = tar.extractfile(member)
                assert content is not None
                place = target.joinpath(*parts[1:])
                place.parent.mkdir(parents=True, exist_ok=True)
                with open(place, "xb") as file:
                    shutil.copyfileobj(content, file)
    except (tarfile.TarError, OSError) as error:
        raise Omni123Error(f"{path.name} cannot be unpacked: {error}") from error


def _is_whole(path: Path, package: NpmPackage) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha512").digest()
    return f"sha512-{base64.b64encode(digest).decode()}" == package.integrity


def _by_hand(name: str, packages: Sequence[NpmPackage]) -> str:
    wanted = ", ".join(f"{package.name}@{package.version}" for package in packages)
    return f"Download {wanted} by hand and unpack each tarball's folder 'package' as RAW/{name}/PACKAGE"

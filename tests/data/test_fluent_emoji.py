"""Pictures from npm: a registry on this machine, hostile tarballs, captions, and the prepared pool of pictures."""

import base64
import gzip
import hashlib
import io
import json
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

from omni123_hf.data.prepare_images import prepare_images
from omni123_hf.data.sources import fetch, fluent_emoji, iter_images, npm
from omni123_hf.data.sources.captions import LIMITS
from omni123_hf.data.sources.npm import NpmPackage, download, fetch_packages, unpack_tarball
from omni123_hf.data.views import pixels_from_views
from omni123_hf.errors import Omni123Error


def picture(color=(250, 210, 40, 255), size=(32, 32), save_as="WEBP"):
    stream = io.BytesIO()
    image = Image.new("RGBA", size, (0, 0, 0, 0))
    image.paste(color, (4, 4, size[0] - 4, size[1] - 4))
    image.save(stream, save_as, **({"lossless": True} if save_as == "WEBP" else {}))
    return stream.getvalue()


def tarball(files, links=()):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for name, target in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            tar.addfile(info)
    return stream.getvalue()


@pytest.fixture
def emoji(tmp_path):
    """An unpacked download: a cookie (twice, under two names), a person in two tones, a flag, and a broken picture."""
    root = tmp_path / "fluent-emoji"
    assets = root / "fluent-emoji-3d" / "assets"
    assets.mkdir(parents=True)
    files = {
        "1f36a": picture((0, 0, 0, 255)), "01f36a-fe0f": picture(), "1f9d1": picture((30, 85, 180, 255)),
        "1f9d1-1f3fb": picture((9, 9, 9, 255)), "1f1e7-1f1ea": picture((1, 1, 1, 255)), "1f4a1": b"RIFF junk",
        "1f511": picture(), "zzzz": picture((2, 2, 2, 255)),
    }  # fmt: skip
    for name, data in files.items():
        (assets / f"{name}.webp").write_bytes(data)
    names = {
        "🍪": ("cookie", "Food & Drink"), "🧑": ("person: beard", "People & Body"), "🇧🇪": ("flag: Belgium", "Flags"),
        "💡": ("light bulb", "Objects"), "🔑": ("key", "Objects"), "🧑🏻": ("person: light", "People & Body"),
    }  # fmt: skip
    (root / "unicode-emoji-json").mkdir()
    table = {emoji: {"name": name, "group": group} for emoji, (name, group) in names.items()}
    (root / "unicode-emoji-json" / "data-by-emoji.json").write_text(json.dumps(table))
    (root / "emojilib" / "dist").mkdir(parents=True)
    words = {"🍪": ["cookie", "food", "oreo", ":D", "sweet_dish"]}
    (root / "emojilib" / "dist" / "emoji-en-US.json").write_text(json.dumps(words))
    return root


def test_pictures_have_names_licence_and_captions_at_three_lengths(emoji):
    assets = {asset.name: asset for asset in iter_images("fluent-emoji", emoji)}
    # The key has the cookie's very picture; flags, skin tones and nameless files are left out.
    assert set(assets) == {"cookie", "person, beard", "light bulb"}
    asset = assets["person, beard"]
    assert asset.licence == "MIT" and "Microsoft" in asset.attribution and asset.id == "fluent-emoji/1f9d1"
    assert not any("blue person" in text for text in asset.captions["short"])
    for each in assets.values():
        for level, (low, high) in LIMITS.items():
            assert each.captions[level] and all(low <= len(text.split()) <= high for text in each.captions[level])
    assert assets["cookie"].attributes["keywords"] == ["food", "sweet dish"], "no brands, no smileys"
    assert [a.captions for a in iter_images("fluent-emoji", emoji)] == [a.captions for a in assets.values()]


def test_pictures_become_a_pool_and_broken_ones_are_listed(emoji, tmp_path):
    assets = list(iter_images("fluent-emoji", emoji))
    store = prepare_images(assets, tmp_path / "pool", size=16, show_progress=False)
    assert len(store) == len(assets) - 1 and store.images(0).shape == (16, 16, 4)
    (line,) = [json.loads(line) for line in (tmp_path / "pool" / "rejected.jsonl").read_text().splitlines()]
    assert (line["id"], line["reason"], line["path"]) == ("fluent-emoji/1f4a1", "unreadable_picture", "1f4a1.webp")
    assert pixels_from_views(store.images(np.arange(len(store)))).shape == (len(store), 3, 16, 16)
    assert sum(len(store.indices(split)) for split in ("train", "validation", "heldout")) == len(store)


@pytest.mark.parametrize(
    "files, links, problem",
    [
        ([("package/../../evil", b"x")], (), "no plain file"),
        ([("/etc/evil", b"x")], (), "no plain file"),
        ([("package\\..\\evil", b"x")], (), "no plain file"),
        ([("evil", b"x")], (), "no plain file"),
        ([], [("package/link", "/etc/passwd")], "no plain file"),
        ([("package/a", b"x"), ("package/a", b"y")], (), "cannot be unpacked"),
        ([(f"package/{i}", b"") for i in range(6)], (), "more than 5 files"),
        ([("package/big", b"\0" * 2_000_000)], (), "more than 1000000 bytes"),
    ],
)
def test_hostile_tarballs_are_refused(tmp_path, files, links, problem):
    path = tmp_path / "x.tgz"
    path.write_bytes(tarball(files, links))
    with pytest.raises(Omni123Error, match=problem):
        unpack_tarball(path, tmp_path / "deep" / "out", 1_000_000, 5)
    assert not (tmp_path / "evil").exists() and not (tmp_path / "deep" / "evil").exists()


def test_junk_is_no_tarball(tmp_path):
    for data in (b"not gzip", gzip.compress(b"not tar" * 200), tarball([("package/a", b"x" * 5000)])[:60]):
        (tmp_path / "x.tgz").write_bytes(data)
        with pytest.raises(Omni123Error):
            unpack_tarball(tmp_path / "x.tgz", tmp_path / "out" / hashlib.md5(data).hexdigest(), 10**6, 5)


@pytest.fixture
def registry():
    """A server of one tarball that knows ranges; `cut` is the number of bytes after which it hangs up once."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            server = self.server
            start = int(self.headers.get("Range", "bytes=0-")[6:-1])
            server.starts.append(start)
            if start >= len(server.data):
                self.send_error(416)
                return
            body = server.data[start:]
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            cut, server.cut = server.cut, None
            self.wfile.write(body[:cut])

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.data, server.cut, server.starts = tarball([("package/assets/a.txt", bytes(range(256)) * 40)]), None, []
    server.address = f"http://127.0.0.1:{server.server_port}/a.tgz"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def package_of(data, **changes):
    integrity = "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode()
    values = {
        "name": "@x/thing",
        "version": "1.0.0",
        "integrity": integrity,
        "max_packed": 10**6,
        "max_unpacked": 10**6,
        "max_files": 5,
    }
    return NpmPackage(**{**values, **changes})


def test_a_broken_off_download_goes_on(registry, tmp_path, monkeypatch):
    monkeypatch.setattr(npm, "tarball_address", lambda package: registry.address)
    monkeypatch.setattr(npm.shutil, "which", lambda name: "/usr/bin/npm")
    registry.cut = 100
    target = fetch_packages("things", [package_of(registry.data)], tmp_path)
    assert registry.starts == [0, 100]
    assert (target / "thing" / "assets" / "a.txt").read_bytes() == bytes(range(256)) * 40
    assert [path.name for path in tmp_path.iterdir()] == ["things"]
    assert fetch_packages("things", [package_of(registry.data)], tmp_path) == target and len(registry.starts) == 2


def test_a_stopped_fetch_goes_on_from_the_part_on_disk(registry, tmp_path, monkeypatch):
    monkeypatch.setattr(npm, "tarball_address", lambda package: registry.address)
    monkeypatch.setattr(npm.shutil, "which", lambda name: "/usr/bin/npm")
    (tmp_path / ".things.part").mkdir()
    (tmp_path / ".things.part" / "thing-1.0.0.tgz").write_bytes(registry.data[:50])
    fetch_packages("things", [package_of(registry.data)], tmp_path)
    assert registry.starts == [50]


def test_files_that_are_not_the_pinned_ones_are_refused(registry, tmp_path, monkeypatch):
    monkeypatch.setattr(npm, "tarball_address", lambda package: registry.address)
    monkeypatch.setattr(npm.shutil, "which", lambda name: "/usr/bin/npm")
    with pytest.raises(Omni123Error, match="not the pinned file"):
        fetch_packages("things", [package_of(b"another")], tmp_path)
    with pytest.raises(Omni123Error, match="larger than 50 bytes"):
        download(registry.address, tmp_path / "b.tgz", 50)
    with pytest.raises(Omni123Error, match="cannot download"):
        download("http://127.0.0.1:9/none", tmp_path / "c.tgz", 50)
    assert not (tmp_path / "things").exists()


def test_without_npm_the_way_by_hand_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(npm.shutil, "which", lambda name: None)
    with pytest.raises(Omni123Error, match="by hand"):
        fetch("fluent-emoji", tmp_path)
    with pytest.raises(Omni123Error, match="fluent-emoji"):
        fetch("nonsense", tmp_path)
    with pytest.raises(Omni123Error, match="data fetch fluent-emoji"):
        list(iter_images("fluent-emoji", tmp_path))
    with pytest.raises(Omni123Error, match="unknown source of pictures"):
        iter_images("nonsense", tmp_path)


@pytest.mark.hub
def test_the_real_set_is_fetched_and_read(tmp_path):
    assets = list(iter_images("fluent-emoji", fetch("fluent-emoji", tmp_path)))
    assert len(assets) == 1598 and len({asset.category for asset in assets}) == len(fluent_emoji.GROUP_WORDS)

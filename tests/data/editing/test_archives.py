"""Members of tars: one pass over the archive, bounded, and nothing left behind."""

import gc
import io
import pickle
import tarfile
import tempfile

import numpy as np
import pytest

from omni123_hf.data.editing import archives
from omni123_hf.data.editing.archives import archive_members
from omni123_hf.data.editing.members import group_members
from omni123_hf.errors import Omni123Error, RejectedError


@pytest.fixture
def spools(tmp_path, monkeypatch):
    """The folder where temporary files go."""
    folder = tmp_path / "spools"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def write_tar(path, files, mode="w", **options):
    with tarfile.open(path, mode, **options) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def pair_files(count):
    rng = np.random.default_rng(0)
    # Sizes around the blocks of a tar.
    return {f"{i:03d}.{side}.glb": rng.bytes(510 + i % 5) for i in range(count) for side in ("src", "tar")}


@pytest.mark.parametrize("kind", ["", "gz", "bz2", "xz"])
def test_an_archive_is_passed_once_however_many_members_are_read(tmp_path, spools, monkeypatch, kind):
    files = pair_files(40)
    path = write_tar(tmp_path / "pairs.tar", {**files, "000.webp": b"x" * 5000}, f"w:{kind}")
    passes = []
    real = tarfile.open
    monkeypatch.setattr(tarfile, "open", lambda *a, **k: passes.append(1) or real(*a, **k))
    groups = dict(group_members(path, (".glb",)))
    for key, members in groups.items():
        assert members["source"].read(9999) == files[f"{key}.src.glb"]
        assert members["target"].read(9999) == files[f"{key}.tar.glb"]
    assert len(groups) == 40 and len(passes) == 1
    unpacked = sum(file.stat().st_size for file in spools.iterdir())
    assert unpacked == (sum(map(len, files.values())) if kind else 0), "only the members of pairs are unpacked"


def test_the_unpacked_file_goes_with_the_last_member_and_no_worker_removes_it(tmp_path, spools):
    path = write_tar(tmp_path / "pairs.tgz", pair_files(2), "w:gz")
    groups = dict(group_members(path, (".glb",)))
    kept = groups.pop("001")["source"]
    again = dict(group_members(path, (".glb",)))["001"]["source"]
    assert repr(again) == repr(kept) and again == kept, "plans compare pairs by their text"
    del groups, again
    sent = pickle.loads(pickle.dumps(kept))
    assert sent.read(9999) == kept.read(9999)
    del sent
    gc.collect()
    assert len(list(spools.iterdir())) == 1 and kept.read(9999)
    place = kept.place
    del kept
    gc.collect()
    assert list(spools.iterdir())
    gone = pickle.loads(pickle.dumps(place))
    del place
    gc.collect()
    assert not list(spools.iterdir())
    with pytest.raises(RejectedError) as caught:
        gone.read()
    assert caught.value.reason == "broken_archive"


@pytest.mark.parametrize("name", ["0.src.glb", "unrelated.bin"])
def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path, spools, name):
    path = write_tar(tmp_path / "bomb.tar.gz", {name: bytes(30_000_000), "0.tar.glb": b"x"}, "w:gz")
    assert path.stat().st_size < 100_000
    with pytest.raises(Omni123Error, match="more than 1000000 bytes"):
        list(group_members(path, (".glb",), 1_000_000))
    gc.collect()
    assert not list(spools.iterdir())


def test_a_member_that_only_claims_to_be_huge_is_refused_at_its_header(tmp_path, spools):
    info = tarfile.TarInfo("0.src.glb")
    info.size = 2**50
    path = tmp_path / "huge.tar.gz"
    with archives.gzip.open(path, "wb") as file:
        file.write(info.tobuf(tarfile.GNU_FORMAT) + bytes(10_240))
    with pytest.raises(Omni123Error, match="more than 20000000000 bytes"):
        list(group_members(path, (".glb",)))


@pytest.mark.parametrize("kind", ["", "gz"])
def test_headers_that_would_fill_the_memory_are_refused(tmp_path, spools, kind):
    path = write_tar(tmp_path / "pairs.tar", {"a" * 2_000_000: b"x"}, f"w:{kind}", format=tarfile.GNU_FORMAT)
    with pytest.raises(Omni123Error, match="header"):
        list(archive_members(path, lambda name: True))


@pytest.mark.parametrize("kind", ["", "gz", "bz2", "xz"])
def test_a_cut_archive_is_an_error_and_leaves_nothing(tmp_path, spools, kind):
    path = write_tar(tmp_path / "pairs.tar", pair_files(20), f"w:{kind}")
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(Omni123Error, match="no readable"):
        list(group_members(path, (".glb",)))
    gc.collect()
    assert not list(spools.iterdir())


def test_a_sparse_member_is_refused(tmp_path):
    info = tarfile.TarInfo("0.src.glb")
    info.type = tarfile.GNUTYPE_SPARSE
    (tmp_path / "sparse.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(10_240))
    with pytest.raises(Omni123Error, match="sparse"):
        list(group_members(tmp_path / "sparse.tar", (".glb",)))


def test_a_tar_that_shrinks_after_listing_gives_no_half_member(tmp_path):
    path = write_tar(tmp_path / "pairs.tar", pair_files(1))
    members = dict(group_members(path, (".glb",)))["000"]
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(RejectedError, match="shorter"):
        members["source"].read(9999)

"""Readers of other people's pairs, on small folders and tars that the tests write."""

import io
import json
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import trimesh

from omni123_hf.data.editing.members import group_members, role_of
from omni123_hf.data.editing.prepare_pair import PAIR_CONFIG, prepare_pair
from omni123_hf.data.editing.readers import (
    PairSetInfo,
    read_edit3d_bench,
    read_mesh_pairs,
    read_table,
    refuse_3deditverse,
)
from omni123_hf.data.editing.token_pairs import TokenPairStore, TokenSpace, read_token_pairs, write_token_pairs
from omni123_hf.data.preparation_config import PreparationConfig
from omni123_hf.errors import Omni123Error, RejectedError


INFO = PairSetInfo("nano", "MIT", "the authors of the set", ("FLUX", "TRELLIS"))
SPACE = TokenSpace("f" * 64, length=8, codes=100)
SMALL = PreparationConfig(
    **{**vars(PAIR_CONFIG), "surface_points": 64, "queries": 512, "view_size": 8, "supersample": 1, "solid": "flood"}
)


def box_glb(knob=False):
    parts = [trimesh.creation.box((2.0, 1.0, 1.0))]
    if knob:
        parts.append(
            trimesh.creation.box((0.5, 0.5, 0.5), trimesh.transformations.translation_matrix((0.0, 0.75, 0.0)))
        )
    return trimesh.Scene(parts).export(file_type="glb")


def npy(values, dtype=np.int64):
    stream = io.BytesIO()
    np.save(stream, np.asarray(values, dtype=dtype))
    return stream.getvalue()


def write_tar(path, files, links=()):
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for name, target in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            tar.addfile(info)
    return path


def put(folder, files):
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@pytest.mark.parametrize(
    "name, role, key",
    [
        ("000123.src.glb", "source", "000123"),
        ("000123.tar.glb", "target", "000123"),
        ("part1/000123_target.glb", "target", "part1/000123"),
        ("source/000123.glb", "source", "000123"),
        ("000123/edited.glb", "target", "000123"),
        ("000123.json", "words", "000123"),
        ("000123/instruction.txt", "words", "000123"),
    ],
)
def test_names_tell_role_and_pair(name, role, key):
    assert role_of(name, (".glb",)) == (role, key)


def test_other_files_are_no_parts_of_pairs():
    assert role_of("000123.src.webp", (".glb",)) is None and role_of("000123.glb", (".glb",)) is None


def test_a_folder_of_pairs_is_prepared_in_the_frame_of_both(tmp_path):
    files = {
        "1/src.glb": box_glb(),
        "1/tar.glb": box_glb(True),
        "1/instruction.txt": b"add a knob\n",
        "2/src.glb": b"",
    }
    found = read_mesh_pairs(put(tmp_path, files), INFO)
    assert [spec.id for spec in found.specs] == ["edit/nano/1"] and not found.skipped
    prepared = prepare_pair(found.specs[0], SMALL)
    pair = prepared.pair
    assert pair.instructions == {"short": ["add a knob"], "long": []} and pair.licence == "MIT"
    # The knob is 0.125 of 2.125; flooded labels are a voxel or so larger.
    assert pair.changed_share == pytest.approx(0.125 / 2.125, abs=0.02)
    low, high = np.array(pair.region.bounds)
    assert low[1] > 0.1 and high[1] < 0.8 and high[0] - low[0] < 0.65, "only the knob may change"
    assert prepared.records[0].captions["medium"] == ["an object before this edit: add a knob"]


def test_a_tar_of_pairs_is_read_without_unpacking(tmp_path):
    words = json.dumps({"instruction": "add a knob", "edit_type": "addition", "object_id": "pot"}).encode()
    files = {"0.src.glb": box_glb(), "0.tar.glb": box_glb(True), "0.json": words}
    files |= {"1.src.glb": b"x", "1.tar.glb": b"x", "2.src.glb": b"x", "2.tar.glb": b"x", "2.json": b"{"}
    files |= {"3.src.glb": b"x", "3.tar.glb": b"x", "3.json": b'{"prompt": "paint it", "type": "texture"}'}
    archive = write_tar(tmp_path / "pairs.tar", files, [("4.src.glb", "/etc/passwd"), ("4.tar.glb", "0.tar.glb")])
    found = read_mesh_pairs(archive, INFO)
    assert [(spec.id, spec.edit_type, spec.object_id) for spec in found.specs] == [("edit/nano/0", "add", "pot")]
    reasons = {skip["id"]: skip["reason"] for skip in found.skipped}
    assert reasons == {"1": "no_instruction", "2": "broken_file", "3": "texture_only"}
    opened = found.specs[0].open()
    assert np.abs(opened.target.vertices).max() == pytest.approx(0.96)
    assert opened.pair.source.reference == {"archive": "pairs.tar", "member": "0.src.glb"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pairs.tar"]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_tables_of_pairs(tmp_path, suffix):
    put(tmp_path, {"a.glb": box_glb(), "b.glb": box_glb(True)})
    row = {
        "source": "a.glb", "target": "b.glb", "instruction": "add a knob", "inverse_instruction": "remove the knob",
        "edit_type": "add", "licence": "CC-BY-4.0", "id": "knob",
    }  # fmt: skip
    path = tmp_path / f"pairs.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist([row]), path)
    elif suffix == "csv":
        path.write_text(",".join(row) + "\n" + ",".join(row.values()) + "\n")
    else:
        path.write_text(json.dumps(row) + "\n")
    spec = read_table(path, INFO).specs[0]
    pair = spec.open().pair
    assert (pair.id, pair.edit_type, pair.licence) == ("edit/nano/knob", "add", "CC-BY-4.0")
    assert pair.inverse().texts == ["remove the knob"]


def test_bad_tables_are_refused(tmp_path):
    path = tmp_path / "pairs.csv"
    for text, problem in (
        ("source,target\na.glb,b.glb\n", "has no instruction"),
        ("source,target,text\n../a.glb,b.glb,x\n", "leaves the folder"),
        ("source,target,text\n/etc/a.glb,b.glb,x\n", "not a relative path"),
        ("source,target,text\nhttp://x/a.glb,b.glb,x\n", "address"),
        ("source,target,text\n", "no pairs"),
        ("source,target,text,id\na.glb,b.glb,x,1\na.glb,b.glb,x,1\n", "unique"),
    ):
        path.write_text(text)
        with pytest.raises(Omni123Error, match=problem):
            read_table(path, INFO)
    (tmp_path / "bad.parquet").write_text("{")
    for name in ("bad.parquet", "none.csv", "pairs.xlsx"):
        with pytest.raises(Omni123Error, match="table"):
            read_table(tmp_path / name, INFO)
    with pytest.raises(Omni123Error, match="licence"):
        PairSetInfo("nano", "unknown", "someone", ("TRELLIS",))


def test_a_bad_row_costs_one_pair(tmp_path):
    good = json.dumps({"source": "a.glb", "target": "b.glb", "instruction": "add a knob"})
    (tmp_path / "pairs.jsonl").write_text(f'{{"source"\n[1]\n\n{good}\n')
    found = read_table(tmp_path / "pairs.jsonl", INFO)
    assert [spec.id for spec in found.specs] == ["edit/nano/0000004"], "numbered as the lines are"
    assert [(skip["id"], skip["reason"]) for skip in found.skipped] == [("0000001", "bad_row"), ("0000002", "bad_row")]
    assert "must be a JSON object" in found.skipped[1]["detail"]
    (tmp_path / "pairs.csv").write_text("source,target,text\na.glb,b.glb,x\na.glb,b.glb,x,too many\n")
    found = read_table(tmp_path / "pairs.csv", INFO)
    assert len(found.specs) == 1 and "more fields" in found.skipped[0]["detail"]


def test_edit3d_bench_is_held_out_and_its_texture_part_skipped(tmp_path):
    put(tmp_path, {"glb/a.glb": box_glb(), "glb/b.glb": box_glb(True)})
    (tmp_path / "addition.csv").write_text("source_id,target_id,text\na,b,add a knob\na,c,add legs\n")
    (tmp_path / "texture.csv").write_text("source_id,target_id,text\na,b,paint it\n")
    found = read_edit3d_bench(tmp_path, INFO)
    assert [(s.edit_type, s.split, s.object_id) for s in found.specs] == [("add", "heldout", "nano/a")]
    assert sorted(skip["reason"] for skip in found.skipped) == ["missing_file", "texture_only"]
    with pytest.raises(Omni123Error, match="TRELLIS"):
        refuse_3deditverse(tmp_path)


def token_tar(path, **changes):
    files = {
        "a_source.npy": npy([range(8)]), "a_target.npy": npy([range(1, 9)]), "a.json": b'{"instruction": "add a lid", "type": "add"}',
        **changes,
    }  # fmt: skip
    return write_tar(path, files)


def test_token_pairs_become_flat_arrays(tmp_path):
    skipped: list[dict[str, str]] = []
    words = b'{"instruction": "grow"}'
    archive = token_tar(
        tmp_path / "part0.tar",
        **{
            "b_source.npy": npy([range(8)]), "b_target.npy": npy([range(93, 101)]), "b.json": words,
            "c_source.npy": npy([range(9)]), "c_target.npy": npy([range(9)]), "c.json": words,
            "d_source.npy": npy([range(8)], np.float32), "d_target.npy": npy([range(8)]), "d.json": words,
            "e_source.npy": npy([range(8)]), "e_target.npy": npy([range(8)]), "e.json": words,
            "f_source.npy": npy([range(8)]), "f_target.npy": b"\x93NUMPY junk", "f.json": words,
            "g_source.npy": npy([range(-1, 7)]), "g_target.npy": npy([range(8)]), "g.json": words,
        },
    )  # fmt: skip
    items = list(read_token_pairs(archive, INFO, SPACE, skipped))
    assert {skip["id"]: skip["reason"] for skip in skipped} == {
        "b": "token_range", "c": "token_length", "d": "token_type", "e": "no_change", "f": "broken_file", "g": "token_range",
    }  # fmt: skip
    store = write_token_pairs(items, tmp_path / "out", SPACE)
    assert len(store) == 1 and store.source_tokens.dtype == np.uint16
    assert store.target_tokens[0].tolist() == list(range(1, 9))
    assert store.pairs[0].tokenizer_hash == SPACE.tokenizer_hash and store.pairs[0].edit_type == "add"
    with pytest.raises(Omni123Error, match="written by tokenizer"):
        TokenPairStore.open(tmp_path / "out", "0" * 64)
    with pytest.raises(Omni123Error, match="there already"):
        write_token_pairs(items, tmp_path / "out", SPACE)
    with pytest.raises(Omni123Error, match="no token pairs"):
        write_token_pairs([], tmp_path / "none", SPACE)
    np.save(tmp_path / "out" / "source_tokens.npy", np.zeros((2, 8), np.uint16))
    with pytest.raises(Omni123Error, match="do not match"):
        TokenPairStore.open(tmp_path / "out")


def test_pickled_token_files_are_never_loaded(tmp_path):
    stream = io.BytesIO()
    np.save(stream, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    skipped: list[dict[str, str]] = []
    archive = token_tar(tmp_path / "part0.tar", **{"a_source.npy": stream.getvalue()})
    assert not list(read_token_pairs(archive, INFO, SPACE, skipped)) and skipped[0]["reason"] == "broken_file"


def test_pairs_of_a_barred_model_are_refused_unless_allowed(tmp_path):
    archive = token_tar(tmp_path / "part0.tar")
    chain = ("Qwen3.5-35B-A3B", "FLUX.2-klein", "Hunyuan3D-2-mini")
    barred = PairSetInfo("3dedit-1m", "Apache-2.0", "OmniWeave", chain)
    with pytest.raises(Omni123Error, match="allow_restricted"):
        list(read_token_pairs(archive, barred, SPACE))
    allowed = PairSetInfo("3dedit-1m", "Apache-2.0", "OmniWeave", chain, allow_restricted=True)
    store = write_token_pairs(read_token_pairs(archive, allowed, SPACE), tmp_path / "out", SPACE)
    assert "Hunyuan3D-2-mini" in str(store.pairs[0].licence_warning)
    summary = json.loads((tmp_path / "out" / "token_pairs.json").read_text())
    assert len(summary["licence_warnings"]) == 1


def test_members_that_clash_or_are_too_large_are_refused(tmp_path):
    archive = write_tar(tmp_path / "a.tar", {"a_source.npy": b"1", "a.src.npy": b"2"})
    with pytest.raises(Omni123Error, match="both the source"):
        list(group_members(archive, (".npy",)))
    archive = write_tar(tmp_path / "b.tar", {"a_source.npy": b"1" * 100, "a_target.npy": b"2"})
    _, members = next(group_members(archive, (".npy",)))
    with pytest.raises(RejectedError) as caught:
        members["source"].read(99)
    assert caught.value.reason == "file_too_large"
    (tmp_path / "c.tar").write_bytes(b"not a tar at all")
    with pytest.raises(Omni123Error, match="no readable"):
        list(group_members(tmp_path / "c.tar", (".npy",)))


def row_table(path, **row):
    values = {"source": "a.glb", "target": "b.glb", "instruction": "add a knob", **row}
    path.write_text(",".join(values) + "\n" + ",".join(values.values()) + "\n")
    return path


@pytest.mark.parametrize("column", ["licence", "license", "License"])
@pytest.mark.parametrize("text", ["unknown", "Unknown", "N/A", "none"])
def test_a_row_that_says_unknown_does_not_get_round_the_licence_rule(tmp_path, column, text):
    path = row_table(tmp_path / "pairs.csv", **{column: text})
    found = read_table(path, INFO)
    assert not found.specs and [skip["reason"] for skip in found.skipped] == ["unknown_licence"]
    allowed = PairSetInfo("nano", "MIT", "the authors of the set", ("TRELLIS",), allow_unknown_licence=True)
    assert [spec.licence for spec in read_table(path, allowed).specs] == ["unknown"]


def test_licences_of_rows_are_in_spdx_terms_and_empty_ones_are_the_sets(tmp_path):
    for text, licence in (("cc-by", "CC-BY-4.0"), ("", "MIT"), ("Apache 2.0", "Apache-2.0"), ("my own", "my own")):
        assert read_table(row_table(tmp_path / "pairs.csv", licence=text), INFO).specs[0].licence == licence
    for text in ("N/A", "Unknown", " "):
        with pytest.raises(Omni123Error, match="licence"):
            PairSetInfo("nano", text, "someone", ("TRELLIS",))


def test_token_pairs_keep_the_licence_of_their_own_words(tmp_path):
    skipped: list[dict[str, str]] = []
    words = {"instruction": "grow", "licence": "cc-by-sa", "attribution": "Ann"}
    sides = {"b_source.npy": npy([range(8)]), "b_target.npy": npy([range(1, 9)])}
    more = {
        "a.json": json.dumps({**words, "licence": "unknown"}).encode(),
        **sides,
        "b.json": json.dumps(words).encode(),
    }
    items = list(read_token_pairs(token_tar(tmp_path / "part0.tar", **more), INFO, SPACE, skipped))
    assert [(pair.licence, pair.attribution) for pair, _, _ in items] == [("CC-BY-SA-4.0", "Ann")]
    assert [(skip["id"], skip["reason"]) for skip in skipped] == [("a", "unknown_licence")]

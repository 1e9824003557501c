"""Units as other projects store them become code shards, or are set aside with a reason."""

import gzip
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from megatron_speech.data.code_shards import read_code_shards
from megatron_speech.data.foreign_codes import UnitLayout
from megatron_speech.data.import_codes import ImportCodesConfig, import_codes
from megatron_speech.errors import ConfigError, DataError
from megatron_speech.io.rejected import read_rejected

ROWS = [
    {"units": [3, 49, 7, 30], "duration": [1, 2, 1, 3], "file_name": "../audio/1.flac"},
    {"units": [4, 4, 5], "duration": [1, 1, 4], "file_name": "../audio/2.flac"},
]


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def run(tmp_path, source, **given):
    settings = {"name": "units", "frame_rate_hz": 25.0, "num_codes": 500} | given
    return import_codes(ImportCodesConfig(input=(source,), output=tmp_path / "codes", **settings))


def codes_of(tmp_path):
    info, records = read_code_shards(tmp_path / "codes")
    return info, {record.id: record for record in records}


def set_aside(tmp_path):
    return {one.id: one.reason for one in read_rejected(tmp_path / "codes" / "rejected.jsonl")}


def test_slamkit_features_are_expanded_to_even_time(tmp_path):
    (tmp_path / "features.jsonl").write_text(lines(*ROWS))
    report = run(tmp_path, tmp_path / "features.jsonl")
    info, records = codes_of(tmp_path)
    assert (info.frame_rate_hz, info.num_codes, info.collapsed) == (25.0, 500, False)
    # neighbouring files are no segments of one recording: no slash before the number
    assert {name: r.codes.tolist() for name, r in records.items()} == {
        "audio_1": [3, 49, 49, 7, 30, 30, 30],
        "audio_2": [4, 4, 5, 5, 5, 5],
    }
    assert records["audio_1"].duration_s == pytest.approx(7 / 25)
    assert (report["records"], report["codes"], report["codes_used"]) == (2, 13, 6)
    assert report["repeated"] == pytest.approx(7 / 13)
    assert report["codes_per_second"] == pytest.approx(25.0)


def test_collapsed_units_are_marked_and_another_tokenizer(tmp_path):
    (tmp_path / "features.jsonl").write_text(lines(*ROWS))
    run(tmp_path, tmp_path / "features.jsonl")
    even, _ = codes_of(tmp_path)
    shutil.rmtree(tmp_path / "codes")
    run(tmp_path, tmp_path / "features.jsonl", layout=UnitLayout(repetitions="collapse"))
    info, records = codes_of(tmp_path)
    assert info.collapsed
    assert info.tokenizer_fingerprint != even.tokenizer_fingerprint
    assert records["audio_2"].codes.tolist() == [4, 5]
    assert records["audio_2"].duration_s == pytest.approx(6 / 25)
    with pytest.raises(DataError, match=r"--alignments needs .*--repetitions expand"):
        info.require_places_in_time("--alignments")


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".jsonl.zst"])
def test_compressed_lines(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    content = lines({"id": "a", "units": [1, 2]}).encode()
    if suffix.endswith("gz"):
        path.write_bytes(gzip.compress(content))
    else:
        with pa.CompressedOutputStream(str(path), "zstd") as stream:
            stream.write(content)
    run(tmp_path, path)
    assert codes_of(tmp_path)[1]["a"].codes.tolist() == [1, 2]


def test_units_written_as_text(tmp_path):
    rows = [
        {"id": "a", "audio_repr": "<Un3><Un49><Un7>"},
        {"id": "b", "audio_repr": "71 12,4"},
        {"id": "c", "audio_repr": "<Un3>hello<Un4>"},
    ]
    (tmp_path / "tokens.jsonl").write_text(lines(*rows))
    run(tmp_path, tmp_path / "tokens.jsonl")
    found = {name: record.codes.tolist() for name, record in codes_of(tmp_path)[1].items()}
    assert found == {"a": [3, 49, 7], "b": [71, 12, 4]}
    assert set_aside(tmp_path) == {"c": "unreadable_units"}


def test_cosyvoice_parquet(tmp_path):
    columns = {"utt": ["u1", "u2"], "spk": ["p", "q"], "text": ["Hello.", "Good day."],
               "speech_token": [[6560, 1, 1], [5, 6]], "audio_data": [b"x", b"y"]}  # fmt: skip
    pq.write_table(pa.table(columns), tmp_path / "shard.parquet")
    run(tmp_path, tmp_path / "shard.parquet", num_codes=6561)
    record = codes_of(tmp_path)[1]["u1"]
    assert (record.codes.tolist(), record.text, record.speaker) == ([6560, 1, 1], "Hello.", "p")


@pytest.mark.parametrize("shape", [(1, 8, 30), (8, 30), (30, 8)])
def test_first_codebook_of_mimi(tmp_path, shape):
    array = np.arange(240).reshape(8, 30)
    first = array[0].tolist()
    array = array.T if shape[0] == 30 else array.reshape(shape)
    (tmp_path / "mimi").mkdir()
    np.save(tmp_path / "mimi" / "one.npy", array)
    np.savez(tmp_path / "mimi" / "more.npz", two=array[..., :20] if len(shape) == 3 else array)
    run(tmp_path, tmp_path / "mimi", frame_rate_hz=12.5, num_codes=2048)
    _, records = codes_of(tmp_path)
    assert records["one"].codes.tolist() == first
    assert set(records) == {"one", "two"}


def test_which_axis_the_codebooks_are_is_not_guessed(tmp_path):
    np.savez(tmp_path / "a.npz", square=np.zeros((8, 8), np.int64), fine=np.array([1, 2]))
    run(tmp_path, tmp_path / "a.npz")
    assert set_aside(tmp_path) == {"square": "unreadable_units"}


def test_what_cannot_be_used_is_set_aside(tmp_path):
    rows = [
        {"id": "good", "units": [1, 2]},
        {"id": "good", "units": [3]},
        {"id": "large", "units": [500]},
        {"id": "negative", "units": [-1, 3]},
        {"id": "empty", "units": []},
        {"id": "none", "units": None},
        {"id": "float", "units": [0.5, 1.0]},
        {"id": "ragged", "units": [[1, 2], [3]]},
        {"id": "counts", "units": [1, 2], "duration": [1]},
        {"id": "slow", "units": [1] * 50, "duration_s": 1.0},
    ]
    (tmp_path / "a.jsonl").write_text(lines(*rows) + "not json\n")
    report = run(tmp_path, tmp_path / "a.jsonl")
    assert report["records"] == 1
    assert set_aside(tmp_path) == {
        "good": "duplicate_id",
        "large": "out_of_range",
        "negative": "out_of_range",
        "empty": "no_units",
        "none": "no_units",
        "float": "unreadable_units",
        "ragged": "unreadable_units",
        "counts": "bad_counts",
        "slow": "other_length",
        "line 11": "invalid_json",
    }
    assert report["set_aside"]["out_of_range"] == 2


def test_a_negative_unit_is_not_lost_by_collapsing(tmp_path):
    (tmp_path / "a.jsonl").write_text(
        lines({"id": "n", "units": [-1, 3]}, {"id": "a", "units": [1]})
    )
    run(tmp_path, tmp_path / "a.jsonl", layout=UnitLayout(repetitions="collapse"))
    assert set_aside(tmp_path) == {"n": "out_of_range"}


def test_dropped_repetitions_show_in_the_rate(tmp_path):
    (tmp_path / "a.jsonl").write_text(lines({"id": "a", "units": [1, 2] * 8, "duration_s": 1.0}))
    with pytest.raises(DataError, match=r"16\.0 a second, not 25.*--repetitions"):
        run(tmp_path, tmp_path / "a.jsonl")
    assert not (tmp_path / "codes").exists()


def test_texts_of_a_manifest(tmp_path):
    rows = [{"units": [1, 2], "file_name": f"/elsewhere/{name}.wav"} for name in "abc"]
    (tmp_path / "features.jsonl").write_text(lines(*rows))
    manifest = [{"id": f"{n}-1", "path": f"wavs/{n}.wav", "text": f"Text {n}.", "speaker": "p",
                 "language": "en"} for n in "ab"]  # fmt: skip
    (tmp_path / "manifest.jsonl").write_text(lines(*manifest))
    report = run(tmp_path, tmp_path / "features.jsonl", texts=tmp_path / "manifest.jsonl")
    records = codes_of(tmp_path)[1]
    assert {r.text for r in records.values()} == {"Text a.", "Text b."}
    assert {r.speaker for r in records.values()} == {"p"}
    assert (report["records_with_text"], report["set_aside"]) == (2, {"not_in_texts": 1})


def test_texts_of_files_of_one_name_in_several_folders(tmp_path):
    """As VCTK has them; the manifest names them from its own folder, the units from another."""
    rows = [{"units": [n], "file_name": f"/then/wavs/{name}.wav"}
            for n, name in enumerate(("p1/001", "p2/001", "p3/002", "p4/002"))]  # fmt: skip
    (tmp_path / "features.jsonl").write_text(lines(*rows))
    empty = {"speaker": "", "language": ""}
    manifest = [{"id": name[1], "path": f"wavs/{name}.flac", "text": name} | empty
                for name in ("p1/001", "p2/001", "p3/002")]  # fmt: skip
    (tmp_path / "manifest.jsonl").write_text(lines(*manifest))
    texts = tmp_path / "manifest.jsonl"
    report = run(tmp_path, tmp_path / "features.jsonl", texts=texts)
    assert [r.text for r in codes_of(tmp_path)[1].values()] == ["p1/001", "p2/001", "p3/002"]
    assert report["set_aside"] == {"ambiguous": 1}  # and does not get the text of p3/002
    copy = texts.rename(tmp_path / "copy.jsonl")
    assert run(tmp_path, tmp_path / "features.jsonl", texts=copy)["texts"] == report["texts"]
    copy.write_text(lines(*manifest[:2]))
    assert run(tmp_path, tmp_path / "features.jsonl", texts=copy)["texts"] != report["texts"]


def test_an_id_goes_before_a_file_name(tmp_path):
    (tmp_path / "a.jsonl").write_text(lines(*({"id": n, "units": [1]} for n in "12")))
    manifest = [{"id": n, "path": f"{other}.wav", "text": n, "speaker": "", "language": ""}
                for n, other in ("12", "21")]  # fmt: skip
    (tmp_path / "manifest.jsonl").write_text(lines(*manifest))
    run(tmp_path, tmp_path / "a.jsonl", texts=tmp_path / "manifest.jsonl")
    assert {name: r.text for name, r in codes_of(tmp_path)[1].items()} == {"1": "1", "2": "2"}


def test_fingerprints_follow_name_rate_and_files(tmp_path):
    (tmp_path / "centres").write_text("one")

    def fingerprint(**given):
        settings = {"name": "a", "frame_rate_hz": 25.0, "num_codes": 500} | given
        config = ImportCodesConfig(input=(tmp_path,), output=tmp_path, **settings)
        return config.info().tokenizer_fingerprint

    marks = [fingerprint(), fingerprint(name="b"), fingerprint(frame_rate_hz=50.0),
             fingerprint(num_codes=100), fingerprint(tokenizer_files=(tmp_path / "centres",)),
             fingerprint(layout=UnitLayout(codebook=1))]  # fmt: skip
    assert len(set(marks)) == len(marks)
    assert fingerprint(frame_rate_hz=25) == marks[0]


def test_files_that_hold_no_units(tmp_path):
    (tmp_path / "a.jsonl").write_text(lines({"id": "a", "text": "b"}, {"id": "c", "units": None}))
    with pytest.raises(DataError, match=r"called units, codes.*found id, text.*--units-key"):
        run(tmp_path, tmp_path / "a.jsonl")
    pq.write_table(pa.table({"x": [1]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"found x"):
        run(tmp_path, tmp_path / "a.parquet")
    (tmp_path / "tokens.pt").write_bytes(b"x")
    with pytest.raises(DataError, match=r"tokens\.pt.*can run code"):
        run(tmp_path, tmp_path / "tokens.pt")
    (tmp_path / "a.npy").write_bytes(b"x")
    with pytest.raises(DataError, match="cannot be read as NumPy"):
        run(tmp_path, tmp_path / "a.npy")
    np.save(tmp_path / "b.npy", np.array([{1: 2}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="arrays of objects are not read"):
        run(tmp_path, tmp_path / "b.npy")


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "a.jsonl").write_text(lines({"id": "a", "units": [1]}))
    (tmp_path / "codes").mkdir()
    (tmp_path / "codes" / "mine.txt").write_text("x")
    with pytest.raises(ConfigError, match="holds something else"):
        run(tmp_path, tmp_path / "a.jsonl")
    assert (tmp_path / "codes" / "mine.txt").exists()


def test_what_others_put_beside_imported_codes_is_not_removed(tmp_path):
    (tmp_path / "a.jsonl").write_text(lines({"id": "a", "units": [1]}))
    run(tmp_path, tmp_path / "a.jsonl")
    (tmp_path / "codes" / "mine").mkdir()
    with pytest.raises(ConfigError, match="holds mine besides"):
        run(tmp_path, tmp_path / "a.jsonl")
    assert (tmp_path / "codes" / "mine").exists()


def test_shards_of_a_few_records_each(tmp_path):
    (tmp_path / "a.jsonl").write_text(lines(*({"id": str(n), "units": [n]} for n in range(5))))
    assert run(tmp_path, tmp_path / "a.jsonl", records_per_shard=2)["shards"] == 3
    assert list(codes_of(tmp_path)[1]) == list("01234")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"frame_rate_hz": float("nan")}, "--frame-rate-hz is nan"),
        ({"frame_rate_hz": float("inf")}, "--frame-rate-hz is inf"),
        ({"num_codes": 10**13}, "--num-codes is 10000000000000"),
    ],
)
def test_a_rate_or_size_that_cannot_be_is_refused(tmp_path, wrong, said):
    (tmp_path / "features.jsonl").write_text(lines(*ROWS))
    with pytest.raises(ConfigError, match=said):
        run(tmp_path, tmp_path / "features.jsonl", **wrong)


def test_codes_of_another_tokenizer_are_not_replaced(tmp_path):
    (tmp_path / "features.jsonl").write_text(lines(*ROWS))
    run(tmp_path, tmp_path / "features.jsonl")
    before = (tmp_path / "codes" / "import.json").read_bytes()
    for other in ({"name": "others"}, {"num_codes": 600}, {"frame_rate_hz": 50.0}):
        with pytest.raises(ConfigError, match="holds codes of 'units'"):
            run(tmp_path, tmp_path / "features.jsonl", **other)
    assert (tmp_path / "codes" / "import.json").read_bytes() == before
    run(tmp_path, tmp_path / "features.jsonl")


def test_codes_of_other_files_are_not_replaced(tmp_path):
    (tmp_path / "features.jsonl").write_text(lines(*ROWS))
    (tmp_path / "more.jsonl").write_text(lines(ROWS[0]))
    run(tmp_path, tmp_path / "features.jsonl")
    with pytest.raises(ConfigError, match="holds the codes of other files"):
        run(tmp_path, tmp_path / "more.jsonl")
    assert len(codes_of(tmp_path)[1]) == 2
    run(tmp_path, tmp_path / "features.jsonl")


def test_a_file_is_no_folder_to_replace(tmp_path):
    (tmp_path / "features.jsonl").write_text(lines(*ROWS))
    (tmp_path / "codes").write_text("a text")
    with pytest.raises(ConfigError, match="is a file"):
        run(tmp_path, tmp_path / "features.jsonl")
    assert (tmp_path / "codes").read_text() == "a text"

"""Parquet files of features: what we write opens elsewhere, and we read what others write."""

import io
import os
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from support import needs

from batnet_jax.errors import UserError
from batnet_jax.evaluation.parquet import rows, write
from batnet_jax.evaluation.parquet.write import write_parquet
from batnet_jax.inference import feature_file
from batnet_jax.inference.feature_file import open_features, read_fingerprint, write_features
from batnet_jax.retrieval import row_parts, top_k
from batnet_jax.retrieval.row_file import RowFile
from batnet_jax.retrieval.row_parts import RowParts

ROWS, DIM = 70, 9
FEATURES = np.random.default_rng(0).standard_normal((ROWS, DIM)).astype(np.float32)
PATHS = [f"a/é {i}.jpg" for i in range(ROWS)]
COLUMNS = {
    "camera": np.arange(ROWS) % 5,
    "identity": np.array([f"p{i % 7}" for i in range(ROWS)]),
    "score": np.linspace(0, 1, ROWS),
    "front": np.arange(ROWS) % 2 == 0,
}
FINGERPRINT = "0123456789abcdef" * 2


@pytest.fixture(autouse=True)
def small_groups(monkeypatch):
    """Let the file have three row groups."""
    monkeypatch.setattr(write, "_GROUP_ROWS", 30)


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "F.parquet"
    batches = np.split(FEATURES, [5, 37, 64])
    write_parquet(
        path, batches, shape=FEATURES.shape, paths=PATHS, fingerprint=FINGERPRINT, columns=COLUMNS
    )
    return path


def assert_same(found, *, columns=True):
    """Assert that an opened file has all that was written."""
    np.testing.assert_array_equal(found.features[:], FEATURES)
    assert list(found.paths) == PATHS
    for name, wanted in COLUMNS.items() if columns else ():
        np.testing.assert_array_equal(found.columns[name], wanted)
        assert found.columns[name].dtype.kind == wanted.dtype.kind


def to_table(features=FEATURES, kind=None, name="features", **columns):
    """Return a table of Arrow as other programs make it."""
    kind = kind or pa.list_(pa.float32())
    arrays = {name: pa.array(list(features), kind)} | {n: pa.array(c) for n, c in columns.items()}
    return pa.table(arrays)


def test_few_features_are_in_memory_and_many_stay_in_the_file(written, monkeypatch):
    found = open_features(written)
    assert isinstance(found.features, np.ndarray)
    assert found.features.ctypes.data % 64 == 0
    assert found.fingerprint == read_fingerprint(written) == FINGERPRINT
    monkeypatch.setattr(feature_file, "IN_MEMORY", 100)
    many = open_features(written)
    assert isinstance(many.features, RowParts)
    assert (many.features.shape, many.features.dtype) == ((ROWS, DIM), np.float32)
    some = np.array([69, 0, 29, 30])
    np.testing.assert_array_equal(many.features[some], FEATURES[some])
    np.testing.assert_array_equal(many.features[20:65], FEATURES[20:65])
    for opened in (found, many):
        assert_same(opened)
        assert top_k(FEATURES[:3], opened.features, 1)[0].ravel().tolist() == [0, 1, 2]


def test_the_columns_are_of_the_promised_types(written):
    schema = parquet.read_schema(written)
    assert schema.field("features").type == pa.list_(
        pa.field("element", pa.float32(), nullable=False), DIM
    )
    assert schema.names == ["features", "path", *COLUMNS]
    assert not schema.field("path").nullable


def test_pandas_and_arrow_read_and_write(written, tmp_path):
    table = parquet.read_table(written)
    assert table.num_rows == ROWS
    again = tmp_path / "again.parquet"
    parquet.write_table(table, again)
    assert_same(open_features(again))
    assert read_fingerprint(again) == FINGERPRINT  # the table has handed it on
    parquet.write_table(table.slice(10, 40), again)
    np.testing.assert_array_equal(open_features(again).features, FEATURES[10:50])
    pandas = needs.package("pandas")
    frame = pandas.read_parquet(written)
    np.testing.assert_array_equal(np.stack(frame["features"].tolist()), FEATURES)
    frame.to_parquet(again)
    assert_same(open_features(again))


def test_duckdb_reads_and_writes(written, tmp_path):
    duckdb = needs.package("duckdb")
    with duckdb.connect() as base:
        base.execute("SET threads = 1")
        rows = base.execute(f"SELECT features FROM '{written}' WHERE camera = 3").fetchall()
        np.testing.assert_array_equal(np.float32(rows)[:, 0], FEATURES[COLUMNS["camera"] == 3])
        again = tmp_path / "again.parquet"
        base.execute(f"COPY (FROM '{written}') TO '{again}'")
    assert_same(open_features(again))


def test_polars_reads_and_writes(written, tmp_path, monkeypatch):
    polars = needs.package("polars")
    frame = polars.read_parquet(written)
    assert frame.schema["features"] == polars.Array(polars.Float32, DIM)
    np.testing.assert_array_equal(frame["features"].to_numpy(), FEATURES)
    again = tmp_path / "again.parquet"
    for kind in (polars.Array(polars.Float32, DIM), polars.List(polars.Float32)):
        frame.with_columns(polars.col("features").cast(kind)).write_parquet(again)
        assert_same(open_features(again))
    monkeypatch.setattr(feature_file, "IN_MEMORY", 100)
    assert_same(open_features(again))


@pytest.mark.parametrize("in_memory", [0, 10**9])
@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        (pa.list_(pa.float32()), np.float32),
        (pa.large_list(pa.float64()), np.float64),
        (pa.list_(pa.float16(), DIM), np.float16),
    ],
)
def test_lists_of_all_floats_are_read(tmp_path, monkeypatch, capsys, kind, dtype, in_memory):
    monkeypatch.setattr(feature_file, "IN_MEMORY", in_memory)
    path = tmp_path / "F.parquet"
    parquet.write_table(to_table(FEATURES.astype(dtype), kind), path, row_group_size=25)
    found = open_features(path)
    assert isinstance(found.features, RowFile if in_memory == 0 else np.ndarray)
    assert (found.features.dtype, found.paths, found.fingerprint) == (dtype, None, None)
    np.testing.assert_array_equal(found.features[:], FEATURES.astype(dtype))
    assert ("is unpacked once" in capsys.readouterr().err) == (in_memory == 0)
    assert top_k(FEATURES[:3], found.features, 1)[0].ravel().tolist() == [0, 1, 2]


def test_names_that_others_give(tmp_path):
    path = tmp_path / "F.parquet"
    for name, of_paths in (("embedding", "file_name"), ("Feats", "image")):
        parquet.write_table(to_table(name=name, **{of_paths: PATHS, "x": np.arange(ROWS)}), path)
        found = open_features(path)
        np.testing.assert_array_equal(found.features, FEATURES)
        assert (list(found.paths), list(found.columns)) == (PATHS, ["x"])


def test_columns_of_other_types_become_plain_ones(tmp_path):
    path = tmp_path / "F.parquet"
    zone = pa.timestamp("us", "Europe/Berlin")
    table = to_table(
        FEATURES[:2],
        whole=pa.array([1, None]),
        yes=pa.array([None, True]),
        word=pa.array(["a", None]).dictionary_encode(),
        time=pa.array([0, 90_000_000], pa.timestamp("us")),
        zoned=pa.array([0, None], zone),
        price=pa.array([1, 2], pa.decimal128(5, 2)),
        picture=pa.array([b"", b"x"]),
    )
    parquet.write_table(table, path)
    found = open_features(path).columns
    assert {name: column.tolist() for name, column in found.items() if name not in "whole yes"} == {
        "word": ["a", ""],
        "time": ["1970-01-01 00:00:00.000000", "1970-01-01 00:01:30.000000"],
        "zoned": ["1970-01-01 00:00:00.000000", ""],
        "price": [1.0, 2.0],
    }
    np.testing.assert_array_equal(found["whole"], [1, np.nan])
    np.testing.assert_array_equal(found["yes"], [np.nan, 1])


SHORT = [row[:-1] if i == 50 else row for i, row in enumerate(FEATURES)]
HOLE = [None if i == 41 else row for i, row in enumerate(FEATURES)]
LACKING = [[None, *row[1:].tolist()] if i == 33 else row.tolist() for i, row in enumerate(FEATURES)]
NAN = np.where(np.arange(ROWS * DIM).reshape(ROWS, DIM) == 20 * DIM + 3, np.nan, FEATURES)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (to_table(SHORT), "has 8 numbers in row 50, and 9 in rows before"),
        (to_table(HOLE), "has no features in row 41"),
        (to_table(LACKING), "lacks a number in row 33"),
        (to_table(NAN.astype(np.float32)), "has NaN or an infinite value in row 20"),
        (to_table(FEATURES[:0]), "has no rows"),
        (to_table([[]] * 3), "has 0 numbers in row 0"),
        (to_table(FEATURES.astype(int), pa.list_(pa.int64())), "of the type list<element: int64>"),
        (pa.table({"embedding": [b"ab"]}), "has embedding of the type binary"),
        (pa.table({"embedding": ["[0.1]"]}), "has embedding of the type string"),
        (to_table(name="clip\n\x1b"), r"has the columns clip (\\n)?\\x1b \(list"),
        (pa.table({}), "has no rows"),
        (to_table(path=[None, *PATHS[1:]]), "has no text in row 0 of the column path"),
    ],
)
@pytest.mark.parametrize("in_memory", [0, 10**9])
def test_other_contents_are_refused(tmp_path, monkeypatch, table, message, in_memory):
    monkeypatch.setattr(feature_file, "IN_MEMORY", in_memory)
    path = tmp_path / "F.parquet"
    parquet.write_table(table, path, row_group_size=32)
    with pytest.raises(UserError, match=message) as info:
        open_features(path)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize("content", [None, b"", b"text", b"PAR1" * 3, "folder", "pipe"])
def test_no_parquet_at_all(tmp_path, content):
    path = tmp_path / "F.parquet"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "folder":
        path.mkdir()
    elif content == "pipe":
        os.mkfifo(path)
    for read in (open_features, read_fingerprint):
        with pytest.raises(UserError) as info:
            read(path)
        assert "\n" not in str(info.value)


def test_other_layouts_of_the_same_facts_are_unpacked(written, tmp_path, monkeypatch):
    """A later version of pyarrow may write pages otherwise: the checksums still hold."""
    monkeypatch.setattr(write, "_PAGE_BYTES", 64)
    path = tmp_path / "pages.parquet"
    with monkeypatch.context() as patch:
        writer = parquet.ParquetWriter
        patch.setattr(parquet, "ParquetWriter", lambda *a, **k: writer(*a, write_batch_size=3, **k))
        write_parquet(path, [FEATURES], shape=FEATURES.shape, paths=PATHS, columns=COLUMNS)
    monkeypatch.setattr(feature_file, "IN_MEMORY", 0)
    assert isinstance(open_features(written).features, RowParts)
    found = open_features(path)
    assert not isinstance(found.features, RowParts)
    assert_same(found)


def test_a_full_disk_where_features_are_unpacked(tmp_path, monkeypatch):
    path = tmp_path / "F.parquet"
    parquet.write_table(to_table(), path)
    monkeypatch.setattr(feature_file, "IN_MEMORY", 0)
    monkeypatch.setattr(rows.shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    with pytest.raises(UserError, match="set TMPDIR to another folder"):
        open_features(path)


def test_a_file_that_changes_while_it_is_in_use(written, tmp_path, monkeypatch):
    """A file that is replaced stays as it was; one that is cut off is refused."""
    monkeypatch.setattr(feature_file, "IN_MEMORY", 0)
    rows = open_features(written).features
    np.save(tmp_path / "other.npy", FEATURES)
    (tmp_path / "other.npy").replace(written)
    np.testing.assert_array_equal(rows[:], FEATURES)
    path = tmp_path / "G.parquet"
    write_features(path, [FEATURES], shape=FEATURES.shape, paths=PATHS)
    rows = open_features(path).features
    os.truncate(path, 100)
    with pytest.raises(UserError, match="cut off while it was in use"):
        rows[60:]


def test_many_files_are_not_all_open(written, tmp_path, monkeypatch):
    monkeypatch.setattr(row_parts, "MOST_OPEN", 2)
    files, parts = [], []
    for number in range(5):
        path = tmp_path / f"{number}.bin"
        content = FEATURES[number : number + 3].tobytes()
        path.write_bytes(content)
        with path.open("rb") as file:
            files.append(row_parts.part_file(path, file.fileno()))
        parts.append(row_parts.Part(number, 0, 3, row_parts.zlib.crc32(content)))
    rows = RowParts(files, parts, DIM)
    for _ in range(2):
        wanted = np.concatenate([FEATURES[n : n + 3] for n in range(5)])
        np.testing.assert_array_equal(rows[:], wanted)
    assert len(rows._open) == 2
    (tmp_path / "0.bin").write_bytes(b"x" * 200)
    with pytest.raises(UserError, match="was replaced while it was in use"):
        rows[:1]


def test_a_failure_leaves_the_old_file(written):
    before = written.read_bytes()

    def batches():
        yield FEATURES
        raise KeyError("half way")

    with pytest.raises(KeyError):
        write_features(written, batches(), shape=(140, DIM), paths=PATHS * 2)
    for given in ([FEATURES[:9]], [FEATURES, FEATURES]):
        with pytest.raises(ValueError, match="were given for 70 images"):
            write_features(written, given, shape=FEATURES.shape, paths=PATHS)
    assert written.read_bytes() == before
    assert [p.name for p in written.parent.iterdir()] == ["F.parquet"]


def test_names_that_a_parquet_cannot_keep(tmp_path):
    path = tmp_path / "F.parquet"
    with pytest.raises(UserError, match="is not UTF-8"):
        write_features(path, [FEATURES[:1]], shape=(1, DIM), paths=["a\udcff.jpg"])
    with pytest.raises(UserError, match="cannot be named path"):
        write_parquet(
            path, [FEATURES[:1]], shape=(1, DIM), paths=["a"], columns={"path": np.array(["b"])}
        )
    assert not path.exists()


def test_memory_while_writing_is_a_row_group(tmp_path):
    """A batch is consumed when the batches before it are in the buffer or in the file."""
    path, seen = tmp_path / "F.parquet", []

    def batches():
        for start in range(0, ROWS, 10):
            (temporary,) = tmp_path.glob("*.partial")
            seen.append(temporary.stat().st_size)
            yield FEATURES[start : start + 10]

    write_features(path, batches(), shape=FEATURES.shape, paths=PATHS)
    assert seen == sorted(seen)
    assert seen[-1] > 60 // 30 * 30 * DIM * 4
    buffer = io.BytesIO(path.read_bytes())
    assert parquet.ParquetFile(buffer).num_row_groups == 3

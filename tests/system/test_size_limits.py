"""Data files from strangers: no other file is opened, nothing unpickled, and no claim taken at its word."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from pathlib import Path

import h5py
import numpy as np
import psutil
import pytest

from iql.dataset_files import data_file
from iql.errors import UserError
from iql.system.size_limits import read_archive

ROWS = 50


def columns() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    flags = {name: np.arange(ROWS) % 10 == 9 for name in ("terminals", "timeouts")}
    return {
        "observations": random.normal(size=(ROWS, 3)).astype(np.float32),
        "actions": random.uniform(-1, 1, (ROWS, 2)).astype(np.float32),
        "rewards": random.normal(size=ROWS).astype(np.float32),
        "terminals": flags["terminals"],
        "timeouts": np.zeros(ROWS, bool),
    }


def one_line(path: Path, said: str) -> None:
    """Reading fails in one line that names the file."""
    with pytest.raises(UserError, match=said) as caught:
        data_file.read(path, None)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file of the user's own that a stranger's file tries to read."""
    with h5py.File(tmp_path / "secret.hdf5", "w") as file:
        file["observations"] = columns()["observations"]
    (tmp_path / "secret.raw").write_bytes(bytes(ROWS * 12))
    return tmp_path / "secret.hdf5"


def external_link(file: h5py.File, secret: Path) -> None:
    file["observations"] = h5py.ExternalLink(str(secret), "/observations")


def soft_link_through_an_external_one(file: h5py.File, secret: Path) -> None:
    file["elsewhere"] = h5py.ExternalLink(str(secret), "/")
    file["observations"] = h5py.SoftLink("/elsewhere/observations")


def external_group_far_below(file: h5py.File, secret: Path) -> None:
    file["observations"] = columns()["observations"]
    file["infos/deep/other"] = h5py.ExternalLink(str(secret), "/")


def external_storage(file: h5py.File, secret: Path) -> None:
    raw = [(str(secret.with_suffix(".raw")), 0, ROWS * 12)]
    file.create_dataset("observations", (ROWS, 3), np.float32, external=raw)


def virtual_dataset(file: h5py.File, secret: Path) -> None:
    layout = h5py.VirtualLayout((ROWS, 3), np.float32)
    layout[:] = h5py.VirtualSource(str(secret), "observations", (ROWS, 3))
    file.create_virtual_dataset("observations", layout)


OUTWARD = [
    external_link,
    soft_link_through_an_external_one,
    external_group_far_below,
    external_storage,
    virtual_dataset,
]


@pytest.mark.parametrize("write", OUTWARD)
def test_an_hdf5_file_leads_into_no_other(tmp_path, secret, write):
    path = tmp_path / "sent.hdf5"
    with h5py.File(path, "w") as file:
        write(file, secret)
        for name, values in columns().items():
            if name not in file:
                file[name] = values
    secret.unlink()  # nothing of it is looked at before the line is said
    one_line(path, "another file")


def test_links_within_a_file_are_followed(tmp_path):
    path = tmp_path / "own.hdf5"
    with h5py.File(path, "w") as file:
        for name, values in columns().items():
            file[f"data/{name}"] = values
            file[name] = h5py.SoftLink(f"/data/{name}")
    np.testing.assert_array_equal(data_file.read(path, None).observations, columns()["observations"])


@pytest.mark.parametrize("kind", ["contiguous", "chunked", "compressed"])
def test_rows_that_an_hdf5_file_only_claims(tmp_path, kind):
    path = tmp_path / "sent.hdf5"
    options = {"contiguous": {}, "chunked": {"chunks": (10, 2)}, "compressed": {"chunks": (10, 2), "compression": 9}}
    with h5py.File(path, "w") as file:
        file.create_dataset("observations", (10**12, 3), np.float32, **options[kind])
        file.create_dataset("actions", (10**12, 2), np.float32, **options[kind])
        for name in ("rewards", "terminals"):
            file.create_dataset(name, (10**12,), np.float32, chunks=(10,))
    assert path.stat().st_size < 20_000
    one_line(path, r"claims [\d,]+\.\d GiB of memory, and [\d,.]+ are free")


def test_columns_that_fit_only_one_by_one(tmp_path, monkeypatch):
    path = tmp_path / "large.hdf5"
    with h5py.File(path, "w") as file:
        for name, values in columns().items():
            file[name] = values
    assert len(data_file.read(path, None)) == ROWS
    memory = psutil.virtual_memory()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory._replace(available=ROWS * 4 * 4))
    one_line(path, "of memory")


def test_an_hdf5_chunk_that_swells_beyond_its_size(tmp_path):
    path = tmp_path / "bomb.hdf5"
    rest = columns()
    with h5py.File(path, "w") as file:
        data = file.create_dataset("observations", (ROWS, 3), np.float32, chunks=(ROWS, 3), compression=9)
        press = zlib.compressobj(9)
        bomb = b"".join(press.compress(bytes(1 << 24)) for _ in range(32)) + press.flush()
        data.id.write_direct_chunk((0, 0), bomb)
        for name in ("actions", "rewards", "terminals"):
            file[name] = rest[name]
    assert path.stat().st_size < 10**6
    one_line(path, "has a chunk beyond its 600 bytes")


@pytest.mark.parametrize("dtype", [h5py.ref_dtype, h5py.regionref_dtype, h5py.string_dtype(), h5py.vlen_dtype(float)])
def test_objects_in_an_hdf5_file(tmp_path, dtype):
    path = tmp_path / "objects.hdf5"
    with h5py.File(path, "w") as file:
        for name, values in columns().items():
            if name != "observations":
                file[name] = values
        file.create_dataset("observations", (ROWS, 3), dtype)
    one_line(path, "observations is .*not an array of numbers")


# NumPy archives


def member(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, values, allow_pickle=True)
    return buffer.getvalue()


def archive(path: Path, method: int = zipfile.ZIP_DEFLATED, **others: bytes) -> Path:
    contents = {name: member(values) for name, values in columns().items()} | others
    with zipfile.ZipFile(path, "w", method) as file:
        for name, content in contents.items():
            file.writestr(f"{name}.npy", content)
    return path


def header(shape: tuple[int, ...], values: bytes = b"") -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return buffer.getvalue() + values


class Evil:
    def __reduce__(self):
        return open, ("ran", "w")


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_rows_that_an_archive_only_claims(tmp_path, method):
    path = archive(tmp_path / "sent.npz", method, observations=header((10**12, 3), bytes(12)))
    one_line(path, "more than the file can hold|bytes where the file has")


def test_an_archive_whose_directory_claims_what_no_compression_gives(tmp_path):
    path = archive(tmp_path / "sent.npz", observations=header((10**9, 1), bytes(12)))
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"PK\x01\x02", 0, content.rindex(b"actions.npy"))
    first = content.index(b"PK\x01\x02")
    assert entry >= first
    struct.pack_into("<I", content, first + 24, 4 * 10**9 + 128)  # the uncompressed size of observations.npy
    path.write_bytes(content)
    one_line(path, "more than the file can hold")


def test_an_archive_that_is_larger_than_memory(tmp_path, monkeypatch):
    path = archive(tmp_path / "bomb.npz", observations=header((10**7, 3), bytes(12 * 10**7)))
    assert path.stat().st_size < 10**6
    memory = psutil.virtual_memory()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory._replace(available=10**8))
    one_line(path, "of memory, and 0.1 are free")


def test_objects_in_an_archive_are_not_unpickled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    objects = np.empty(ROWS, object)
    objects[:] = Evil()
    one_line(archive(tmp_path / "sent.npz", rewards=member(objects)), "never unpickled")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"text", member(np.zeros(3))[:20]])
def test_what_is_no_array_in_an_archive(tmp_path, content):
    one_line(archive(tmp_path / "sent.npz", rewards=content), "rewards.npy is no array of numbers")


def test_an_archive_read_at_once_is_what_numpy_reads(tmp_path):
    values = {
        "rows": np.arange(6.0).reshape(2, 3),
        "columns": np.asfortranarray(np.arange(6, dtype=">i4").reshape(2, 3)),
    }
    values |= {"number": np.int64(5), "text": np.str_("d4rl"), "no_text": np.str_(""), "nothing": np.zeros((0, 3))}
    np.savez_compressed(tmp_path / "made.npz", **values)
    read = read_archive(tmp_path / "made.npz")
    with np.load(tmp_path / "made.npz") as expected:
        assert list(read) == list(expected)
        for name, array in read.items():
            np.testing.assert_array_equal(array, expected[name], strict=True)
            assert array.flags.writeable

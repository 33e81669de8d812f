"""Recognises the format of a data file by its content, since the suffix of its name may be wrong."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Literal

from iql.errors import UserError

HDF5 = b"\x89HDF\r\n\x1a\n"
ZIP = (b"PK\x03\x04", b"PK\x05\x06")

_SAVE = "save observations, actions, rewards, terminals and timeouts with h5py or numpy.savez"
_PICKLE = f"a Python pickle, which is never opened here, since it could run commands; {_SAVE}"

# Other formats that users give instead of a data file, by their first bytes.
_FOREIGN: tuple[tuple[bytes, str], ...] = (
    (rb"\x80[\x02-\x05]", _PICKLE),
    (rb"\((dp|lp)\d|c[\w.]+\n\w+\n", _PICKLE),  # protocol 0
    (rb"\x93NUMPY", f"a single NumPy array (.npy), where several under their names are needed; {_SAVE}"),
    (rb"\x1f\x8b", "compressed by gzip; unpack it first (gunzip)"),
    (rb"BZh", "compressed by bzip2; unpack it first (bunzip2)"),
    (rb"\xfd7zXZ", "compressed by xz; unpack it first (unxz)"),
    (rb"\x28\xb5\x2f\xfd", "compressed by zstd; unpack it first (unzstd)"),
    (rb"7z\xbc\xaf", "a 7z archive; unpack it first"),
    (rb"PAR1", f"a Parquet table; {_SAVE}"),
    (rb"ARROW1|FEA1", f"an Arrow table; {_SAVE}"),
    (rb"SQLite format 3", f"an SQLite database; {_SAVE}"),
    (rb"MATLAB 5\.0", "a MATLAB file of before version 7.3; save it with -v7.3, or as NumPy archive"),
    (rb"#ROSBAG|\x89MCAP", f"a recording of ROS; {_SAVE}"),
    (rb"version https://git-lfs", "a Git LFS pointer to the data; `git lfs pull` brings the data itself"),
    (rb"(?i)\s*(<!doctype|<html)", "a web page (HTML), not data; get the file again"),
    (rb"(?s).{257}ustar", "a tar archive; unpack it first"),
)


def of(path: Path) -> Literal["hdf5", "npz"]:
    """Whether a file is HDF5 or a NumPy archive; where its content does not tell, its suffix decides.

    Raises UserError for a file that is recognised as another format.
    """
    with path.open("rb") as file:
        head = file.read(512)
        if head.startswith(HDF5):
            return "hdf5"
        offset = 512  # HDF5 may follow a user block, at 512, 1,024, 2,048, … bytes
        while offset < path.stat().st_size:
            file.seek(offset)
            if file.read(len(HDF5)) == HDF5:
                return "hdf5"
            offset *= 2
    if head.startswith(ZIP):
        return _of_zip(path)
    for pattern, name in _FOREIGN:
        if re.match(pattern, head):
            raise UserError(f"{path} is {name}")
    if head and _is_text(head):
        raise UserError(f"{path} is a text file; {_SAVE}")
    return "npz" if path.suffix.lower() == ".npz" else "hdf5"


def _of_zip(path: Path) -> Literal["npz"]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError):
        return "npz"  # its reader reports what is wrong
    if any(name.endswith(".npy") for name in names):
        return "npz"
    if any(name.rpartition("/")[2] == "data.pkl" for name in names):
        raise UserError(f"{path} is a file of torch.save, a kind of pickle, which is not opened here; {_SAVE}")
    raise UserError(f"{path} is a ZIP archive without NumPy arrays in it; unpack it, or {_SAVE}")


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        text = head[: error.start].decode() if error.start > len(head) - 4 else "\0"  # cut in a character
    return all(character.isprintable() or character in "\r\n\t" for character in text)

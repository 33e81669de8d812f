"""Safe access to HDF5 files of unknown origin: no other file is opened, and sizes are checked before reading."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py

from iql.errors import UserError
from iql.system.size_limits import DEFLATE, check_memory

FLOAT = 4  # columns are read as float32
UNCHECKED_BYTES = 1 << 28
"""The most bytes that a compressed chunk may expand to without being checked."""


def check_links(file: h5py.File, path: Path) -> dict[str, int]:
    """Raise UserError if anything in the file refers to another file, before that is opened.

    Returns the number of bytes that each dataset declares.
    """
    inner = h5py.h5l.TYPE_HARD, h5py.h5l.TYPE_SOFT  # a soft link stays within the file
    outside: list[bytes] = []
    datasets: list[bytes] = []
    file.id.links.visit(lambda name, link: outside.append(name) if link.type not in inner else None, info=True)
    if outside:
        raise UserError(f"{path}: {outside[0].decode()} is a link into another file; copy what it holds into this one")
    kind = h5py.h5o.TYPE_DATASET
    h5py.h5o.visit(file.id, lambda name, thing: datasets.append(name) if thing.type == kind else None, info=True)
    declared = {}
    for name in datasets:
        dataset = h5py.h5d.open(file.id, name)
        declared[name.decode()] = dataset.get_space().get_simple_extent_npoints() * dataset.get_type().get_size()
        stored = dataset.get_create_plist()
        if stored.get_layout() == h5py.h5d.VIRTUAL or stored.get_external_count():
            raise UserError(f"{path}: {name.decode()} is kept in another file; copy what it holds into this one")
    return declared


class Contents(Mapping[str, Any]):
    """The groups and datasets of a file by name, checked on access against the free memory.

    Datasets are h5py's, groups are mappings like this one. Raises UserError where the file refers to another file, and
    for datasets that together declare more bytes than are free.
    """

    def __init__(self, group: h5py.Group, path: Path, declared: dict[str, int] | None = None) -> None:
        if declared is None:
            check_links(group.file, path)
        self._group, self._path = group, path
        self._declared = {} if declared is None else declared

    def __getitem__(self, name: str) -> Any:
        thing = self._group[name]
        if isinstance(thing, h5py.Group):
            return Contents(thing, self._path, self._declared)
        if isinstance(thing, h5py.Dataset) and thing.name not in self._declared:
            source = f"{self._path}: {thing.name}"
            self._declared[thing.name] = thing.size * max(FLOAT, thing.dtype.itemsize) if thing.size else 0
            check_memory(sum(self._declared.values()), source)
            if thing.chunks is not None:
                check_chunks(thing, source)
        return thing

    def __contains__(self, name: object) -> bool:
        return name in self._group

    def __iter__(self) -> Iterator[str]:
        return iter(self._group)

    def __len__(self) -> int:
        return len(self._group)


def check_chunks(dataset: h5py.Dataset, source: str) -> None:
    """Raise UserError for a chunk that decompresses to more bytes than a chunk of its dataset has."""
    raw = dataset.dtype.itemsize
    for width in dataset.chunks:
        raw *= width
    check_memory(raw, source)
    plist = dataset.id.get_create_plist()
    filters = [plist.get_filter(number)[0] for number in range(plist.get_nfilters())]
    if h5py.h5z.FILTER_DEFLATE not in filters:
        return
    large = []
    dataset.id.chunk_iter(
        lambda chunk: large.append(chunk.chunk_offset) if chunk.size * DEFLATE > UNCHECKED_BYTES else None
    )
    for offset in large:
        _, stored = dataset.id.read_direct_chunk(offset)
        inflate, size, rest = zlib.decompressobj(), 0, stored
        while rest and not inflate.eof and size <= raw:
            size += len(inflate.decompress(rest, 1 << 20))
            rest = inflate.unconsumed_tail
        if size > raw:
            raise UserError(f"{source} has a chunk beyond its {raw:,} bytes; it is damaged or made to fill memory")

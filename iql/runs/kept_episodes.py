"""The kept episodes of a finished run, episodes.npz: what each of many episodes of its final policy came to."""

from __future__ import annotations

import io
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from iql.errors import UserError
from iql.runs import checkpoints
from iql.system.atomic_files import replace_file
from iql.system.size_limits import read_archive

FILE = "episodes.npz"
_NETWORKS = "networks.ckpt"


@dataclass(frozen=True)
class KeptEpisodes:
    """E episodes of one policy with its mean or likeliest action.

    scores, returns  [E] float64; scores are normalised where the task has reference returns
    lengths          [E] int64, steps
    reached          [E] bool, whether the goal was reached; None outside mazes
    seed             which episodes: evaluate.py's --seed
    physics, mujoco  the simulator's profile and version; "" where there is none
    """

    scores: np.ndarray
    returns: np.ndarray
    lengths: np.ndarray
    reached: np.ndarray | None
    seed: int
    physics: str
    mujoco: str


def write(directory: Path, kept: KeptEpisodes) -> None:
    """Write the file, completely or not at all, with the SHA-256 of the networks beside it, whose episodes they are."""
    arrays: dict[str, Any] = {
        "scores": kept.scores,
        "returns": kept.returns,
        "lengths": kept.lengths.astype(np.int32),
        "seed": np.int64(kept.seed),
        "physics": np.str_(kept.physics),
        "mujoco": np.str_(kept.mujoco),
        "networks": np.str_(checkpoints.written_hash(directory / _NETWORKS)),
    }
    if kept.reached is not None:
        arrays["reached"] = kept.reached
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    replace_file(directory / FILE, buffer.getvalue())


def read(directory: Path) -> KeptEpisodes | None:
    """The kept episodes of a run; None where there are none.

    Raises UserError for a damaged file, and for episodes of other networks than those of the run.
    """
    path = directory / FILE
    again = "delete it, and play them again with evaluate.py --keep"
    if not path.exists():
        return None
    try:
        arrays = read_archive(path)
        kept, networks = _checked(arrays), str(arrays["networks"][()])
    except (OSError, TypeError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path} is damaged ({error}); {again}") from error
    final = directory / _NETWORKS
    if final.exists() and checkpoints.written_hash(final) != networks:  # trained anew since
        raise UserError(f"{path}: episodes of other networks than {_NETWORKS}; {again}")
    return kept


def _checked(arrays: dict[str, np.ndarray]) -> KeptEpisodes:
    """Raises TypeError, ValueError or KeyError for arrays of other kinds, or that are not of the same episodes."""
    scores, returns = (arrays[name].astype(np.float64, casting="safe") for name in ("scores", "returns"))
    lengths = arrays["lengths"].astype(np.int64, casting="safe")
    reached = arrays["reached"].astype(bool, casting="safe") if "reached" in arrays else None
    shapes = {each.shape for each in (scores, returns, lengths, reached) if each is not None}
    if len(shapes) != 1 or len(scores.shape) != 1 or not len(scores):
        raise ValueError(f"its arrays have the shapes {', '.join(map(str, shapes))}")
    if not (np.isfinite(scores).all() and np.isfinite(returns).all()):
        raise ValueError("a score or return is not finite")
    texts = (str(arrays[name][()]) for name in ("physics", "mujoco"))
    return KeptEpisodes(scores, returns, lengths, reached, int(arrays["seed"]), *texts)

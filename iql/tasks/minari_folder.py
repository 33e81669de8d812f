"""Where Minari keeps a dataset, and how it gets there."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from iql.errors import UserError
from iql.tasks.download import CONNECT_TIMEOUT, read_timeout
from iql.tasks.minari_trust import check_folder

log = logging.getLogger(__name__)

ROOT = "MINARI_DATASETS_PATH"
"""Minari's own setting: the folder of its datasets, by default ~/.minari/datasets."""

STAGING = ".iql-downloads"
"""Folder within ROOT of what is still being downloaded; Minari's lists pass over hidden folders."""


def find(dataset: str, trust: bool = False) -> Path:
    """The folder of the dataset with this id, downloaded by Minari if it is not there; trust as MinariTask's.

    Raises UserError.
    """
    try:
        from minari.storage import get_dataset_path
    except ImportError as error:
        raise UserError(f"env=minari needs Minari: pip install 'minari[hdf5,hf]' ({error})") from error
    with told(f"{ROOT}={os.environ.get(ROOT, '')} is no folder to use", f"set {ROOT} to another"):
        folder = get_dataset_path(dataset)
        if not (folder / "data").is_dir():
            _download(dataset, folder, get_dataset_path(), trust)
    return folder


def _download(dataset: str, folder: Path, root: Path, trust: bool) -> None:
    """Bring a dataset into its folder, whole or not at all, unless another process does so first.

    Minari takes a folder for a dataset as soon as one file of it is there, so it downloads into a root of
    its own beside the others, where files that came stay for the next call, and the whole is moved.
    """
    import minari

    staging = root / STAGING / dataset.replace("/", "--")
    with _one_at_a_time(staging):
        if (folder / "data").is_dir():  # another process was faster
            return
        if folder.exists():
            raise UserError(f"{folder} is there without data: delete it and run the same command to download it")
        _reach(dataset, root)
        log.info("downloading %s to %s", dataset, folder)
        for chatty in ("httpx", "httpx2"):  # huggingface_hub's; a line for each request
            logging.getLogger(chatty).setLevel(logging.WARNING)
        advice = f"see `minari list remote` for what there is, or bring the dataset to {folder}"
        with (
            told(f"Minari's {dataset} cannot be downloaded", advice),
            _minari_root(staging),
            open(os.devnull, "w") as nowhere,
            contextlib.redirect_stdout(nowhere),  # Minari names the folder that it was given for now
        ):
            begun = (staging / dataset).exists()  # then only `force` makes Minari go on with it
            minari.download_dataset(dataset, force_download=begun)
            check_folder(staging / dataset / "data", trust)
            minari.load_dataset(dataset)
            for part in minari.list_local_datasets():  # a combined dataset comes with its parts
                if not (root / part).exists():
                    (root / part).parent.mkdir(parents=True, exist_ok=True)
                    os.replace(staging / part, root / part)
        shutil.rmtree(staging)


def _reach(dataset: str, root: Path) -> None:
    """Raise UserError unless the server answers in time; without a network Minari itself tries for long, and
    waits for a silent server for ever.
    """
    if not os.environ.get("MINARI_REMOTE", "hf://").startswith("hf://"):
        return
    import requests

    try:
        from huggingface_hub.constants import ENDPOINT
    except ImportError as error:
        raise UserError(f"downloading {dataset} needs huggingface_hub: pip install 'minari[hf]' ({error})") from error
    stall = read_timeout()
    try:
        requests.head(ENDPOINT, timeout=(min(CONNECT_TIMEOUT, stall), stall))
    except requests.RequestException as error:
        raise UserError(
            f"{dataset} is not in {root} and {ENDPOINT} cannot be reached ({type(error).__name__}): where there is a "
            f"network, run `minari download {dataset}`, then copy its folder to {root / dataset} or set {ROOT}"
        ) from error


@contextmanager
def _one_at_a_time(staging: Path) -> Iterator[None]:
    """Hold the lock of this download; a killed holder's goes with it."""
    staging.parent.mkdir(exist_ok=True)
    lock = FileLock(f"{staging}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info("another process downloads %s; waiting for it", staging.name)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _minari_root(folder: Path) -> Iterator[None]:
    """Have Minari work in `folder`; its only way to be told is the environment."""
    before = os.environ.get(ROOT)
    os.environ[ROOT] = str(folder)
    try:
        yield
    finally:
        del os.environ[ROOT]
        if before is not None:
            os.environ[ROOT] = before


@contextmanager
def told(what: str, advice: str, say: Callable[[str], None] = log.info) -> Iterator[None]:
    """Whatever a library or an environment raises as one UserError; what it warns of, one line each, to `say`."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        try:
            yield
        except UserError:
            raise
        except (Exception, SystemExit) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            mend = "install what is missing" if isinstance(error, ImportError) else advice
            raise UserError(f"{what} ({reason}); {mend}") from error
    for warning in caught:
        say(" ".join(str(warning.message).split()))

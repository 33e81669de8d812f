"""The folder of a Minari dataset, and its download."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from iql.dataset_files.minari_safety import check_folder
from iql.errors import UserError
from iql.system.download import CONNECT_TIMEOUT, read_timeout
from iql.system.locks import exclusive

log = logging.getLogger(__name__)

ROOT = "MINARI_DATASETS_PATH"
"""Minari's own setting: the folder of its datasets, by default ~/.minari/datasets."""

STAGING = ".iql-downloads"
"""Folder within ROOT for incomplete downloads; Minari's lists skip hidden folders."""


def find(dataset: str, trust: bool = False) -> Path:
    """The folder of the dataset with this id, downloaded by Minari if it is not there; trust as MinariTask's.

    Raises UserError.
    """
    try:
        from minari.storage import get_dataset_path
    except ImportError as error:
        raise UserError(f"env=minari needs Minari: pip install 'minari[hdf5,hf]' ({error})") from error
    with user_errors(f"{ROOT}={os.environ.get(ROOT, '')} is no folder to use", f"set {ROOT} to another"):
        folder = get_dataset_path(dataset)
        if not (folder / "data").is_dir():
            _download(dataset, folder, get_dataset_path(), trust)
    return folder


def _download(dataset: str, folder: Path, root: Path, trust: bool) -> None:
    """Download a dataset into its folder, completely or not at all, unless another process does so first.

    Minari takes a folder for a dataset as soon as it has one file. So it downloads into another root, where the files
    received so far stay for the next call, and the complete folder is moved.
    """
    import minari

    staging = root / STAGING / dataset.replace("/", "--")
    staging.parent.mkdir(exist_ok=True)
    with exclusive(Path(f"{staging}.lock"), f"another process downloads {staging.name}; waiting for it"):
        if (folder / "data").is_dir():  # another process was faster
            return
        if folder.exists():
            raise UserError(f"{folder} is there without data: delete it and run the same command to download it")
        _check_server(dataset, root)
        log.info("downloading %s to %s", dataset, folder)
        for name in ("httpx", "httpx2"):  # huggingface_hub's, which log a line for each request
            logging.getLogger(name).setLevel(logging.WARNING)
        advice = f"see `minari list remote` for what there is, or bring the dataset to {folder}"
        with (
            user_errors(f"Minari's {dataset} cannot be downloaded", advice),
            _minari_root(staging),
            open(os.devnull, "w") as nowhere,
            contextlib.redirect_stdout(nowhere),  # Minari prints the temporary folder
        ):
            begun = (staging / dataset).exists()  # then Minari resumes it only with force_download
            minari.download_dataset(dataset, force_download=begun)
            check_folder(staging / dataset / "data", trust)
            minari.load_dataset(dataset)
            for part in minari.list_local_datasets():  # a combined dataset comes with its parts
                if not (root / part).exists():
                    (root / part).parent.mkdir(parents=True, exist_ok=True)
                    os.replace(staging / part, root / part)
        shutil.rmtree(staging)


def _check_server(dataset: str, root: Path) -> None:
    """Raise UserError unless the server answers in time.

    Without a network Minari itself retries for long, and it waits for a silent server without a limit.
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
def _minari_root(folder: Path) -> Iterator[None]:
    """Have Minari work in `folder`, which it reads from an environment variable only."""
    before = os.environ.get(ROOT)
    os.environ[ROOT] = str(folder)
    try:
        yield
    finally:
        del os.environ[ROOT]
        if before is not None:
            os.environ[ROOT] = before


@contextmanager
def user_errors(what: str, advice: str, log_line: Callable[[str], None] = log.info) -> Iterator[None]:
    """Turns an error of a library or an environment into one UserError; each warning goes to `log_line`."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        try:
            yield
        except UserError:
            raise
        except (Exception, SystemExit) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            remedy = "install what is missing" if isinstance(error, ImportError) else advice
            raise UserError(f"{what} ({reason}); {remedy}") from error
    for warning in caught:
        log_line(" ".join(str(warning.message).split()))

"""W&B's service process and its settings: quiet, and independent of unrelated WANDB_ variables."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import psutil

from iql.tracking.tracker import one_line

STOP_SECONDS = 10.0  # for the service to end by itself

# Variables that say where runs go and how. Any other WANDB_ variable of the environment (RUN_ID, RESUME, SWEEP_ID,
# NAME, RUN_GROUP, SERVICE, DIR, …) would merge several runs into one.
ACCEPTED = frozenset(
    """
    WANDB_MODE WANDB_PROJECT WANDB_ENTITY WANDB_BASE_URL WANDB_APP_URL WANDB_API_KEY WANDB_IDENTITY_TOKEN_FILE
    WANDB_CREDENTIALS_FILE WANDB_CONFIG_DIR WANDB_CACHE_DIR WANDB_DATA_DIR WANDB_HTTP_PROXY WANDB_HTTPS_PROXY
    WANDB_INSECURE_DISABLE_SSL WANDB_HTTP_TIMEOUT WANDB_ERROR_REPORTING
    """.split()  # noqa: SIM905
)


def start_service(wandb: ModuleType, init_timeout: float, finish_timeout: float) -> Any:
    """Start the service process if it does not run yet; returns the settings of a run (timeouts in seconds)."""
    settings = wandb.Settings(
        silent=True,
        quiet=True,
        console="off",  # the progress bar and the log are written by this process
        init_timeout=init_timeout,
        finish_timeout=finish_timeout,
        save_code=False,
        disable_code=True,
        disable_git=True,
        label_disable=True,
        sagemaker_disable=True,
        symlink=False,
        x_disable_meta=True,  # manifest.json has host, device and versions
        x_disable_stats=True,  # sampled for each run: the ten runs of a pack would read one GPU ten times
        x_save_requirements=False,
    )
    # W&B's reports of its own errors delay the exit by 20 s if the server does not answer.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    hooks = sys.exit, sys.excepthook
    with _clean_environment():
        wandb.setup(settings)
    sys.exit, sys.excepthook = hooks  # W&B replaces both to learn the exit code, which `finish` passes anyway
    atexit.unregister(_stop_service)
    atexit.register(_stop_service)  # runs before W&B's own handler, which raises if the service has died
    return settings


def _stop_service() -> None:
    """End the service, and kill it if it does not end by itself: what it has not sent is on the disk."""
    stopping = threading.Thread(target=_tear_down, daemon=True)
    stopping.start()
    stopping.join(STOP_SECONDS)
    if stopping.is_alive():
        for child in psutil.Process().children():
            if child.name().startswith("wandb-core"):
                child.kill()
        stopping.join(STOP_SECONDS)


def _tear_down() -> None:
    import wandb

    with contextlib.suppress(Exception):
        wandb.teardown()


@contextlib.contextmanager
def _clean_environment() -> Iterator[None]:
    """Hide the WANDB_ variables that are not ACCEPTED, and remove those that W&B sets meanwhile."""
    before = {name: value for name, value in os.environ.items() if name.startswith("WANDB_")}
    for name in before.keys() - ACCEPTED:
        del os.environ[name]
    try:
        yield
    finally:
        for name in [name for name in os.environ if name.startswith("WANDB_")]:
            del os.environ[name]
        os.environ.update(before)


def resolve_mode(wandb: ModuleType, mode: str) -> tuple[str, str]:
    """The mode (online, offline or disabled) and, for offline, the reason; auto follows W&B's settings and its key.

    Raises ValueError for an unknown mode.
    """
    if mode == "auto":
        mode = wandb.setup().settings.mode  # `wandb offline` and `wandb disabled` are kept there
    mode = {"run": "online", "shared": "online", "dryrun": "offline"}.get(mode, mode)
    if mode not in ("online", "offline", "disabled"):
        raise ValueError(f"mode {mode!r} is none of auto, online, offline, disabled")
    if mode != "online":
        return mode, "is set to offline"
    try:
        return ("online", "") if wandb.login(prompt=False, verify=False) else ("offline", "has no key (`wandb login`)")
    except wandb.errors.AuthenticationError as error:
        return "offline", f"cannot use its key ({one_line(error)})"

"""W&B's service process and its settings: quiet, local, and deaf to a stray environment."""

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

from iql.tracking.run import one_line

STOP_SECONDS = 10.0  # that the service has to end by itself

# Where runs go and how they get there. Every other WANDB_ variable of a stray environment (RUN_ID,
# RESUME, SWEEP_ID, NAME, RUN_GROUP, SERVICE, DIR, …) would make one run out of several.
HONOURED = frozenset(
    """
    WANDB_MODE WANDB_PROJECT WANDB_ENTITY WANDB_BASE_URL WANDB_APP_URL WANDB_API_KEY WANDB_IDENTITY_TOKEN_FILE
    WANDB_CREDENTIALS_FILE WANDB_CONFIG_DIR WANDB_CACHE_DIR WANDB_DATA_DIR WANDB_HTTP_PROXY WANDB_HTTPS_PROXY
    WANDB_INSECURE_DISABLE_SSL WANDB_HTTP_TIMEOUT WANDB_ERROR_REPORTING
    """.split()  # noqa: SIM905
)


def start_service(wandb: ModuleType, init_timeout: float, finish_timeout: float) -> Any:
    """The settings of a run (timeouts in seconds); starts the service process where none runs yet."""
    settings = wandb.Settings(
        silent=True,
        quiet=True,
        console="off",  # the bar and the log stay ours
        init_timeout=init_timeout,
        finish_timeout=finish_timeout,
        save_code=False,
        disable_code=True,
        disable_git=True,
        label_disable=True,
        sagemaker_disable=True,
        symlink=False,
        x_disable_meta=True,  # manifest.json has host, device and versions
        x_disable_stats=True,  # sampled once per run: ten runs side by side would read one GPU ten times
        x_save_requirements=False,
    )
    # W&B's reports of its own errors hold up the exit by 20 s where the server does not answer.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    hooks = sys.exit, sys.excepthook
    with _clean_environment():
        wandb.setup(settings)
    sys.exit, sys.excepthook = hooks  # W&B replaces both to learn an exit code that we tell it
    atexit.unregister(_stop_service)
    atexit.register(_stop_service)  # before W&B's own, which raises where its service has died
    return settings


def _stop_service() -> None:
    """End the service; one that does not end by itself is killed: what it did not send lies on the disk."""
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
    """Hides the WANDB_ variables that are not honoured, and forgets those that W&B sets meanwhile."""
    before = {name: value for name, value in os.environ.items() if name.startswith("WANDB_")}
    for name in before.keys() - HONOURED:
        del os.environ[name]
    try:
        yield
    finally:
        for name in [name for name in os.environ if name.startswith("WANDB_")]:
            del os.environ[name]
        os.environ.update(before)


def resolve_mode(wandb: ModuleType, mode: str) -> tuple[str, str]:
    """online, offline or disabled, and for offline why; auto asks W&B's settings and whether there is a key.

    Raises ValueError for a mode that is none.
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

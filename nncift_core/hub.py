"""Models on the model hub: the commit a name stands for, the files, and what to say when it fails.

Works from the hub library's cache when the hub cannot be reached. Nothing here imports torch.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from nncift_core.errors import HubUnreachable, RunError, UserError

# What decides a model's values: config, tokenizer, code (used only under trust_remote_code), weights.
VALUE_SUFFIXES = frozenset({".json", ".txt", ".model", ".jinja", ".py", ".safetensors"})

_HUB_FILES = [f"*{suffix}" for suffix in sorted(VALUE_SUFFIXES)]
# Other exports of the same weights that many hub repositories carry beside the main ones.
_HUB_IGNORED = ["onnx/*", "openvino/*", "original/*", "consolidated*", "*.fp16.safetensors"]
_COMMIT = re.compile(r"[0-9a-f]{40}")


@lru_cache(maxsize=256)
def hub_commit(repo: str, revision: str | None, section: str) -> str:
    """The commit hash `revision` (default: the main branch) of a hub model stands for.

    Asks the hub once per process; when it cannot be reached, the cached snapshot's commit counts.
    `section` is the config section to name in errors. Raises UserError: unknown id or revision,
    access not granted, hub unreachable and nothing cached.
    """
    if revision is not None and _COMMIT.fullmatch(revision):
        return revision
    from huggingface_hub import HfApi

    with _hub_errors(repo, revision, section), quiet():
        try:
            commit = HfApi().model_info(repo, revision=revision, timeout=10).sha
        except _unreachable() as e:
            if isinstance(e, _refused()):
                raise
            cached = _cached_snapshot(repo, revision)
            if cached is None:
                raise _hub_unreachable(repo, section, e) from None
            return cached.name
    if commit is None:
        raise RunError(f"the hub gave no commit for the model {repo}")
    return commit


def download(repo: str, commit: str, section: str) -> Path:
    """The snapshot folder of `repo` at `commit`, from the cache or from the hub.

    Raises UserError when the files are not cached and the hub cannot be reached or refuses.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    with _hub_errors(repo, commit, section), quiet():
        cached = _cached_snapshot(repo, commit)
        if cached is not None:
            return cached
        try:
            # Asked first because it fails at once: the download retries for half a minute.
            HfApi().model_info(repo, revision=commit, timeout=10)
            path = snapshot_download(
                repo, revision=commit, allow_patterns=_HUB_FILES, ignore_patterns=_HUB_IGNORED
            )
        except LocalEntryNotFoundError as e:
            raise _hub_unreachable(repo, section, e) from None
        except _unreachable() as e:
            if isinstance(e, _refused()):
                raise
            raise _hub_unreachable(repo, section, e) from None
    return Path(path)


def _cached_snapshot(repo: str, revision: str | None) -> Path | None:
    """The cached snapshot of a hub model, None when there is none or it lacks files."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        path = snapshot_download(
            repo,
            revision=revision,
            allow_patterns=_HUB_FILES,
            ignore_patterns=_HUB_IGNORED,
            local_files_only=True,
        )
    except LocalEntryNotFoundError:
        return None
    # Without a stored file list the hub library cannot tell a partial download from a whole one.
    return Path(path) if any(Path(path).rglob("*.safetensors")) else None


def _refused() -> tuple[type[Exception], ...]:
    """Errors by which the hub itself says no."""
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    return (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError)


def _unreachable() -> tuple[type[Exception], ...]:
    """Errors that mean the hub did not answer, refusals among them: test for `_refused` first."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    # The hub library's HTTP client has changed name before; the name of its error base has not.
    http_error = next(base for base in HfHubHTTPError.__mro__ if base.__name__ == "HTTPError")
    return (OfflineModeIsEnabled, ConnectionError, TimeoutError, http_error)


def _hub_unreachable(repo: str, section: str, error: Exception) -> HubUnreachable:
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return HubUnreachable(
        f'the model hub cannot be reached for "{repo}", neither a local folder nor cached ({reason})',
        field=f"{section}.model",
        mend='Give the path of a local model folder, use "builtin", or run where the hub can be reached.',
    )


@contextmanager
def _hub_errors(repo: str, revision: str | None, section: str) -> Iterator[None]:
    """Turn the hub's refusals into UserErrors that say what to do."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    field = f"{section}.model"
    try:
        yield
    except GatedRepoError:
        raise UserError(
            f'access to "{repo}" must be granted first',
            field=field,
            mend="Ask for it on the model's page, then log in (hf auth login).",
        ) from None
    except (RepositoryNotFoundError, HFValidationError):
        raise UserError(
            f'"{repo}" is neither a local folder nor a model on the hub that you may read',
            field=field,
            mend='Mend the name, log in (hf auth login), or use "builtin".',
        ) from None
    except RevisionNotFoundError:
        raise UserError(
            f'"{repo}" has no revision "{revision}"', field=f"{section}.revision", mend="Mend or remove it."
        ) from None


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the model libraries' progress bars and log lines below ERROR off the terminal."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars
    from transformers.utils import logging as transformers_logging

    loggers = [logging.getLogger(n) for n in ("transformers", "sentence_transformers", "huggingface_hub")]
    levels = [logger.level for logger in loggers]
    hub_bars_off, bars = are_progress_bars_disabled(), transformers_logging.is_progress_bar_enabled()
    # Both libraries warn when an environment variable already rules their bars.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Cannot (en|dis)able progress bars")
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
            if bars:
                transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]
            if hub_bars_off:
                disable_progress_bars()

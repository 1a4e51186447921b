"""Data sets of the hub, through the `datasets` library; the only module here that uses the network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nncift_core.datasets.readers import Place, Row, arrow_rows
from nncift_core.errors import UserError

_BATCH = 1024


def hub_rows(hub_id: str, split: str | None, places: str) -> Iterator[tuple[Place, Row]]:
    """Rows of the hub data set `hub_id`; places: where a local file of that name was looked for.

    Without `split`, a data set of one split is read whole and one of several is refused. Raises
    UserError when the hub cannot be reached, or the data set or split is not there.
    """
    data, name = _load(hub_id, split, places)
    done = 0
    for table in data.with_format("arrow").iter(batch_size=_BATCH):
        yield from arrow_rows(table, f"{hub_id}[{name}]", done)
        done += table.num_rows


def hub_revision(hub_id: str) -> str | None:
    """Commit of the data set on the hub now; None when the hub does not say (not reachable)."""
    return _ask(hub_id)[1]


def _ask(hub_id: str) -> tuple[bool, str | None]:
    """(whether the hub answers, commit of the data set or None)."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        sha = HfApi().dataset_info(hub_id, timeout=10).sha
    except HfHubHTTPError:
        return True, None
    except _errors():
        return False, None
    return True, str(sha) if sha else None


def _errors() -> tuple[type[Exception], ...]:
    """What the hub's client raises: OSError, and its HTTP library's base error.

    That library differs between releases of the client, so the base is taken from its own class.
    """
    from huggingface_hub.errors import HfHubHTTPError

    transport = [c for c in HfHubHTTPError.__mro__ if c.__name__ == "HTTPError"]
    return (OSError, *transport)


def _load(hub_id: str, split: str | None, places: str) -> tuple[Any, str]:
    """The loaded split and its name."""
    import datasets

    if not _ask(hub_id)[0] and not _in_cache(hub_id):
        raise _unreachable(hub_id, places)
    try:
        data = datasets.load_dataset(hub_id, split=split)
    except ConnectionError:
        raise _unreachable(hub_id, places) from None
    except (ValueError, RuntimeError, datasets.exceptions.DatasetsError, *_errors()) as e:
        reason = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
        raise UserError(
            f"the hub data set cannot be loaded ({reason})",
            file=hub_id,
            mend="Check its id and split, or save it as a local file and name that.",
        ) from None
    if split is not None:
        return data, split
    if len(data) != 1:
        names = ", ".join(f'"{name}"' for name in data)
        mend = 'Choose one: split = "...".'
        raise UserError(f"the data set has the splits {names}", file=hub_id, mend=mend)
    name = next(iter(data))
    return data[name], str(name)


def _in_cache(hub_id: str) -> bool:
    """Whether an earlier download may serve; asked first because the loader retries for long."""
    import datasets

    cache = Path(datasets.config.HF_DATASETS_CACHE)
    return any(cache.glob(hub_id.partition("/")[0] + "___*"))


def _unreachable(hub_id: str, places: str) -> UserError:
    return UserError(
        f"no local file ({places}), and the hub cannot be reached",
        file=hub_id,
        mend="Go online, or name a local file: a path to .jsonl, .json, .csv or .parquet works.",
    )

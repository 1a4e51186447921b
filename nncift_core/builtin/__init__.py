"""What ships inside the package: the `builtin` language model and the quickstart's rows."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from nncift_core.errors import UserError

_SUFFIX = ".jsonl"


def lm_path() -> Path:
    """Folder of the `builtin` language model, as transformers loads it.

    Raises UserError when the installation lacks its weights.
    """
    folder = _root() / "lm"
    if not (folder / "model.safetensors").is_file():
        raise UserError(
            "the builtin language model is missing from this installation",
            file=folder / "model.safetensors",
            mend="Install the package again, or run `python -m benchmarks.builtin_lm.train` in a checkout.",
        )
    return folder


def data_names() -> tuple[str, ...]:
    """Names of the built-in data sets, sorted: `pool`, `target`, `target_intent`."""
    return tuple(sorted(p.stem for p in (_root() / "data").glob(f"*{_SUFFIX}")))


def data_path(name: str) -> Path:
    """File of the built-in data set `name` (config: `source = "builtin:NAME"`).

    Raises UserError naming the known data sets for any other name.
    """
    if name not in data_names():
        known = ", ".join(f'"builtin:{n}"' for n in data_names())
        raise UserError(
            f'no built-in data set "{name}"', field="source", mend=f"Use one of {known}, or a path."
        )
    return _root() / "data" / f"{name}{_SUFFIX}"


def _root() -> Path:
    # The weights are read by path (memory-mapped), so a zipped package cannot work: Path, not Traversable.
    return Path(str(files(__package__)))

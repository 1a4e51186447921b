"""Where a model's files are and which model they are: local folders, hub snapshots, built-in ones.

A model's fingerprint is part of the key of everything computed with it (design decision 3), so it
must be cheap and independent of paths: the commit hash for a hub model, a digest of the files that
decide the values for a folder. Nothing here imports torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from nncift_core.errors import UserError
from nncift_core.hashing import digest
from nncift_core.hub import VALUE_SUFFIXES, download, hub_commit

Section = Literal["encoder", "language_model"]

_PICKLED_SUFFIXES = {".bin", ".pt", ".pth", ".pkl", ".ckpt"}


@dataclass(frozen=True)
class ModelSource:
    """A model found: `fingerprint` says which one it is, `folder()` where its files lie.

    name: as the user wrote it; path: the folder of a local or built-in model, None for a hub model.
    """

    section: Section
    name: str
    fingerprint: str
    path: Path | None

    def folder(self) -> Path:
        """The folder with the files, checked by `check_folder`; a hub model is downloaded if need be.

        Raises UserError when the hub cannot be reached and the files are not cached.
        """
        folder = self.path or download(self.name, self.fingerprint, self.section)
        check_folder(folder, self.section, self.name)
        return folder


def find_model(
    section: Section,
    model: str,
    revision: str | None,
    builtin: Callable[[], Path],
    base_dir: str = "",
) -> ModelSource:
    """Resolve `model`: "builtin", a folder (relative ones start from `base_dir`), or a hub id.

    Loads no weights: it hashes the files of a folder, or asks the hub (its cache when unreachable)
    for the commit that `revision` stands for. A folder of that name wins over a hub id.
    Raises UserError for absent folders, unusable files, unknown hub ids, an unreachable hub.
    """
    if model == "builtin":
        path: Path | None = builtin()
    else:
        path = _local_folder(section, model, base_dir)
    if path is None:
        return ModelSource(section, model, hub_commit(model, revision, section), None)
    if revision is not None:
        raise UserError(
            f'a revision applies to hub models only, and "{model}" is not one',
            field=f"{section}.revision",
            mend="Remove it.",
        )
    check_folder(path, section, model)
    return ModelSource(section, model, folder_fingerprint(path), path)


def _local_folder(section: Section, model: str, base_dir: str) -> Path | None:
    """The folder `model` names, None when it can only be a hub id."""
    path = Path(base_dir or ".") / Path(model).expanduser()
    if path.is_dir():
        return path
    field = f"{section}.model"
    if path.is_file():
        raise UserError(f'"{model}" is a file', field=field, mend="Give the folder of the model.")
    looks_like_path = model.startswith((".", "/", "~")) or "\\" in model or model.count("/") > 1
    if looks_like_path or not model.strip():
        raise UserError(
            f'no folder "{model}"', field=field, mend='Give a model folder, a hub id, or "builtin".'
        )
    return None


def module_folders(folder: Path) -> list[Path]:
    """The folder and, for a sentence-transformers model, the sub-folders its modules.json names."""
    listing = folder / "modules.json"
    if not listing.is_file():
        return [folder]
    try:
        modules = json.loads(listing.read_text(encoding="utf-8"))
        names = dict.fromkeys(str(module.get("path", "")) for module in modules)
    except (ValueError, AttributeError, TypeError) as e:
        raise UserError(f"broken list of modules ({e})", file=listing, mend="Fetch the model anew.") from None
    outside = [name for name in names if Path(name).is_absolute() or ".." in Path(name).parts]
    if outside:
        raise UserError(f'module "{outside[0]}" lies outside the model', file=listing, mend="Mend its path.")
    return [folder, *(folder / name for name in names if name and (folder / name).is_dir())]


def check_folder(folder: Path, section: Section, name: str) -> None:
    """Raise UserError unless `folder` holds a model config and safetensors weights, and no module of
    it would have to be read from pickled weights."""
    field = f"{section}.model"
    listing = "modules.json" if section == "encoder" else "config.json"
    if not (folder / "config.json").is_file() and not (folder / listing).is_file():
        adapter = (folder / "adapter_config.json").is_file()
        raise UserError(
            f'folder "{name}" has no config.json',
            field=field,
            mend="It holds an adapter only: merge it into its base model, and give that folder."
            if adapter
            else "Give a folder written by save_pretrained.",
        )
    weights = 0
    for sub in module_folders(folder):
        suffixes = {path.suffix for path in sub.iterdir() if path.is_file()}
        weights += ".safetensors" in suffixes
        if ".safetensors" not in suffixes and suffixes & _PICKLED_SUFFIXES:
            raise UserError(
                f'"{name}" has pickled weights only, which can run code when read',
                field=field,
                mend="Convert them to safetensors (load and save_pretrained in an environment you trust).",
            )
    if not weights:
        raise UserError(
            f'folder "{name}" has no weights', field=field, mend="It needs at least one .safetensors file."
        )


def folder_fingerprint(folder: Path) -> str:
    """Digest of the sorted (relative name, SHA-256) of config, tokenizer, code and weights files."""
    files = sorted(
        path
        for sub in module_folders(folder)
        for path in sub.iterdir()
        if path.is_file() and path.suffix in VALUE_SUFFIXES
    )
    return digest([[path.relative_to(folder).as_posix(), file_sha256(path)] for path in files])


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, hex; remembered in this process while size and time of change stay."""
    stat = path.stat()
    return _file_sha256(str(path.resolve()), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=4096)
def _file_sha256(path: str, size: int, mtime_ns: int) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def loading(section: Section, name: str, kind: str) -> Iterator[None]:
    """Around a library's load call on the CPU: a failure becomes a UserError naming model and mend.

    kind: what the model was to be loaded as, say "an embedding model".
    """
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as e:
        raise UserError(
            f'"{name}" cannot be loaded as {kind} ({e})',
            field=f"{section}.model",
            mend="Give a complete model with its tokenizer; a model with its own code also needs "
            "trust_remote_code = true.",
        ) from e

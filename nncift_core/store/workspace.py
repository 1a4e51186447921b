"""The workspace: a folder, or a place in an object store, with everything computed; the only map of it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from nncift_core.errors import UserError
from nncift_core.hashing import digest
from nncift_core.store.files import write_json
from nncift_core.store.locks import is_locked, locked
from nncift_core.store.remote.address import url_of
from nncift_core.store.remote.mirror import MARK, Mirror
from nncift_core.store.remote.mirrors import mirror_at, opened

FORMAT = 1
_CHOOSE = "Choose an empty or new folder."
DEFAULT = "nncift-workspace"
# Seconds between two looks for a new file in a shared folder.
_SHOWN_AFTER = (0.1, 0.5, 2.0, 5.0, 0.0)


def _half_mark(path: Path) -> bool:
    """Whether a process that made a workspace was killed while it wrote this, the mark."""
    return path.name.startswith(".nncift.json.") and path.suffix == ".part"


class Workspace:
    """A folder with a format mark; `create` makes it, `open` demands it.

    root: the folder, of a URL its mirror on this machine. Folders: datasets/ embeddings/ states/ features/
    exact/ designs/ estimators/ estimates/ adapters/ evaluations/ judgements/ classifiers/ studies/ runs/
    locks/ prefect/ tmp/.
    """

    def __init__(self, root: str | Path) -> None:
        url = url_of(root)
        self.root = Path(root).absolute() if url is None else mirror_at(url).root

    @property
    def mirror(self) -> Mirror | None:
        """The mirror that `root` is, of a workspace in an object store."""
        return opened(self.root)

    @property
    def address(self) -> str:
        """What opens this workspace in any process that reaches it, also on another machine."""
        return str(self.root) if self.mirror is None else self.mirror.url

    @classmethod
    def create(cls, root: str | Path) -> Workspace:
        """Make the workspace if it is not there yet.

        Raises UserError for a path that is a file, a folder in other use or one without write access; and for
        what is wrong with a URL, its credentials or its rights.
        """
        cls.check_usable(root)
        ws = cls(root)
        if ws.mirror is not None:
            ws.mirror.adopt(lambda: {"format": FORMAT})
            ws._check()
            ws.mirror.pull()
            return ws
        if ws.exists():
            return ws
        try:
            ws.root.mkdir(parents=True, exist_ok=True)
            write_json(ws.root / MARK, {"format": FORMAT})
        except OSError as e:
            raise UserError(
                f"the workspace cannot be written ({e.strerror})", file=root, mend="Give another --workspace."
            ) from None
        return ws

    @classmethod
    def check_usable(cls, root: str | Path) -> None:
        """Raise UserError when `root` can be no workspace: a file, in other use, or not writable."""
        ws = cls(root)
        if ws.mirror is not None:
            if ws.exists():
                ws._check()
                ws.mirror.pull()
            elif not ws.mirror.objects.is_empty():
                raise UserError("is not empty and is no nncift workspace", file=ws.address, mend=_CHOOSE)
            ws.mirror.check_writable()
            return
        if ws.root.exists() and not ws.root.is_dir():
            raise UserError("is a file, not a folder", file=root, mend=_CHOOSE)
        if ws.exists():
            ws._check()
        elif ws.root.exists() and any(not _half_mark(p) for p in ws.root.iterdir()):
            raise UserError("is not empty and is no nncift workspace", file=root, mend=_CHOOSE)
        there = next(p for p in (ws.root, *ws.root.parents) if p.exists())
        if not os.access(there, os.W_OK):
            raise UserError(
                "the workspace cannot be written", file=root, mend="Mend its rights, or give another."
            )

    @classmethod
    def open(cls, root: str | Path) -> Workspace:
        """An existing workspace; raises UserError when there is none."""
        ws = cls(root)
        if not ws.exists():
            raise UserError(
                "no workspace here",
                file=root if ws.mirror is None else ws.address,
                mend="Run `nncift run CONFIG` first, or name the folder with --workspace.",
            )
        ws._check()
        if ws.mirror is not None:
            ws.mirror.pull()
        return ws

    def exists(self) -> bool:
        """Whether the folder, or the place in the store, carries the workspace mark."""
        if self.mirror is not None:
            return self.mirror.adopt(None) is not None
        return (self.root / MARK).is_file()

    def _check(self) -> None:
        where = self.root / MARK if self.mirror is None else f"{self.address}/{MARK}"
        try:
            found = json.loads((self.root / MARK).read_text(encoding="utf-8"))["format"]
        except (json.JSONDecodeError, KeyError, TypeError):
            raise UserError("damaged workspace mark", file=where) from None
        if found != FORMAT:
            raise UserError(
                f"workspace format {found}, this version reads {FORMAT}",
                file=self.address,
                mend="Use the version of nncift that made it, or a new workspace.",
            )

    def look(self) -> None:
        """Bring in what other machines have stored; a folder shows it by itself."""
        if self.mirror is not None:
            self.mirror.pull()

    def relative(self, path: Path) -> str:
        """`path` relative to the root, with forward slashes."""
        return path.relative_to(self.root).as_posix()

    def dataset_dir(self, role: str, dataset: str) -> Path:
        """Blocks and versions of one data set in one role."""
        slug = re.sub(r"[^A-Za-z0-9._-]+", "_", dataset)[:60]
        return self.root / "datasets" / role / f"{slug}-{digest([role, dataset])[:8]}"

    def embedding_dir(self, encoder_key: str) -> Path:
        """Embeddings of one encoder."""
        return self.root / "embeddings" / encoder_key[:16]

    def feature_dir(self, feature_key: str) -> Path:
        """Features of one influence function and side."""
        return self.root / "features" / feature_key[:16]

    def state_dir(self, state_key: str) -> Path:
        """What one influence function was fitted to, on one sample of the pool."""
        return self.root / "states" / state_key[:16]

    def exact_dir(self, function_key: str) -> Path:
        """Exact values of one influence function."""
        return self.root / "exact" / function_key[:16]

    def design_dir(self, family: str) -> Path:
        """Label designs of one family (function, encoder, data sets, fraction, seed)."""
        return self.root / "designs" / family[:16]

    def network_file(self, estimator_key: str) -> Path:
        """Weights of one fitted estimator."""
        return self.root / "estimators" / estimator_key[:16] / "network.safetensors"

    def estimate_dir(self, estimator_key: str) -> Path:
        """Estimated tiles of one estimator."""
        return self.root / "estimates" / estimator_key[:16]

    def adapter_dir(self, fine_tune_key: str) -> Path:
        """One fine-tuned adapter and what it was trained on."""
        return self.root / "adapters" / fine_tune_key[:16]

    def training_dir(self, fine_tune_key: str) -> Path:
        """How far a fine-tune is that is not over, as scratch: gone when it is, or when space is freed."""
        return self.tmp_dir / f"training-{fine_tune_key[:16]}"

    def group_file(self, key: str) -> Path:
        """Shards that another machine is asked to compute, while it does."""
        return self.tmp_dir / f"group-{key[:16]}.json"

    def join_file(self, key: str) -> Path:
        """A training that waits for other hosts, while it goes on."""
        return self.tmp_dir / f"group-join-{key[:16]}.json"

    def classifier_dir(self, key: str) -> Path:
        """What was kept of one training of a classifier, or of the subsets that a study trains on."""
        return self.root / "classifiers" / key[:16]

    def suspects_file(self, run_id: str) -> Path:
        """Rows of a run whose labels look wrong, for relabelling."""
        return self.run_dir(run_id) / "suspects.csv"

    def evaluation_file(self, key: str) -> Path:
        """Scores of one model on one set of held-out rows."""
        return self.root / "evaluations" / f"{key[:16]}.parquet"

    def result_file(self, run_id: str) -> Path:
        """What a run published for its views."""
        return self.run_dir(run_id) / "result.json"

    def sweep_file(self, run_id: str) -> Path:
        """What a sweep published for its view."""
        return self.run_dir(run_id) / "sweep.json"

    def study_file(self, key: str) -> Path:
        """What was measured of one fit of a study."""
        return self.root / "studies" / f"{key[:16]}.json"

    def report_file(self, run_id: str) -> Path:
        """The report of a run."""
        return self.run_dir(run_id) / "report.html"

    def run_dir(self, run_id: str) -> Path:
        """Attempts, costs, results and subset of one run."""
        return self.root / "runs" / run_id

    def subset_file(self, run_id: str) -> Path:
        """The chosen rows of a run, in the shape of the user's file."""
        return self.run_dir(run_id) / "subset.jsonl"

    @property
    def calibration_file(self) -> Path:
        """Which kernel predicts matrices here, and the measurement that chose it."""
        return self.root / "calibration.json"

    @contextlib.contextmanager
    def marked(self) -> Iterator[str]:
        """A mark that lies in the workspace for a while: another machine that sees it sees this one."""
        name = f"seen-{uuid.uuid4().hex}"
        if self.mirror is not None:
            self.mirror.objects.put(f"marks/{name}", b"")
        else:
            (self.tmp_dir / name).touch()
        try:
            yield name
        finally:
            if self.mirror is not None:
                self.mirror.objects.delete([f"marks/{name}"])
            else:
                (self.tmp_dir / name).unlink(missing_ok=True)

    def has_mark(self, name: str) -> bool:
        """Whether the workspace under this address is the one in which `marked` gave `name`.

        Looks for some seconds: a shared folder may show a new file late.
        """
        if self.mirror is not None:
            if self.mirror.objects.get(f"marks/{name}") is None:
                return False
            self.mirror.adopt(None)
            self.mirror.pull()
            return True
        for wait in _SHOWN_AFTER:
            if self.tmp_dir.is_dir() and name in os.listdir(self.tmp_dir):
                return True
            time.sleep(wait)
        return False

    @contextlib.contextmanager
    def turn(self, name: str, waiting: Callable[[], None] | None = None) -> Iterator[None]:
        """Do alone, among all that use this workspace, what `name` stands for; what others stored is seen.

        On one machine the kernel frees the turn of whoever dies. Between machines of one object store it is a
        lease (`store.remote.leases`): cut off for a minute, two may have it. waiting: called every now and
        then while another one has it; what it raises ends the wait.
        """
        with locked(self.lock(name), waiting):
            if self.mirror is None:
                yield
                return
            with self.mirror.leases.held(f"turns/{name}", waiting):
                self.mirror.pull()
                yield

    def is_taken(self, name: str) -> bool:
        """Whether somebody has the turn `name` now; asked without waiting for it."""
        if is_locked(self.lock(name)):
            return True
        return self.mirror is not None and self.mirror.leases.is_held(f"turns/{name}")

    def lock(self, name: str) -> Path:
        """A lock file."""
        return self.root / "locks" / f"{name}.lock"

    @property
    def prefect_dir(self) -> Path:
        """Results that Prefect caches (small JSON manifests)."""
        return self.root / "prefect"

    def share_answer(self, key: str) -> None:
        """Let other machines have the answer that Prefect has just cached here under `key`."""
        path = self.prefect_dir / key
        if self.mirror is not None and path.is_file():
            self.mirror.share(path, path.read_text(encoding="utf-8"))

    @property
    def tmp_dir(self) -> Path:
        """Scratch space; safe to delete when nothing runs."""
        path = self.root / "tmp"
        path.mkdir(exist_ok=True)
        return path

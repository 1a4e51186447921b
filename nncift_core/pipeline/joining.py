"""Trainings that several hosts share: how the job's host asks the others, and how they come."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from nncift_core.config import Config
from nncift_core.errors import NnciftError, RunError, UserError
from nncift_core.finetune import settings
from nncift_core.finetune.hosts import Invite, take_part
from nncift_core.finetune.invitation import Invitation, invited_config
from nncift_core.finetune.meeting import Guest, find_meeting
from nncift_core.store.files import delete, write_json
from nncift_core.store.workspace import Workspace

# Seconds between two looks for invitations, and between two lines on how far a training is.
_LOOK_S, _TELL_S = 2.0, 30.0

Say = Callable[[str], None]


def inviting(ws: Workspace, waiting: Callable[[], None] | None = None) -> Invite:
    """How a training of this workspace invites: a document, gone when the training is over.

    A job has one place to meet, so another training of the workspace waits for it to be free; waiting: called
    every now and then meanwhile.
    """

    @contextmanager
    def invite(asked: Invitation) -> Iterator[None]:
        path = ws.join_file(asked.key)
        with ws.turn("training-hosts", waiting):
            try:
                write_json(path, asked.to_json())
                yield
            finally:
                delete(path)

    return invite


def join(config: Config, ws: Workspace, say: Say, *, once: bool = False) -> None:
    """Take part in the trainings of `ws` that wait for hosts, one after the other, until interrupted.

    config: where this host has the student, and its devices; the rest is the job's. say: told in lines what
    happens; once: return after the first training, and raise what ended it. Raises UserError for a host that
    would train something else than the job's.
    """
    if settings(config).hosts == 1:
        raise UserError(
            "trainings by this config run on one host",
            field="finetune.hosts",
            mend='Set hosts and rendezvous = "HOST:PORT", the same as where the job runs.',
        )
    over: set[str] = set()
    told = ""
    ws.look()
    while True:
        found, why = _look(ws, over)
        if found is None:
            if why != told:
                say(why)
            told = why
            time.sleep(_LOOK_S)
            continue
        told = ""
        asked, guest = found
        over.add(asked.attempt)
        if _joined(config, asked, guest, say, once) and once:
            return


def _joined(config: Config, asked: Invitation, guest: Guest, say: Say, once: bool) -> bool:
    """Take part in one training; returns whether there was a place left."""
    try:
        own = invited_config(config, asked)
    except UserError as e:
        guest.refuse(str(e))
        raise
    name = f"training {asked.key[:16]}"
    try:
        number = guest.come()
    except RunError as e:
        say(f"{name}: {e}")
        return False
    if number is None:
        say(f"{name} has its {asked.hosts} hosts")
        return False
    say(
        f"{name} of {asked.host}: host {number} of {asked.hosts}, {asked.devices} "
        f"{'process' if asked.devices == 1 else 'processes'} on {asked.device}, student {asked.student}, "
        f"{len(asked.rows):,} rows"
    )
    try:
        done = take_part(asked, own, guest, _teller(name, say))
    except UserError:
        raise
    except (NnciftError, OSError) as e:
        if once:
            raise RunError(f"{name}: {e}") from e
        say(f"{name} failed: {e}")
        return True
    say(f"{name} is done: {done.steps:,} steps, loss {done.losses[-1]:.4f}; {asked.host} has the result")
    return True


def _look(ws: Workspace, over: set[str]) -> tuple[tuple[Invitation, Guest] | None, str]:
    """As `_waiting_for_hosts`, and what is said while there is none."""
    try:
        ws.look()
    except UserError as e:
        # It could be read a moment ago, and will be again.
        return None, f"the workspace is out of reach: {e}"
    return _waiting_for_hosts(ws, over), f"waiting for trainings of {ws.address}"


def _waiting_for_hosts(ws: Workspace, over: set[str]) -> tuple[Invitation, Guest] | None:
    """The newest training that waits for hosts, but for attempts in `over`, and the link to its host."""
    found = []
    for path in ws.tmp_dir.glob(ws.join_file("*").name):
        try:
            found.append(Invitation.from_json(json.loads(path.read_text(encoding="utf-8"))))
        except OSError:
            # Over since; a shared folder may say so in other ways.
            continue
        except (ValueError, KeyError, TypeError) as e:
            raise UserError(
                f"no invitation of this version of nncift ({type(e).__name__}: {e})",
                file=path,
                mend="Install the same version on all hosts, or delete the file if no job runs.",
            ) from None
    for asked in sorted(found, key=lambda i: i.asked_at, reverse=True):
        # A job that was killed leaves its document, and nobody at the rendezvous.
        if asked.attempt not in over and (guest := find_meeting(asked)) is not None:
            return asked, guest
    return None


def _teller(name: str, say: Say) -> Callable[[int, int], None]:
    """progress(done, total) of a training in lines, the first step and then one now and then."""
    last = float("-inf")

    def tell(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= _TELL_S:
            last = time.monotonic()
            say(f"{name}: step {done:,} of {total:,}")

    return tell

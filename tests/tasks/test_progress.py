"""What a person sees of a stage: bars that fit their terminal, plain lines with rate and time left."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator
from uuid import uuid4

import pytest
from conftest import free_port
from prefect.settings import PREFECT_API_URL, temporary_settings

from tasks import progress
from tasks.progress import Pace, Reporter, Stage, _View, say

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal(io.StringIO):
    """A stderr that says it is a terminal."""

    def isatty(self) -> bool:
        return True


class Clock:
    """A monotonic clock that goes when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


@pytest.fixture
def reporter(monkeypatch: pytest.MonkeyPatch) -> Iterator[Reporter]:
    """The process's reporter in its first state, as `say` reads it."""
    monkeypatch.setattr(progress, "reporter", Reporter())
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    yield progress.reporter


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, reporter: Reporter) -> Terminal:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    return Terminal()


def frames(screen: Terminal) -> list[str]:
    """Every line that was ever shown, without colours and cursor moves."""
    return [f for f in re.split(r"[\r\n]+", ESCAPES.sub("", screen.getvalue())) if f.strip()]


def advance(stage: Stage, clock: Clock, items: int, seconds: float, times: int = 1) -> None:
    for _ in range(times):
        clock.now += seconds
        stage.advance(items)


def test_pace_leaves_out_what_was_there_and_the_time_to_the_first_items() -> None:
    pace = Pace()
    assert pace.rate is None and pace.left(0.0, 100) is None
    pace.add(60.0, 1010)
    assert pace.rate is None
    pace.add(61.0, 1020)
    pace.add(62.0, 1030)
    assert pace.rate == 10.0
    assert pace.left(62.0, 1530) == 50.0
    assert pace.left(70.0, 1530) == 42.0
    assert pace.left(500.0, 1530) == 0.0


def test_pace_knows_no_rate_of_a_single_moment() -> None:
    pace = Pace()
    pace.add(5.0, 10)
    pace.add(5.0, 20)
    assert pace.rate is None


def test_pace_starts_again_when_items_are_counted_anew() -> None:
    pace = Pace()
    pace.add(0.0, 0)
    pace.add(1.0, 100)
    pace.add(2.0, 1)
    assert pace.rate is None
    pace.add(4.0, 5)
    assert pace.rate == 2.0


def test_a_plain_line_says_count_share_rate_and_time_left(
    clock: Clock, reporter: Reporter, capsys: pytest.CaptureFixture[str]
) -> None:
    reporter.mode = "plain"
    with reporter.stage("exact-influence", 3975, "pairs", done=749, artifact=False) as stage:
        advance(stage, clock, 41, 1.0, 11)
    assert capsys.readouterr().err == "exact-influence: 1,159 of 3,975 pairs (29 %, 41/s, 69 s left)\n"


def test_a_plain_line_without_a_rate_leaves_it_out(
    clock: Clock, reporter: Reporter, capsys: pytest.CaptureFixture[str]
) -> None:
    reporter.mode = "plain"
    with reporter.stage("embed", 200, "texts", done=100, artifact=False) as stage:
        advance(stage, clock, 20, 11.0)
    assert capsys.readouterr().err == "embed: 120 of 200 texts (60 %)\n"


def test_plain_lines_come_at_most_every_ten_seconds(
    clock: Clock, reporter: Reporter, capsys: pytest.CaptureFixture[str]
) -> None:
    reporter.mode = "plain"
    with reporter.stage("embed", 1000, "texts", artifact=False) as stage:
        advance(stage, clock, 10, 1.0, 35)
    assert capsys.readouterr().err.count("\n") == 3


@pytest.mark.parametrize(
    ("items", "seconds", "rate", "left"),
    [
        (5000, 0.5, "10,000/s", "99 s left"),
        (1, 2.0, "0.5/s", "555.6 h left"),
        (1, 60.0, "1.0/min", "16666.6 h left"),
        (1000, 1.0, "1,000/s", "17 min left"),
    ],
)
def test_rates_and_times_choose_their_units(
    clock: Clock, reporter: Reporter, items: int, seconds: float, rate: str, left: str
) -> None:
    reporter.mode = "quiet"
    with reporter.stage("s", 1_000_000, "rows", artifact=False) as stage:
        assert (stage.rate, stage.left) == ("", "")
        advance(stage, clock, items, seconds, 2)
        assert (stage.rate, stage.left) == (rate, left)


def test_quiet_says_nothing(clock: Clock, terminal: Terminal, reporter: Reporter) -> None:
    reporter.mode = "quiet"
    with (
        contextlib.redirect_stderr(terminal),
        reporter.stage("embed", 1000, "texts", artifact=False) as stage,
    ):
        advance(stage, clock, 100, 20.0, 5)
        say("a note")
    assert terminal.getvalue() == ""


def show_stage(
    screen: Terminal, reporter: Reporter, clock: Clock, name: str, total: int, unit: str
) -> list[str]:
    """The frames of a stage of 5 reused items and two thirds computed in two steps, and a line between."""
    with (
        contextlib.redirect_stderr(screen),
        reporter.stage(name, total, unit, done=5, artifact=False) as stage,
    ):
        advance(stage, clock, total // 3, total / 30_000, 2)
        say("a note")
    return frames(screen)


@pytest.mark.parametrize("width", [60, 70, 80, 120])
@pytest.mark.parametrize(
    ("name", "total", "unit"),
    [
        ("train-influence-network", 500, "networks"),
        ("estimate-influence", 2_000_000, "pairs"),
        ("evaluate", 9_000_000, "row scores"),
        ("estimate-influence", 45_000_000, "pairs"),
    ],
)
def test_a_bar_is_one_line_that_fits_with_its_numbers_whole(
    clock: Clock,
    terminal: Terminal,
    reporter: Reporter,
    monkeypatch: pytest.MonkeyPatch,
    width: int,
    name: str,
    total: int,
    unit: str,
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    lines = show_stage(terminal, reporter, clock, name, total, unit)
    assert "a note" in [line.strip() for line in lines]
    # A second line would have to be erased by going up two; the last frame is erased by going up one.
    assert set(re.findall(r"\x1b\[(\d+)A", terminal.getvalue())) <= {"1"}
    bars = [line for line in lines if line.strip() != "a note"]
    assert max(map(len, bars)) <= width
    assert bars[-1].startswith(name[:7])
    assert f"{5 + total // 3 * 2:,}/{total:,} {unit} " in bars[-1]
    assert re.search(r"\d/s +\d+(\.\d)? (s|min|h) left", bars[-1])


def test_a_wide_terminal_shows_the_whole_name_and_a_bar(
    clock: Clock, terminal: Terminal, reporter: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    lines = show_stage(terminal, reporter, clock, "estimate-influence", 2_000_000, "pairs")
    assert re.match(r"estimate-influence ━{10,}", lines[-1])


def test_a_bar_follows_a_total_that_is_known_later(
    clock: Clock, terminal: Terminal, reporter: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")  # then only the finished part of a bar is drawn
    monkeypatch.setenv("COLUMNS", "120")
    with contextlib.redirect_stderr(terminal), reporter.stage("train", 1, "epochs", artifact=False) as stage:
        stage.total = 300
        advance(stage, clock, 30, 1.0, 2)
    assert re.fullmatch(r"train ━{8} +60/300 epochs 30/s 8 s left *", frames(terminal)[-1])


def test_no_color_keeps_the_numbers_and_drops_the_colours(
    clock: Clock, terminal: Terminal, reporter: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    colour = re.compile(r"\x1b\[[0-9;]*3[0-9;]*m")
    show_stage(terminal, reporter, clock, "embed", 3000, "texts")
    assert colour.search(terminal.getvalue())
    monkeypatch.setenv("NO_COLOR", "1")
    plain = Terminal()
    lines = show_stage(plain, reporter, clock, "embed", 3000, "texts")
    assert "2,005/3,000 texts" in lines[-1]
    assert not colour.search(plain.getvalue())


def test_a_dumb_terminal_gets_plain_lines(
    clock: Clock, terminal: Terminal, reporter: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    with (
        contextlib.redirect_stderr(terminal),
        reporter.stage("embed", 1000, "texts", artifact=False) as stage,
    ):
        advance(stage, clock, 100, 6.0, 2)
    assert terminal.getvalue() == "embed: 200 of 1,000 texts (20 %, 17/s, 48 s left)\n"


def test_what_is_said_cannot_steer_the_terminal(
    reporter: Reporter, capsys: pytest.CaptureFixture[str]
) -> None:
    say("data set \x1b]0;x\x07\x1b[2J\u202e: two\nlines")
    assert capsys.readouterr().err == "data set ␛]0;x␇␛[2J\ufffd: two\nlines\n"


def test_a_server_that_is_away_fails_no_shard(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The artifact's updates fail as they do while nobody listens on the server's port."""
    monkeypatch.setattr(progress, "ARTIFACT_SECONDS", 0.0)
    monkeypatch.setattr(progress.reporter, "mode", "plain")
    with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{free_port()}/api"}):
        stage = Stage("exact-influence", 10, 0, "pairs", _View(), uuid4())
        for _ in range(3):
            stage.advance(2)
        stage.close()
    assert stage.done == 6
    assert capsys.readouterr().err.count("the server could not be told how far it is (ConnectError)") == 1

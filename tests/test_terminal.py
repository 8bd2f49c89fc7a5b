"""What long work looks like."""

from __future__ import annotations

import io
import re
import time

import pytest
from rich.console import Console

from tastemaker.commands import _terminal
from tastemaker.commands._terminal import Terminal


def test_a_bar_of_80_columns_shows_counts_times_speed_and_the_note() -> None:
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=80, color_system=None)
    with Terminal(console).track("200 users, 200 items", 400) as advance:
        for _ in range(4):
            advance(20, "12,345 tokens written, cost 0.1234, 3 failed")
            time.sleep(0.15)
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.getvalue()).split("\r")
    bars = [part for line in lines for part in line.splitlines() if "80/400" in part]
    assert bars
    assert re.search(r"80/400 0:00:0\d 0:00:0\d [\d.]+/s", bars[-1])
    assert len(bars[-1].rstrip()) <= 80
    assert "  12,345 tokens written, cost 0.1234, 3 failed" in shown.getvalue()


def test_plain_lines_tell_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_terminal, "QUIET_SECONDS", 0.0)
    shown = io.StringIO()
    terminal = Terminal(Console(file=shown, width=80))
    with terminal.track("200 users, 200 items", 400) as advance:
        time.sleep(0.01)
        advance(20, "99 tokens written")
    assert re.fullmatch(
        r"  200 users, 200 items: 20 of 400 \(0 s, [\d.e+]+/s, 99 tokens written\)\n",
        shown.getvalue(),
    )

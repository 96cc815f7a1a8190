"""Three hundred conversations that end in every way leave nothing behind (`python -m bench.soak` holds ten thousand)."""

from __future__ import annotations

from bench.soak import soak
from tests.virtual_time import run


def test_nothing_is_left_of_three_hundred_sessions() -> None:
    report = run(soak(sessions=300, devices=20))
    assert report.problems == 0
    assert report.turns >= 300
    assert (report.after.sessions, report.after.channels_open, report.after.devices) == (0, 0, 20)
    assert report.after.tasks == report.before.tasks
    assert report.after.objects - report.before.objects < 2000  # not seven for each of the 270 sessions between

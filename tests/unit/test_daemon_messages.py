"""Who is told of what, and that a message really goes out, through apprise to a real server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backupd.config.settings import NotifySettings
from backupd.daemon.alarms import AGAIN_SECONDS, Event, compare, troubles_of
from backupd.daemon.messages import HEALTH_SECONDS, Messenger
from backupd.errors import ConfigError
from tests.support.inbox import Inbox, open_inbox
from tests.unit.daemon_fakes import Clock, LogLines

NOW = 1_782_900_420.0


def status(**models: dict[str, Any]) -> dict[str, Any]:
    base = {"error": "", "stale": False, "targets": []}
    return {"models": [{"name": n, **base, **m} for n, m in models.items()], "upkeep": []}


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    with open_inbox() as made:
        yield made


class Rig:
    def __init__(self, folder: Path, settings: NotifySettings) -> None:
        self.settings = settings
        self.seen: dict[str, Any] = status(llama={})
        self.clock = Clock(NOW)
        self.lines = LogLines()
        self.folder = folder
        self.messenger = self.made()

    def made(self) -> Messenger:
        return Messenger(
            settings=lambda: self.settings,
            status=lambda: self.seen,
            host=lambda: "box1",
            state_dir=self.folder,
            clock=self.clock,
            log=self.lines.log,
        )


def test_a_failure_and_its_end_reach_the_address(tmp_path: Path, inbox: Inbox) -> None:
    rig = Rig(tmp_path, NotifySettings(urls=(f"json://127.0.0.1:{inbox.port}/hook",)))
    rig.messenger.look()
    assert inbox.posts == []
    rig.seen = status(llama={"error": "the disk is full"})
    rig.messenger.look()
    rig.messenger.look()
    assert [post["title"] for post in inbox.posts] == ["backupd: model llama failed on box1"]
    assert inbox.posts[0]["message"] == "the disk is full"
    rig.seen = status(llama={})
    rig.messenger.look()
    assert inbox.posts[1]["title"] == "backupd: model llama is well again on box1"


def test_what_lasts_is_said_again_once_a_day_also_over_a_restart(
    tmp_path: Path, inbox: Inbox
) -> None:
    rig = Rig(tmp_path, NotifySettings(urls=(f"json://127.0.0.1:{inbox.port}/hook",)))
    rig.seen = status(llama={"stale": True})
    rig.messenger.look()
    rig.messenger = rig.made()
    rig.clock.now += AGAIN_SECONDS - 1
    rig.messenger.look()
    assert len(inbox.posts) == 1
    rig.clock.now += 1
    rig.messenger.look()
    assert len(inbox.posts) == 2


def test_only_what_is_asked_for_is_told(tmp_path: Path, inbox: Inbox) -> None:
    settings = NotifySettings(urls=(f"json://127.0.0.1:{inbox.port}/hook",), on=("stale",))
    rig = Rig(tmp_path, settings)
    rig.seen = status(llama={"error": "no"}, bert={"stale": True})
    rig.messenger.look()
    assert [post["title"] for post in inbox.posts] == ["backupd: model bert is stale on box1"]


def test_a_message_that_is_refused_is_tried_again_and_said_once(
    tmp_path: Path, inbox: Inbox
) -> None:
    rig = Rig(tmp_path, NotifySettings(urls=(f"json://127.0.0.1:{inbox.port}/hook",)))
    inbox.answer = 500
    rig.seen = status(llama={"error": "no"})
    rig.messenger.look()
    rig.messenger.look()
    assert sum("could not be sent" in event for event in rig.lines.events()) == 1
    inbox.answer = 200
    before = len(inbox.posts)
    rig.messenger.look()
    rig.messenger.look()
    assert len(inbox.posts) == before + 1


def test_the_health_check_is_asked_for_only_while_all_is_well(tmp_path: Path, inbox: Inbox) -> None:
    rig = Rig(tmp_path, NotifySettings(healthcheck=f"http://127.0.0.1:{inbox.port}/uuid"))
    rig.messenger.look()
    rig.messenger.look()
    assert inbox.gets == ["/uuid"]
    rig.clock.now += HEALTH_SECONDS
    rig.seen = status(llama={"error": "no"})
    rig.messenger.look()
    assert inbox.gets == ["/uuid"]
    rig.seen = status(llama={})
    rig.messenger.look()
    assert inbox.gets == ["/uuid", "/uuid"]


def test_addresses_come_from_a_file_too_and_no_password_of_theirs_is_told(
    tmp_path: Path, inbox: Inbox
) -> None:
    listed = tmp_path / "urls"
    listed.write_text(f"# chat\njson://127.0.0.1:{inbox.port}/hook\n\nnosuch://user:geheim@x\n")
    rig = Rig(tmp_path, NotifySettings(urls_file=listed))
    rig.seen = status(llama={"error": "no"})
    rig.messenger.look()
    assert "address 2 (nosuch:...) is none that is known" in rig.lines.stream.getvalue()
    assert "geheim" not in rig.lines.stream.getvalue()
    listed.unlink()
    with pytest.raises(ConfigError, match=r"notify\.urls_file"):
        from backupd.daemon.messages import addresses

        addresses(rig.settings)


def test_nobody_to_tell_means_that_nothing_is_looked_at(tmp_path: Path) -> None:
    rig = Rig(tmp_path, NotifySettings())
    rig.messenger._status = lambda: pytest.fail("the status was asked for")
    rig.messenger.look()


def test_a_target_that_is_away_is_a_failure_of_the_model_and_named() -> None:
    wrong = troubles_of(status(llama={"targets": [{"name": "nas", "error": "is absent"}]}))
    assert wrong["model llama"].text == "nas: is absent"


def test_a_failing_upkeep_job_is_told_under_its_name() -> None:
    document = {"upkeep": [{"job": "check", "target": "s3", "error": "2 damaged objects"}]}
    after, messages = compare({}, troubles_of(document), NOW)
    assert messages[0].title == "backupd: check s3 failed"
    assert after["check s3"].said == NOW


def test_what_was_stale_and_now_fails_is_told_as_a_failure() -> None:
    before, _ = compare({}, troubles_of(status(llama={"stale": True})), NOW)
    _, messages = compare(before, troubles_of(status(llama={"error": "no"})), NOW + 1)
    assert [message.event for message in messages] == [Event.FAILURE]

"""What a snapshot costs at a real store, counted there and told by `status`; and `doctor`."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import yaml

from backupd.operations.ledger import read_ledger
from tests.rigs.command_line import CommandLine
from tests.rigs.servers import S3Server
from tests.support.checkpoints import weights, write_safetensors

MiB = 1 << 20


class Box:
    """A home with one model that goes to one bucket."""

    def __init__(self, home: Path, server: S3Server) -> None:
        self.run = CommandLine(home, in_process=True)
        self.home = home
        self.model = home / "model"
        self.model.mkdir()
        self.state = home / "state"
        self.bucket = server.create_bucket()
        self.server = server
        self.config = {
            "state_dir": str(self.state),
            "key": {"file": str(home / "key")},
            "targets": {
                "s3": {
                    "type": "s3",
                    "bucket": self.bucket,
                    "endpoint_url": server.endpoint_url,
                    "credentials_file": str(server.write_credentials(home / "credentials")),
                    "path_style": True,
                    "prices": {"put": 5.0, "get": 1.0, "list": 2.0, "currency": "EUR"},
                }
            },
            "policies": {"all": {"keep_last": 5}},
            "models": {"m": {"path": str(self.model), "targets": {"s3": "all"}}},
        }
        self.write()

    def write(self) -> None:
        path = self.home / ".config/backupd/backupd.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(self.config))

    def asked(self) -> dict[str, int]:
        """What the ledger has until now."""
        total: dict[str, int] = {}
        for entry in read_ledger(self.state):
            for kind in ("put", "get", "stat", "list", "delete"):
                total[kind] = total.get(kind, 0) + getattr(entry, kind)
        return total

    def cost_of(self, *arguments: str) -> dict[str, int]:
        before = self.asked()
        self.run.ok(*arguments)
        return {kind: count - before.get(kind, 0) for kind, count in self.asked().items()}

    def count(self, folder: str) -> int:
        answer = self.server.client().list_objects_v2(Bucket=self.bucket, Prefix=folder)
        return int(answer["KeyCount"])


@pytest.fixture
def box(s3_server: S3Server, tmp_path: Path) -> Box:
    return Box(tmp_path, s3_server)


def test_a_snapshot_costs_a_put_for_each_pack_and_two_more(box: Box) -> None:
    for number in range(3):
        (box.model / f"{number}.bin").write_bytes(os.urandom(30 * MiB))
    box.run.ok("init")
    first = box.cost_of("snapshot")
    packs = box.count("packs/")
    assert packs >= 3
    # The index and the snapshot; every store is asked once what its conditions are worth.
    assert first["put"] == packs + 2
    assert first["get"] <= 8
    assert first["list"] <= 12

    unchanged = box.cost_of("snapshot")
    assert unchanged["put"] == unchanged["delete"] == 0
    assert sum(unchanged.values()) <= 16

    (box.model / "0.bin").write_bytes(os.urandom(5 * MiB))
    changed = box.cost_of("snapshot")
    assert changed["put"] == box.count("packs/") - packs + 2

    document = box.run.ok("status", "--json").document
    (told,) = document["requests"]
    assert (told["target"], told["currency"], told["prices"]) == ("s3", "EUR", "configuration")
    asked = box.asked()
    # The document is made before its own requests are added.
    assert asked["put"] == told["put"]
    assert told["cost"] == pytest.approx(
        (5 * told["put"] + told["get"] + told["head"] + 2 * told["list"]) / 1000
    )
    shown = box.run.ok("status").out
    assert "REQUESTS" in shown
    assert f"{told['put']:,}" in shown
    assert "EUR" in shown


def test_what_is_known_of_many_snapshots_is_not_asked_for_again(box: Box) -> None:
    box.run.ok("init")
    count = 6
    for number in range(count):
        (box.model / "a.bin").write_bytes(b"%d" % number)
        costs = box.cost_of("snapshot")
        # Its own index object and snapshot are read back once, by the next one.
        assert costs["get"] <= 6, number
    known = box.cost_of("list")
    assert known["get"] <= 2
    assert (known["list"], known["put"]) == (2, 0)
    listed = box.run.ok("list").out
    shutil.rmtree(box.state / "cache")
    anew = box.cost_of("list")
    assert anew["get"] >= count
    assert box.run.ok("list").out == listed
    # A check is of what the store has, not of what is near at hand.
    assert box.cost_of("check")["get"] >= 2 * count
    assert box.cost_of("restore", "m@v1", "--to", str(box.home / "out"))["get"] <= count + 6
    assert (box.home / "out" / "a.bin").read_bytes() == b"0"


def test_a_model_of_many_shards_costs_no_request_for_each(box: Box) -> None:
    shards = 12
    for shard in range(shards):
        tensors = {f"layer.{number}": weights(10 * shard + number, 20_000) for number in range(6)}
        write_safetensors(box.model / f"{shard:02}.safetensors", tensors)
    box.run.ok("init")
    box.run.ok("snapshot")
    (box.model / "config.json").write_text("{}")
    again = box.cost_of("snapshot")  # the tables of all shards are read, as bases
    assert again["get"] <= 8
    # What is data is merged into runs of 4 MiB, and this model has 6 MB.
    for command in (["show", "m@v1"], ["check"], ["restore", "m@v1", "--to", str(box.home / "r")]):
        assert box.cost_of(*command)["get"] < shards, command
    for path in (box.home / "r").iterdir():
        assert path.read_bytes() == (box.model / path.name).read_bytes()


def test_doctor_finds_a_machine_that_is_fit_to_be_fit(box: Box) -> None:
    box.run.ok("init")
    document = box.run.ok("doctor", "--json").document
    assert document["healthy"]
    checks = {(found["check"], found["subject"]) for found in document["findings"]}
    assert checks >= {
        ("configuration", None),
        ("key", None),
        ("target", "s3"),
        ("repository", "s3"),
        ("state_dir", None),
        ("model", "m"),
        ("inotify", None),
        ("daemon", None),
    }
    seen = next(found for found in document["findings"] if found["check"] == "target")
    assert "one of racing writers wins" in seen["message"]
    kept = json.loads((box.state / "probes" / "s3.json").read_text())
    assert (kept["creation"], kept["ranges"]) == ("atomic", "partial")
    shown = box.run.ok("doctor").out
    assert "Nothing to mend" in shown


def test_doctor_names_what_is_wrong_and_ends_with_its_code(box: Box) -> None:
    box.run.ok("init")
    (box.home / "key").unlink()
    answer = box.run("doctor")
    assert answer.code == 6
    assert "BAD   key:" in answer.out
    assert "recovery key" in answer.out

    (box.home / "key").write_text("another key\n")
    assert box.run("doctor").code == 6

    box.config["targets"]["s3"]["bucket"] = "no-such-bucket-here"  # type: ignore[index]
    box.write()
    answer = box.run("doctor", "--json")
    assert answer.code == 5
    bad = [found for found in answer.document["findings"] if found["verdict"] == "bad"]
    assert [found["check"] for found in bad] == ["target"]
    assert "no bucket" in bad[0]["message"]
    assert "create the bucket" in bad[0]["hint"]

    (box.home / "key").unlink()
    assert box.run("doctor").code == 1

    box.config["targets"]["s3"]["colour"] = "red"  # type: ignore[index]
    box.write()
    answer = box.run("doctor", "--json")
    assert answer.code == 2
    assert "colour" in answer.document["findings"][0]["message"]


def test_a_store_that_gives_back_other_bytes_gets_no_repository(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    from backupd.targets import s3_probe

    monkeypatch.setattr(s3_probe, "_parts_come_back", lambda *_: False)
    answer = box.run("init")
    assert answer.code == 5
    assert "gives back other bytes than were stored" in answer.err
    assert box.count("repository.json") == 0
    assert "gives back other bytes" in box.run("doctor").out


def test_an_append_only_target_is_probed_once_and_a_past_one_never(box: Box) -> None:
    store = box.config["targets"]["s3"]  # type: ignore[index]
    store["append_only"] = True
    box.write()
    box.run.ok("init")
    first = box.cost_of("doctor")
    assert first["put"] == first["delete"] == 0
    assert "one of racing writers wins" in box.run.ok("doctor").out

    store["append_only"] = False
    store["as_of"] = "2026-01-01T00:00"
    box.write()
    asked = box.asked()
    answer = box.run("doctor", "--json")
    found = [one for one in answer.document["findings"] if one["check"] == "target"]
    assert "is not probed" in found[0]["message"]
    assert box.asked()["put"] == asked["put"]

"""The benchmark at S3: what it counts, and how it says it."""

from __future__ import annotations

from pathlib import Path

from benchmarks.s3 import Table, _puts

LOG = """\
2026-11-26 beast: 0x7f: 127.0.0.1 - user [26/Nov/2026] "PUT /one/packs/aa/x HTTP/1.1" 200 16 -
2026-11-26 beast: 0x7f: 127.0.0.1 - user [26/Nov/2026] "POST /one/packs/aa/x?uploads HTTP/1.1" 200
2026-11-26 beast: 0x7f: 127.0.0.1 - user [26/Nov/2026] "GET /one/packs/aa/x HTTP/1.1" 206 16 -
2026-11-26 beast: 0x7f: 127.0.0.1 - user [26/Nov/2026] "PUT /other/packs/aa/x HTTP/1.1" 200 16 -
2026-11-26 rgw: "PUT /one/packs/aa/x" said twice by another part
"""


def test_puts_are_counted_by_the_servers_own_log_for_one_bucket(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    assert _puts(tmp_path, "one") is None
    (tmp_path / "log" / "client.rgw.log").write_text(LOG)
    assert _puts(tmp_path, "one") == 2
    assert _puts(tmp_path, "other") == 1


def test_a_table_shows_medians_and_leaves_out_what_was_not_measured() -> None:
    table = Table()
    for value in (1.0, 9.0, 2.0):
        table.add("snapshot, s", "restic", value)
    table.add("snapshot, s", "backupd", 0.5)
    table.add("PUTs", "backupd", 7)
    assert table.markdown("random") == (
        "| random | restic | backupd |\n"
        "|---|---:|---:|\n"
        "| snapshot, s | 2.00 | 0.50 |\n"
        "| PUTs |  | 7.00 |\n"
    )
    assert table.median("snapshot, s", "restic") == 2.0

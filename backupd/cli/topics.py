"""The help topics: what several commands share, told once."""

from __future__ import annotations

from backupd.cli.command import EXIT_CODES

_SNAPSHOTS = """\
How a SNAPSHOT is named

  llama-ft@v12           version 12 of the model llama-ft
  llama-ft@latest        its newest version; `llama-ft` alone means the same
  llama-ft@best          the best by the metric of a policy's keep_best
  llama-ft@best:loss     the best by the metric loss
  llama-ft@2026-11-23    the newest that was taken on that day or before
  "llama-ft@2026-11-23 14:30"
                         the newest that was taken in that minute or before
  llama-ft@release       the newest that carries the label release
  llama-ft@release=1.0   the newest that carries it with this value
  box2:llama-ft@v3       version 3 of the model llama-ft of the host box2
  llama-ft_20261123_v12  the name that `naming` in the configuration gives it
  chat/2026-11-23/llama-ft/llama-ft_20261123_v12
                         the path that `layout` gives it
  3f2a91c4               the beginning of its id, where only one id begins so

A model belongs to the host it was taken on. Without HOST: this host's model is
meant, then the only one of that name. Dates are read in the local time zone.
A version number is never used twice, also after its snapshot was forgotten.
"""

_PATTERNS = """\
How a GLOB is written

`files`, `restore --include` and `--exclude` and the configuration's `exclude`
read patterns as .gitignore does, from the model's folder on:

  *.safetensors      files of that ending, in any folder
  /config.json       only the one at the top
  checkpoint-500/    the folder of that name, with all that is in it
  runs/**/best.pt    best.pt in any folder below runs
  data?[0-9].npy     ? is one character, [0-9] one of a range

Quote a pattern, so that the shell leaves it alone.
"""

_ENVIRONMENT = """\
The variables that backupd reads

  BACKUPD_CONFIG           the configuration file, where --config names none
  BACKUPD_KEY_FILE         a file that holds the key
  BACKUPD_PASSPHRASE_FILE  a file that holds the passphrase
  BACKUPD_PASSPHRASE       the passphrase itself; other processes of the same
                           user can see it, so prefer a file
  BACKUPD_DEBUG            1 shows where a bug happened, on standard error
  NO_COLOR                 anything turns colours off (https://no-color.org)
  COLUMNS                  how wide tables may be; else the terminal's width
  XDG_DATA_HOME, XDG_STATE_HOME
                           where `quickstart` puts repository and state

Key and passphrase from the environment are taken before those that the
configuration names. S3 credentials are read as boto3 reads them: AWS_PROFILE,
AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, ~/.aws, or the machine's role.
"""

_JSON = """\
What --json answers

Exactly one JSON document on standard output. Fields may be added in later
versions; none is renamed or dropped. Sizes are bytes, durations seconds, times
ISO 8601 in UTC. A path that is not UTF-8 has U+FFFD where a byte was lost, and
`path_base64` beside it in `files`.

  list                 {"snapshots": [SNAPSHOT, ...], "owed": [...], ...}
  show                 {"snapshot": SNAPSHOT, "storage": {...}}
  label                {"snapshot": SNAPSHOT}
  diff                 {"old": SNAPSHOT, "new": SNAPSHOT, "files": [...],
                       "tensors": [...], "layers": [...], ...}
  files                {"snapshot": NAME, "id": ID, "files": [...]}
  snapshot             {"queued": [MODEL, ...], "snapshots": [...]}
  restore              {"snapshot": SNAPSHOT, "to": DIR, "failed": [...], ...}
  forget               {"dry_run": ..., "kept": [...], "forgotten": [...]}
  policy               as forget, with "simulations" by target
  check, prune         {"targets": [...]}
  repair               {"dry_run": ..., "targets": [...]}
  drill                {"snapshot": NAME, "clean": ..., "failed": [...], ...}
  sync                 {"dry_run": ..., "copies": [...]}
  log                  {"versions": [SNAPSHOT, with "stands_on", ...]}
  switch               {"model": ..., "version": SNAPSHOT, "saved": ..., ...}
  export               {"dry_run": ..., "exported": [...]}
  import               {"model": ..., "dry_run": ..., "imported": [...]}
  status               {"running": ..., "models": [...], "targets": [...]}
  config check         {"file": ..., "valid": ..., "problems": [...]}
  key list             {"keys": [...]}

SNAPSHOT has name, id, host, model, version, time, root, parent, labels,
metrics, file_count, size_bytes, added_bytes, stored_bytes, duration_seconds,
incomplete, skipped, targets, step, epoch, project and scheme.

An error is a document too, beside its words on standard error:

  {"error": {"message": ..., "hint": ..., "kind": ..., "exit_code": ...}}

`kind` is usage, partial, not_found, target, key, damaged, interrupted, failed
or bug. Where one of several parts failed, its entry holds such an "error", and
the exit code is 3.
"""


def _exit_codes() -> str:
    lines = ["The exit codes of every command", ""]
    lines += [f"  {code:>3}  {meaning}" for code, meaning in EXIT_CODES.items()]
    lines += [
        "",
        "Where a command works on several models or targets and some of them fail, it",
        "does the others and ends with 3. A first Ctrl-C asks a command to stop: it ends",
        "with 130, what was stored is kept, and the same command goes on from there.",
        "A command whose output is cut short by the end of a pipe ends with 141.",
    ]
    return "\n".join(lines) + "\n"


TOPICS = {
    "snapshots": _SNAPSHOTS,
    "patterns": _PATTERNS,
    "environment": _ENVIRONMENT,
    "exit-codes": _exit_codes(),
    "json": _JSON,
}

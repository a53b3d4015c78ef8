# ruff: noqa: E501 - sentences are compared word for word, each on one line
"""Every way in which a configuration is refused: with file, line, sentence and mend, word for word."""

from __future__ import annotations

from pathlib import Path

import pytest

from backupd.config.load import load_config
from backupd.config.schema import Configuration
from backupd.config.schema_models import ModelSection
from backupd.errors import EXIT_USAGE, ConfigError

BASE = """\
key: {file: /none/key}
targets:
  disk: {type: local, path: /none/backups}
policies:
  working: {keep_last: 5}
models:
  m:
    path: /none/model
    targets: {disk: working}
"""
MIB = 1 << 20
# The default of state_dir depends on who runs the tests; HOME is left out on purpose.
ENVIRONMENT = {"STATE_DIRECTORY": "/none/var"}

# What is refused: a name, then either the whole file, or what to replace in BASE and by what
# (nothing to replace: what to add at its end); then line, sentence and mend.
Edit = str | bytes | tuple[str, str]
CASES: list[tuple[str, Edit, int, str, str]] = [
    (
        "a page without a port",
        ("", "status: {listen: localhost}\n"),
        10,
        "status.listen: 'localhost' is no place to listen",
        "write HOST:PORT, such as 127.0.0.1:9731",
    ),
    (
        "a page at a bare IPv6 address",
        ("", "status: {listen: '::1:9731'}\n"),
        10,
        "status.listen: '::1:9731' is no place to listen",
        "write HOST:PORT, such as 127.0.0.1:9731",
    ),
    (
        "an event that nobody knows",
        ("", "notify: {on: [failures]}\n"),
        10,
        "notify.on[0]: 'failures' is not one of the values it can have",
        "write failure, recovery or stale",
    ),
    (
        "a health check that is no address",
        ("", "notify: {healthcheck: hc-ping.com}\n"),
        10,
        "notify.healthcheck: 'hc-ping.com' is no address",
        "write it with its scheme, such as https://s3.example.org",
    ),
    (
        "a pressure above all",
        ("", "limits: {pause_above: {io_pressure: 130%}}\n"),
        10,
        "limits.pause_above.io_pressure: '130%' is no percentage",
        "write one from 0% to 100%, such as 5%",
    ),
    (
        "an unknown key",
        ("", "verbose: true\n"),
        10,
        "verbose: unknown key 'verbose'",
        f"the keys here are {', '.join(Configuration.model_fields)}",
    ),
    (
        "a key of a later release",
        ("", "zeal: {urls: []}\n"),
        10,
        "zeal: unknown key 'zeal'",
        f"the keys here are {', '.join(Configuration.model_fields)}",
    ),
    (
        "a key that is like none of them",
        ("", "    zzzz: 30s\n"),
        10,
        "models.m.zzzz: unknown key 'zzzz'",
        f"the keys here are {', '.join(ModelSection.model_fields)}",
    ),
    (
        "a misspelt key",
        ("keep_last", "keep_lst"),
        5,
        "policies.working.keep_lst: unknown key 'keep_lst'",
        "did you mean 'keep_last'?",
    ),
    (
        "a misspelt section",
        ("policies:", "polices:"),
        4,
        "polices: unknown key 'polices'",
        "did you mean 'policies'?",
    ),
    (
        "a key of another kind of target",
        ("path: /none/backups", "path: /none/backups, bucket: team"),
        3,
        "targets.disk.bucket: unknown key 'bucket'",
        "the keys here are type, path",
    ),
    (
        "a count that is a word",
        ("keep_last: 5", "keep_last: five"),
        5,
        "policies.working.keep_last: 'five' is no whole number",
        "write, for example, keep_last: 5",
    ),
    (
        "a count of zero",
        ("keep_last: 5", "keep_last: 0"),
        5,
        "policies.working.keep_last: '0' is out of range; it is at least 1",
        "write, for example, keep_last: 5",
    ),
    (
        "a negative count",
        ("keep_last: 5", "keep_last: -1"),
        5,
        "policies.working.keep_last: '-1' is out of range; it is at least 1",
        "write, for example, keep_last: 5",
    ),
    (
        "a broken count",
        ("keep_last: 5", "keep_last: 1.5"),
        5,
        "policies.working.keep_last: '1.5' is no whole number",
        "write, for example, keep_last: 5",
    ),
    (
        "a count as a list",
        ("keep_last: 5", "keep_last: [5]"),
        5,
        "policies.working.keep_last: a list is no whole number",
        "write, for example, keep_last: 5",
    ),
    (
        "a policy without rules",
        ("{keep_last: 5}", "{}"),
        5,
        "policies.working: keeps nothing",
        "give it a rule, such as keep_last: 5",
    ),
    (
        "a policy with nothing behind it",
        (" {keep_last: 5}", ""),
        5,
        "policies.working: has no value",
        "give it one, or take the line out",
    ),
    (
        "a policy of no labels",
        ("keep_last: 5", "keep_labels: []"),
        5,
        "policies.working: keeps nothing",
        "give it a rule, such as keep_last: 5",
    ),
    (
        "a policy that is a list",
        ("{keep_last: 5}", "[keep_last]"),
        5,
        "policies.working: a list is no mapping of keys to values",
        "see docs/configuration.md",
    ),
    (
        "a duration with a word",
        ("keep_last: 5", "keep_within: 2 days"),
        5,
        "policies.working.keep_within: '2 days' is no duration",
        "write a number with s, m, h, d, w or y, such as 2d",
    ),
    (
        "a duration of nothing",
        ("keep_last: 5", "keep_within: 0d"),
        5,
        "policies.working.keep_within: '0d' is no time at all",
        "write more than zero, or leave the key out",
    ),
    (
        "a duration beyond all use",
        ("keep_last: 5", "keep_within: 900y"),
        5,
        "policies.working.keep_within: '900y' is longer than 200 years",
        "write a shorter one, such as 10y",
    ),
    (
        "a best without a mode",
        ("keep_last: 5", "keep_best: {metric: loss}"),
        5,
        "policies.working.keep_best: 'mode' is missing",
        "write mode: min",
    ),
    (
        "a best of an unknown mode",
        ("keep_last: 5", "keep_best: {metric: loss, mode: low}"),
        5,
        "policies.working.keep_best.mode: 'low' is not one of the values it can have",
        "write min or max",
    ),
    (
        "labels that are no list",
        ("keep_last: 5", "keep_labels: release"),
        5,
        "policies.working.keep_labels: 'release' is no list",
        "write, for example, keep_labels: [release, stage=prod]",
    ),
    (
        "a target of an unknown type",
        ("type: local", "type: ftp"),
        3,
        "targets.disk: 'type' is 'ftp'",
        "write type: local, type: nas or type: s3",
    ),
    (
        "a target without a type",
        ("type: local, ", ""),
        3,
        "targets.disk: 'type' is missing",
        "write type: local, type: nas or type: s3",
    ),
    (
        "a target that is a path",
        ("{type: local, path: /none/backups}", "/none/backups"),
        3,
        "targets.disk: '/none/backups' is no mapping of keys to values",
        "see docs/configuration.md",
    ),
    (
        "a target without a path",
        (", path: /none/backups", ""),
        3,
        "targets.disk: 'path' is missing",
        "write path: /var/backups/models",
    ),
    (
        "targets that are a list",
        ("  disk: {type: local, path: /none/backups}", "  - {type: local, path: /none/backups}"),
        2,
        "targets: a list is no mapping of keys to values",
        "write, for example, targets: {disk: {type: local, path: /var/backups/models}}",
    ),
    (
        "no targets",
        ("targets:\n  disk: {type: local, path: /none/backups}", "targets: {}"),
        2,
        "targets: there is none",
        "add one, such as disk: {type: local, path: /var/backups/models}",
    ),
    (
        "two S3 targets at one place",
        (
            "disk: {type: local, path: /none/backups}",
            "disk: {type: s3, bucket: team, prefix: x}\n  far: {type: s3, bucket: team, prefix: x/}",
        ),
        4,
        "targets.far: s3://team/x is also the place of the target 'disk'",
        "give each target a prefix of its own",
    ),
    (
        "a secret access key",
        ("{type: local, path: /none/backups}", "{type: s3, bucket: team, secret_access_key: AKIA}"),
        3,
        "targets.disk.secret_access_key: the secret 'secret_access_key' has no place in a configuration",
        "write it into a file of its own, and name that: credentials_file: /etc/backupd/s3-credentials",
    ),
    (
        "an endpoint without a scheme",
        (
            "{type: local, path: /none/backups}",
            "{type: s3, bucket: team, endpoint_url: s3.example.org}",
        ),
        3,
        "targets.disk.endpoint_url: 's3.example.org' is no address",
        "write it with its scheme, such as https://s3.example.org",
    ),
    (
        "an endpoint with a password",
        (
            "{type: local, path: /none/backups}",
            '{type: s3, bucket: team, endpoint_url: "https://me:pw@s3.example.org"}',
        ),
        3,
        "targets.disk.endpoint_url: 'https://***@s3.example.org' holds a user or password",
        "take it out, and name a profile or credentials_file",
    ),
    (
        "a bucket with a scheme",
        ("{type: local, path: /none/backups}", '{type: s3, bucket: "s3://team/x"}'),
        3,
        "targets.disk.bucket: 's3://team/x' cannot be a bucket",
        "write its bare name, without s3:// and folders",
    ),
    (
        "a prefix that climbs",
        ("{type: local, path: /none/backups}", "{type: s3, bucket: team, prefix: ../x}"),
        3,
        "targets.disk.prefix: '../x' cannot be a prefix",
        "write names joined by single /, such as boxes/box1",
    ),
    (
        "a storage class in lower case",
        (
            "{type: local, path: /none/backups}",
            "{type: s3, bucket: team, storage_class: standard_ia}",
        ),
        3,
        "targets.disk.storage_class: 'standard_ia' is no storage class",
        "write one of the store's, such as STANDARD_IA",
    ),
    (
        "encryption by the store of an unknown kind",
        ("{type: local, path: /none/backups}", "{type: s3, bucket: team, sse: rot13}"),
        3,
        "targets.disk.sse: 'rot13' is not one of the values it can have",
        "write AES256, aws:kms or customer",
    ),
    (
        "a customer's key that is not named",
        ("{type: local, path: /none/backups}", "{type: s3, bucket: team, sse: customer}"),
        3,
        "targets.disk: has sse: customer and no key",
        "write sse_customer_key_file:",
    ),
    (
        "a customer's key that would not count",
        (
            "{type: local, path: /none/backups}",
            "{type: s3, bucket: team, sse_customer_key_file: /k}",
        ),
        3,
        "targets.disk: has sse_customer_key_file, which counts only with sse: customer",
        "",
    ),
    (
        "a key of a key service that would not count",
        (
            "{type: local, path: /none/backups}",
            "{type: s3, bucket: team, sse: AES256, sse_kms_key: k}",
        ),
        3,
        "targets.disk: has sse_kms_key, which counts only with sse: aws:kms",
        "",
    ),
    (
        "a proxy with a password",
        (
            "{type: local, path: /none/backups}",
            "{type: s3, bucket: team, proxy: 'http://me:pw@proxy'}",
        ),
        3,
        "targets.disk.proxy: 'http://***@proxy' holds a user or password",
        "take it out, and name a profile or credentials_file",
    ),
    (
        "a price below nothing",
        (
            "{type: local, path: /none/backups}",
            "{type: s3, bucket: team, prices: {put: -1, get: 0, list: 0}}",
        ),
        3,
        "targets.disk.prices.put: '-1' is out of range; it is at least 0.0",
        "write, for example, put: 0.005",
    ),
    (
        "a price list without one",
        (
            "{type: local, path: /none/backups}",
            "{type: s3, bucket: team, prices: {put: 1, get: 0}}",
        ),
        3,
        "targets.disk.prices: 'list' is missing",
        "write list: 0.005",
    ),
    (
        "metadata in an archive",
        (
            "{type: local, path: /none/backups}",
            "{type: s3, bucket: team, metadata_storage_class: GLACIER}",
        ),
        3,
        "targets.disk.metadata_storage_class: 'GLACIER' must be thawed before it is read, and a"
        " restore reads metadata to know what to thaw",
        "write a class that is read at once, such as STANDARD_IA or GLACIER_IR",
    ),
    (
        "checksums of an unknown kind",
        ("{type: local, path: /none/backups}", "{type: s3, bucket: team, checksums: always}"),
        3,
        "targets.disk.checksums: 'always' is not one of the values it can have",
        "write when_required or when_supported",
    ),
    (
        "two targets in one folder",
        (
            "disk: {type: local, path: /none/backups}",
            "disk: {type: local, path: /none/backups}\n  spare: {type: nas, path: /none/backups/}",
        ),
        4,
        "targets.spare.path: /none/backups is also the path of the target 'disk'",
        "give each target a folder of its own",
    ),
    (
        "a target within a target",
        (
            "disk: {type: local, path: /none/backups}",
            "disk: {type: local, path: /none/backups}\n  spare: {type: local, path: /none/backups/spare}",
        ),
        4,
        "targets.spare.path: /none/backups/spare lies within /none/backups, the path of the target 'disk'",
        "give each target a folder of its own",
    ),
    (
        "a passphrase in the file",
        ("{file: /none/key}", "{passphrase: hunter2}"),
        1,
        "key.passphrase: the secret 'passphrase' has no place in a configuration",
        "write it into a file of its own, and name that: passphrase_file: /etc/backupd/passphrase",
    ),
    (
        "two keys",
        ("{file: /none/key}", "{file: /none/key, encryption: none}"),
        1,
        "key: gives encryption and file",
        "keep one of them",
    ),
    (
        "no key",
        ("key: {file: /none/key}\n", ""),
        1,
        "'key' is missing",
        "write key: {file: /etc/backupd/key}",
    ),
    (
        "an empty key",
        ("{file: /none/key}", "{}"),
        1,
        "key: names no key",
        "write one of file, passphrase_file, passphrase_command or encryption: none",
    ),
    (
        "a key that is a path",
        ("{file: /none/key}", "/none/key"),
        1,
        "key: '/none/key' is no mapping of keys to values",
        "write, for example, key: {file: /etc/backupd/key}",
    ),
    (
        "an unknown encryption",
        ("{file: /none/key}", "{encryption: aes}"),
        1,
        "key.encryption: 'aes' is not one of the values it can have",
        "write none",
    ),
    (
        "encryption at the wrong place",
        ("key: {file: /none/key}", "encryption: none"),
        1,
        "encryption: unknown key 'encryption'",
        "write key: {encryption: none}",
    ),
    (
        "a relative model path",
        ("/none/model", "runs/model"),
        8,
        "models.m.path: 'runs/model' is not a full path",
        "write it from the root, beginning with / or ~/",
    ),
    (
        "a path with dots",
        ("/none/model", "/none/x/../model"),
        8,
        "models.m.path: '/none/x/../model' holds '..'",
        "write the path that it leads to",
    ),
    (
        "a home that is not known",
        ("/none/model", "~/model"),
        8,
        "models.m.path: '~/model' begins with ~, and HOME is not set",
        "write the full path, or set HOME",
    ),
    (
        "a relative key file",
        ("/none/key", "key"),
        1,
        "key.file: 'key' is not a full path",
        "write it from the root, beginning with / or ~/",
    ),
    (
        "a schedule with a minute of 61",
        ("", '    schedule: "61 * * * *"\n'),
        10,
        "models.m.schedule: '61 * * * *' has the minute 61, which is not from 0 to 59",
        'write minute, hour, day of month, month and weekday, such as "*/15 * * * *", or a word such as @daily',
    ),
    (
        "a schedule of four fields",
        ("", '    schedule: "0 3 * *"\n'),
        10,
        "models.m.schedule: '0 3 * *' has 4 fields, and a cron schedule has 5",
        'write minute, hour, day of month, month and weekday, such as "*/15 * * * *", or a word such as @daily',
    ),
    (
        "a schedule that never fires",
        ("", '    schedule: "0 0 30 2 *"\n'),
        10,
        "models.m.schedule: '0 0 30 2 *' never fires: there is no day 30 in Feb",
        "name a day that the month has",
    ),
    (
        "a schedule on the 31st of short months",
        ("", '    schedule: "0 0 31 4,6,9,11 *"\n'),
        10,
        "models.m.schedule: '0 0 31 4,6,9,11 *' never fires: there is no day 31 in Apr or Jun or Sep or Nov",
        "name a day that the month has",
    ),
    (
        "a schedule that runs backwards",
        ("", '    schedule: "0 17-9 * * *"\n'),
        10,
        "models.m.schedule: '0 17-9 * * *' has the hour range '17-9', which runs backwards",
        'write minute, hour, day of month, month and weekday, such as "*/15 * * * *", or a word such as @daily',
    ),
    (
        "a schedule with a step of nothing",
        ("", '    schedule: "*/0 * * * *"\n'),
        10,
        "models.m.schedule: '*/0 * * * *' has the step '0' in its minute, which is none",
        'write minute, hour, day of month, month and weekday, such as "*/15 * * * *", or a word such as @daily',
    ),
    (
        "a schedule by an unknown word",
        ("", '    schedule: "@often"\n'),
        10,
        "models.m.schedule: '@often' is no word of cron",
        "write one of @hourly, @daily, @midnight, @weekly, @monthly, @yearly, @annually",
    ),
    (
        "a schedule without quotes",
        ("", "    schedule: */15 * * * *\n"),
        10,
        "a value that begins with * is not in quotes",
        'put it in quotes: schedule: "*/15 * * * *"',
    ),
    (
        "an upkeep that never fires",
        ("", 'upkeep: {prune: "0 0 31 feb *"}\n'),
        10,
        "upkeep.prune: '0 0 31 feb *' never fires: there is no day 31 in Feb",
        "name a day that the month has",
    ),
    (
        "an unknown time zone",
        ("", "    timezone: Mars/Base\n"),
        10,
        "models.m.timezone: 'Mars/Base' is no time zone that this machine knows",
        "write one of the IANA names, such as Europe/Berlin or UTC",
    ),
    (
        "a time zone that is a folder",
        ("", "    timezone: Europe\n"),
        10,
        "models.m.timezone: 'Europe' is no time zone that this machine knows",
        "write one of the IANA names, such as Europe/Berlin or UTC",
    ),
    (
        "a model without targets",
        ("    targets: {disk: working}\n", ""),
        7,
        "models.m: 'targets' is missing",
        "write targets: {disk: working, s3: archive}",
    ),
    (
        "a model with no target",
        ("{disk: working}", "{}"),
        9,
        "models.m.targets: the model goes to no target",
        "name one, such as {disk: working}",
    ),
    (
        "a model with an undefined target",
        ("{disk: working}", "{disc: working}"),
        9,
        "models.m.targets.disc: there is no target 'disc'",
        "did you mean 'disk'?",
    ),
    (
        "a model with an undefined policy",
        ("{disk: working}", "{disk: archive}"),
        9,
        "models.m.targets.disk: there is no policy 'archive'",
        "the policies are working",
    ),
    (
        "a model with a list of targets",
        ("{disk: working}", "[disk]"),
        9,
        "models.m.targets: a list is no mapping of keys to values",
        "write, for example, targets: {disk: working, s3: archive}",
    ),
    (
        "a model with no policy",
        ("{disk: working}", "{disk: []}"),
        9,
        "models.m.targets.disk: the list is empty",
        "name at least one",
    ),
    (
        "no models",
        ("models:\n  m:\n    path: /none/model\n    targets: {disk: working}\n", "models: {}\n"),
        6,
        "models: there is none",
        "add one, such as my-model: {path: /srv/my-model, targets: {disk: working}}",
    ),
    (
        "two models on one path",
        ("", "  n:\n    path: /none/model\n    targets: {disk: working}\n"),
        11,
        "models.n.path: /none/model is also the path of the model 'm'",
        "watch the outer folder as one model, or give each a folder of its own",
    ),
    (
        "a model within a model",
        ("", "  n:\n    path: /none/model/sub\n    targets: {disk: working}\n"),
        11,
        "models.n.path: /none/model/sub lies within /none/model, the path of the model 'm'",
        "watch the outer folder as one model, or give each a folder of its own",
    ),
    (
        "a target within a model",
        ("/none/backups", "/none/model/backups"),
        8,
        "models.m.path: /none/model holds /none/model/backups, the path of the target 'disk'",
        "keep the repository outside of what it backs up",
    ),
    (
        "a model within a target",
        ("/none/model", "/none/backups/model"),
        8,
        "models.m.path: /none/backups/model lies within /none/backups, the path of the target 'disk'",
        "keep the repository outside of what it backs up",
    ),
    (
        "the state within a model",
        ("", "state_dir: /none/model/state\n"),
        10,
        "state_dir: /none/model/state lies within /none/model, the path of the model 'm'",
        "keep the state outside of what is backed up",
    ),
    (
        "the state in a target",
        ("", "state_dir: /none/backups\n"),
        10,
        "state_dir: /none/backups is also the path of the target 'disk'",
        "give the state a folder of its own",
    ),
    (
        "a model's name with an @",
        ("  m:", "  m@x:"),
        7,
        "models.m@x: 'm@x' cannot be a name",
        "use letters, digits, '.', '_' and '-', at most 64, and begin with a letter or digit",
    ),
    (
        "a policy's name with a blank",
        ("  working:", "  my rules:"),
        5,
        "policies.my rules: 'my rules' cannot be a name",
        "use letters, digits, '.', '_' and '-', at most 64, and begin with a letter or digit",
    ),
    (
        "a host name with a blank",
        ("", "host: 'a b'\n"),
        10,
        "host: 'a b' cannot be a name",
        "use letters, digits, '.', '_' and '-', at most 64, and begin with a letter or digit",
    ),
    (
        "an exclude that is no list",
        ("", "    exclude: '*.lock'\n"),
        10,
        "models.m.exclude: '*.lock' is no list",
        'write, for example, exclude: ["tmp-*", "*.lock"]',
    ),
    (
        "an exclude that is blank",
        ("", "    exclude: ['tmp', ' ']\n"),
        10,
        "models.m.exclude[1]: ' ' excludes nothing",
        "write a pattern as in .gitignore, such as tmp-*",
    ),
    (
        "an exclude that is a mapping",
        ("", "    exclude: [a: b]\n"),
        10,
        "models.m.exclude[0]: a mapping is no single value",
        "see docs/configuration.md",
    ),
    (
        "a switch that is neither",
        ("", "    one_filesystem: maybe\n"),
        10,
        "models.m.one_filesystem: 'maybe' is neither true nor false",
        "write, for example, one_filesystem: true",
    ),
    (
        "a naming without a version",
        ("", 'naming: "{model_name}_{date}"\n'),
        10,
        "naming: '{model_name}_{date}' gives v1 and v2 of one day the same name",
        'put {version} into it, as in "{model_name}_{YYYYMMDD}_v{version}"',
    ),
    (
        "a naming without a model",
        ("", 'naming: "v{version}"\n'),
        10,
        "naming: 'v{version}' gives v1 of any two models the same name",
        'put {model_name} into it, as in "{model_name}_{YYYYMMDD}_v{version}"',
    ),
    (
        "a naming with an unknown word",
        ("", 'naming: "{model_name}_{epoch}_v{version}"\n'),
        10,
        "naming: '{model_name}_{epoch}_v{version}' holds {epoch}, which is no word of names",
        "the words are {project_name}, {model_name}, {model}, {host}, {version}, {date}, {YYYYMMDD}, {step}, {label.K}",
    ),
    (
        "a naming with a slash",
        ("", 'naming: "{model_name}/v{version}"\n'),
        10,
        "naming: '{model_name}/v{version}' holds '/'",
        "between the words use letters, digits and . _ + = , ~ -",
    ),
    (
        "a naming that is not one-to-one",
        ("", 'naming: "{project_name}_{model}_v{version}"\n'),
        10,
        "naming: '{project_name}_{model}_v{version}' is not one-to-one: '1_1_1_v1' would be project_name '1_1' model '1' version '1' and also project_name '1' model '1_1' version '1'",
        "put a character between the words that names cannot hold, such as +, = or ~",
    ),
    (
        "a layout that leaves its folder",
        ("", 'layout: "../{model_name}/v{version}"\n'),
        10,
        "layout: '../{model_name}/v{version}' is no path below a folder",
        'write names joined by single /, as in "{project_name}/{date}/{model}/"',
    ),
    (
        "a layout that is not one-to-one",
        ("", 'layout: "{model}/v{version}{step}"\n'),
        10,
        "layout: '{model}/v{version}{step}' is not one-to-one: '1/v111' would be model '1' version '11' step '1' and also model '1' version '1' step '11'",
        "put a character between the words that names cannot hold, such as +, = or ~",
    ),
    (
        "a naming whose numbers run together",
        ("", 'naming: "{model}{version}"\n'),
        10,
        "naming: '{model}{version}' is not one-to-one: '111' would be model '11' version '1' and also model '1' version '11'",
        "put a character between the words that names cannot hold, such as +, = or ~",
    ),
    (
        "a naming by a project that the model lacks",
        ("", 'naming: "{project_name}+{model}_v{version}"\n'),
        7,
        "models.m: 'project' is missing, and naming holds {project_name}",
        "write project: with a name, or take {project_name} out of naming",
    ),
    (
        "a naming without quotes",
        ("", "naming: {model}_v{version}\n"),
        10,
        "a value that begins with { is not in quotes",
        'put it in quotes: naming: "{model}_v{version}"',
    ),
    (
        "an upload without a number",
        ("", "limits: {upload: fast}\n"),
        10,
        "limits.upload: 'fast' is no rate",
        "write bytes per second, such as 200MB/s or 50MiB/s",
    ),
    (
        "an upload in bits",
        ("", "limits: {upload: 200Mbit/s}\n"),
        10,
        "limits.upload: '200Mbit/s' is no rate",
        "write bytes per second, such as 200MB/s or 50MiB/s",
    ),
    (
        "no threads",
        ("", "limits: {threads: 0}\n"),
        10,
        "limits.threads: '0' is out of range; it is at least 1",
        "write, for example, threads: 2",
    ),
    (
        "a nice that is too nice",
        ("", "limits: {nice: 20}\n"),
        10,
        "limits.nice: '20' is out of range; it is at most 19",
        "write, for example, nice: 19",
    ),
    (
        "an unknown disk priority",
        ("", "limits: {io: idel}\n"),
        10,
        "limits.io: 'idel' is not one of the values it can have",
        "write idle, best-effort or none",
    ),
    (
        "a percentage beyond all",
        ("", "upkeep: {read_data: 200%}\n"),
        10,
        "upkeep.read_data: '200%' is no percentage",
        "write one from 0% to 100%, such as 5%",
    ),
    (
        "a key that stands twice",
        ("", "key: {file: /none/other}\n"),
        10,
        "the key 'key' stands twice, first on line 1",
        "keep one of the two",
    ),
    (
        "a value that is missing",
        ("", "state_dir:\n"),
        10,
        "state_dir: has no value",
        "give it one, or take the line out",
    ),
    (
        "a list at the top",
        "- a\n- b\n",
        1,
        "the file holds a list, and not keys with values",
        "begin with keys such as 'targets:' and 'models:' at the left edge",
    ),
    (
        "a word at the top",
        "backupd\n",
        1,
        "the file holds a single value, and not keys with values",
        "begin with keys such as 'targets:' and 'models:' at the left edge",
    ),
    ("an empty file", "", 0, "the file is empty", "write one with 'backupd quickstart DIR'"),
    (
        "a file of comments",
        "# nothing yet\n",
        0,
        "the file is empty",
        "write one with 'backupd quickstart DIR'",
    ),
    (
        "a tab",
        "key:\n\tfile: /none/key\n",
        2,
        "the line is indented with a tab",
        "indent with spaces",
    ),
    (
        "a control character",
        "key: {file: /none/key}\nhost: a\x07b\n",
        2,
        "a control character (0x07) stands in the file",
        "take it out; in a quoted value it can be written as \\xNN",
    ),
    (
        "a line break that no editor shows",
        "key:\u2028 file: /none/key\n",
        1,
        "a line break that is not seen (U+2028) stands in the file",
        "take it out; in a quoted value it can be written as \\u2028",
    ),
    (
        "another, in a comment",
        "key: {file: /none/key}\n# a\x85b\n",
        2,
        "a line break that is not seen (U+0085) stands in the file",
        "take it out; in a quoted value it can be written as \\u0085",
    ),
    (
        "bytes that are not UTF-8",
        b"key: {file: /none/key}\nhost: caf\xe9\n",
        2,
        "byte 0xe9 is not UTF-8",
        "save the file as UTF-8",
    ),
    (
        "UTF-16",
        b"\xff\xfek\x00e\x00y\x00:\x00 \x00{\x00f\x00i\x00l\x00e\x00:\x00 \x00/\x00n\x00o\x00n\x00e\x00/\x00k\x00e\x00y\x00}\x00\n\x00",
        1,
        "byte 0xff is not UTF-8",
        "save the file as UTF-8",
    ),
    (
        "a second document",
        ("", "---\nhost: other\n"),
        10,
        "a second YAML document begins here",
        "keep one configuration in one file, and take out the '---'",
    ),
    (
        "an alias of nothing",
        ("", "host: *other\n"),
        10,
        "the alias *other stands for nothing that was given before it",
        "give it with &other further up; or, where a value begins with *, put the value in quotes",
    ),
    (
        "a tag",
        ("", "host: !!python/object/apply:os.system ['true']\n"),
        10,
        "the tag 'tag:yaml.org,2002:python/object/apply:os.system' has no place in a configuration",
        "take the tag out; values are written plainly",
    ),
    (
        "brackets without end",
        "a: " + "[" * 40 + "\n",
        1,
        "values are nested more than 16 deep",
        "no part of a configuration nests that deep; look for brackets left open",
    ),
    (
        "an alias bomb",
        "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9)),
        5,
        "the file holds more than 20000 values, aliases counted as what they stand for",
        "write fewer models into one file, and take out aliases of aliases",
    ),
    (
        "a bracket that is not closed",
        "key: {file: /none/key\n",
        1,
        "the bracket that opens here is not closed, or a comma is missing in it",
        "close it, and put a comma between its parts",
    ),
    (
        "a quote that is not closed",
        'key: {file: /none/key}\nhost: "box\n',
        2,
        "the quote that opens here is not closed",
        "close it",
    ),
    (
        "a merge key",
        ("", "    <<: {project: chat}\n"),
        10,
        "merge keys (<<) are not supported",
        "write the keys out, or use an alias for the whole value",
    ),
    (
        "two colons",
        "host: box: 1\n",
        1,
        "a ': ' stands where no key can be",
        "indent keys of one mapping alike, and put values that hold ': ' in quotes",
    ),
    (
        "a value with an @ in front",
        ("", "host: @box\n"),
        10,
        "a value that begins with @ is not in quotes",
        'put it in quotes: host: "@box"',
    ),
    (
        "a value with a NUL",
        ("", 'host: "a\\0b"\n'),
        10,
        "a value holds a NUL character",
        "take the \\0 out of the value",
    ),
    (
        "a file beyond all bounds",
        b"#" * (MIB + 1),
        0,
        "the file is larger than 1 MiB, and so is no configuration",
        "see docs/configuration.md for what belongs into it",
    ),
]


def _text(edit: Edit) -> bytes:
    if isinstance(edit, bytes):
        return edit
    if isinstance(edit, str):
        return edit.encode()
    old, new = edit
    assert old in BASE
    return (BASE.replace(old, new, 1) if old else BASE + new).encode()


def test_the_base_of_all_cases_is_accepted(tmp_path: Path) -> None:
    file = tmp_path / "backupd.yaml"
    file.write_text(BASE)
    assert load_config(file, ENVIRONMENT).models["m"].path == Path("/none/model")


@pytest.mark.parametrize(
    ("edit", "line", "sentence", "mend"),
    [case[1:] for case in CASES],
    ids=[case[0].replace(" ", "-") for case in CASES],
)
def test_a_wrong_configuration_is_refused_with_line_and_mend_and_nothing_is_written(
    tmp_path: Path, edit: Edit, line: int, sentence: str, mend: str
) -> None:
    file = tmp_path / "backupd.yaml"
    file.write_bytes(_text(edit))
    before = (file.stat().st_mtime_ns, file.read_bytes())
    with pytest.raises(ConfigError) as caught:
        load_config(file, ENVIRONMENT)
    assert caught.value.file == str(file)
    assert (caught.value.line, caught.value.message, caught.value.hint) == (line, sentence, mend)
    assert str(caught.value) == f"{file}:{line}: {sentence}" if line else f"{file}: {sentence}"
    assert caught.value.exit_code == EXIT_USAGE
    assert [path.name for path in tmp_path.rglob("*")] == ["backupd.yaml"]
    assert (file.stat().st_mtime_ns, file.read_bytes()) == before
    assert not Path("/none").exists()

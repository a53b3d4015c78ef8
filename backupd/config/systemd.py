"""The drop-in that opens the hardened systemd unit for one configuration, and no further.

Pure text from settings and a few facts of the box, which `systemd_box` reads.
The man pages: systemd.exec(5), systemd.unit(5), systemd.syntax(7).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from backupd.config.load import (
    KEY_CREDENTIAL,
    NOTIFY_CREDENTIAL,
    PASSPHRASE_CREDENTIAL,
    s3_credential,
    s3_key_credential,
)
from backupd.config.settings import NasTarget, S3Target, Settings
from backupd.config.systemd_box import Box
from backupd.errors import ConfigError

# What ProtectHome= and PrivateTmp= of the unit put out of sight (systemd.exec(5)).
_HOMES = (Path("/home"), Path("/root"), Path("/run/user"))
_TEMPORARY = (Path("/tmp"), Path("/var/tmp"))  # noqa: S108 - names of folders, none is made
_PLAIN = re.compile(r"[A-Za-z0-9/._+@=,~-]+")
_UNIT_NAME = re.compile(r"[A-Za-z0-9:_.]")
_UNKNOWN_BOX = Box()
_IO_CLASSES = {"idle": "idle", "best-effort": "best-effort", "none": "best-effort"}


def render_drop_in(settings: Settings, box: Box = _UNKNOWN_BOX) -> str:
    """The text of the drop-in. `ConfigError` where a path cannot be written into a unit file."""
    unit = _unit_section(settings, box)
    service: list[str] = []
    if box.program:
        service += ["ExecStart=", "ExecStart=" + _command(box.program)]
    service += ["", *_sight(settings, box), "", *_writing(settings, box)]
    credentials = _credentials(settings)
    if credentials:
        service += ["", "# Secrets are read by systemd itself, and handed over in memory."]
        service += credentials
    if settings.key.passphrase_command:
        service += [
            "",
            "# key.passphrase_command runs inside of this sandbox. Where it needs more than",
            "# reading files, open that here, or use key.passphrase_file.",
        ]
    users = _network_users(settings)
    if users:
        service += [
            "",
            f"# {users} the network.",
            "PrivateNetwork=no",
            "IPAddressDeny=",
            "RestrictAddressFamilies=AF_INET AF_INET6",
        ]
    service += [
        "",
        f"Nice={settings.limits.nice}",
        f"IOSchedulingClass={_IO_CLASSES[settings.limits.io]}",
    ]
    if settings.limits.io == "best-effort":
        service.append("IOSchedulingPriority=7")
    head = [
        "# Made by `backupd config systemd`; make it again when models, targets or the key change.",
        f"# Configuration: {_comment(settings.source)}",
        "",
    ]
    return "\n".join([*head, *unit, "[Service]", *_tidy(service)]) + "\n"


def _network_users(settings: Settings) -> str:
    """What of the configuration needs the network, with its verb; empty where nothing does."""
    users = []
    if any(isinstance(target, S3Target) for target in settings.targets.values()):
        users.append("An S3 target")
    if settings.notify.enabled:
        users.append("notify")
    if any(_pushes(settings)):
        users.append("git push")
    if settings.status_listen:
        users.append("the status page")
    if not users:
        return ""
    text = " and ".join(users)
    return f"{text[0].upper()}{text[1:]} {'need' if len(users) > 1 else 'needs'}"


def _unit_section(settings: Settings, box: Box) -> list[str]:
    """Mounts are waited for, and not required: when a NAS is away the other targets go on.

    RequiresMountsFor= would keep the daemon from starting, and stop it when the NAS goes.
    """
    mounts: dict[str, None] = {}
    for target in settings.targets.values():
        if isinstance(target, NasTarget):
            mount = _mount_of(target.path, box.mount_points)
            for folder in [mount] if mount else [target.path, *target.path.parents]:
                if folder != Path("/"):
                    mounts[_mount_unit(folder)] = None
    lines = [f"RequiresMountsFor={_listed(settings.state_dir)}"]
    if mounts:
        lines.append("# A NAS is waited for, and not required: the other targets go on without it.")
        lines += [f"{key}={mount}" for mount in mounts for key in ("Wants", "After")]
    return ["[Unit]", *lines, ""]


def _mount_of(path: Path, mount_points: Iterable[Path]) -> Path | None:
    """The mount point that holds `path`, when it is another than the root."""
    holding = [point for point in mount_points if point != Path("/") and path.is_relative_to(point)]
    return max(holding, key=lambda point: len(point.parts), default=None)


def _mount_unit(folder: Path) -> str:
    """systemd.unit(5), "String escaping for inclusion in unit names"."""
    text = str(folder).strip("/")
    escaped = ""
    for index, byte in enumerate(os.fsencode(text)):
        character = chr(byte)
        if character == "/":
            escaped += "-"
        elif _UNIT_NAME.fullmatch(character) and not (index == 0 and character == "."):
            escaped += character
        else:
            escaped += f"\\x{byte:02x}"
    return escaped + ".mount"


def _sight(settings: Settings, box: Box) -> list[str]:
    """What must be seen: ProtectSystem=strict shows everything read-only but homes and /tmp.

    These are opened whole and not bound one by one: a bind mount holds on to the folder of the
    moment, and a model that is made anew under its name would be out of sight.
    """
    seen = [model.path for model in settings.models.values()] + list(box.code)
    seen += [settings.source, settings.state_dir]
    seen += [model.code.path for model in settings.models.values() if model.code is not None]
    if any(_pushes(settings)):
        # Its credentials and known hosts are in its owner's home.
        seen.append(_HOMES[0])
    for target in settings.targets.values():
        if not isinstance(target, S3Target):
            seen.append(target.path)
        elif target.ca_bundle is not None:
            seen.append(target.ca_bundle)
    real = seen + [Path(os.path.realpath(path)) for path in seen]
    lines = []
    if any(path.is_relative_to(home) for path in real for home in _HOMES):
        lines += ["# Something of the configuration lies in a home.", "ProtectHome=read-only"]
    if any(path.is_relative_to(folder) for path in real for folder in _TEMPORARY):
        lines += ["# Something of the configuration lies in /tmp.", "PrivateTmp=no"]
    return lines


def _pushes(settings: Settings) -> Iterator[bool]:
    for model in settings.models.values():
        yield model.code is not None and model.code.git == "push"


def _writing(settings: Settings, box: Box) -> list[str]:
    lines = ["# The state and the targets are all that is written to."]
    lines.append(f"ReadWritePaths={_listed(settings.state_dir, optional=True)}")
    for target in settings.targets.values():
        if isinstance(target, S3Target):
            continue
        path = target.path
        if isinstance(target, NasTarget):
            # The mount point itself, where it is mounted: a mount of our own within it would
            # keep the NAS from being unmounted and mounted again.
            path = _mount_of(path, box.mount_points) or path
        lines.append(f"ReadWritePaths={_listed(path, optional=True)}")
    if any(
        target.path in box.foreign_folders
        for target in settings.targets.values()
        if not isinstance(target, S3Target)
    ):
        lines += [
            "# A target's folder does not belong to root.",
            "CapabilityBoundingSet=CAP_DAC_OVERRIDE",
        ]
    if box.git_folders:
        lines += ["", "# Versions are committed to a side branch of the code's repository."]
        lines += [f"ReadWritePaths={_listed(place, optional=True)}" for place in box.git_folders]
    if box.foreign_code:
        lines += [
            "# git runs as the repository's owner.",
            "CapabilityBoundingSet=CAP_SETUID CAP_SETGID",
            "SystemCallFilter=@setuid",
        ]
    if box.cloning:
        lines += [
            "",
            "# These models lie where files can be cloned before they are read, which keeps what",
            "# changes meanwhile apart. It takes the right to write there, so it is yours to give:",
        ]
        lines += [f"#   ReadWritePaths={_listed(model.parent)}" for model in box.cloning]
        lines.append("#   CapabilityBoundingSet=CAP_DAC_OVERRIDE")
    return lines


def _credentials(settings: Settings) -> list[str]:
    files: list[tuple[str, Path | None]] = [
        (KEY_CREDENTIAL, settings.key.file),
        (PASSPHRASE_CREDENTIAL, settings.key.passphrase_file),
        (NOTIFY_CREDENTIAL, settings.notify.urls_file),
    ]
    for target in settings.targets.values():
        if isinstance(target, S3Target):
            files.append((s3_credential(target.name), target.credentials_file))
            files.append((s3_key_credential(target.name), target.sse_customer_key_file))
    lines = []
    for name, path in files:
        if path is not None:
            text = _checked(path)
            if text != text.strip() or text.endswith("\\"):
                raise ConfigError(
                    f"systemd cannot be given {text!r}, which ends in a blank or a backslash",
                    hint="rename the file",
                )
            # LoadCredential= takes the rest of the line as it is, but for specifiers.
            lines.append(f"LoadCredential={name}:{text.replace('%', '%%')}")
    return lines


def _checked(path: Path) -> str:
    text = str(path)
    if not text.isprintable():
        raise ConfigError(
            f"systemd cannot be given {text!r}, which holds characters that no unit file can",
            hint="rename the folder, or run backupd without the generated drop-in",
        )
    return text


def _listed(path: Path, *, optional: bool = False) -> str:
    """A path for a list of paths: quotes as in a shell, and within them backslashes doubled.

    With `optional` an absent one does not keep the unit from starting.
    """
    text = ("-" if optional else "") + _checked(path).replace("%", "%%")
    if _PLAIN.fullmatch(text):
        return text
    return _quoted(text.replace("\\", "\\\\"))


def _quoted(text: str) -> str:
    """Single quotes around everything but single quotes, and double ones around those."""
    return "".join(
        f'"{part}"' if part.startswith("'") else f"'{part}'"
        for part in re.findall(r"'+|[^']+", text)
    )


def _command(program: Sequence[str]) -> str:
    """A command line: variables are replaced in its arguments, and not in its first word."""
    first, *arguments = program
    return " ".join([_word(first), *(_word(part.replace("$", "$$")) for part in arguments)])


def _word(text: str) -> str:
    """A word of a command line: systemd.service(5) knows quotes, C escapes and %."""
    if not text.isprintable():
        raise ConfigError(
            f"systemd cannot be given {text!r}, which holds characters that no unit file can",
            hint="install backupd elsewhere",
        )
    escaped = text.replace("%", "%%")
    if _PLAIN.fullmatch(escaped):
        return escaped
    return '"' + escaped.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _comment(path: Path) -> str:
    return "".join(character if character.isprintable() else "?" for character in str(path))


def _tidy(lines: list[str]) -> list[str]:
    """No blank line at the start, and never two."""
    kept: list[str] = []
    for line in lines:
        if line or (kept and kept[-1]):
            kept.append(line)
    return kept

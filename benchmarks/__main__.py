"""`python -m benchmarks`: builds the inputs, measures every program on them, prints the tables."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import inputs, report, rounds
from benchmarks.measure import CommandFailedError
from benchmarks.peers import PEERS, Peer
from benchmarks.promises import promises

UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def parse_size(text: str) -> int:
    """Bytes that a text such as 2G or 512M means."""
    number, unit = (text[:-1], UNITS[text[-1].upper()]) if text[-1:].isalpha() else (text, 1)
    return int(float(number) * unit)


def parse_names(text: str) -> list[str]:
    names = list(inputs.NAMES) if text == "all" else text.split(",")
    for name in names:
        if name not in inputs.NAMES:
            raise argparse.ArgumentTypeError(
                f"no input is named {name}; there are {', '.join(inputs.NAMES)} and all"
            )
    return names


def parse_peers(text: str) -> list[type[Peer]]:
    try:
        return [PEERS[name] for name in text.split(",")]
    except KeyError as error:
        raise argparse.ArgumentTypeError(
            f"no peer is named {error.args[0]}; there are {', '.join(PEERS)}"
        ) from None


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--inputs",
        type=parse_names,
        default="large,small",
        metavar="NAMES",
        help=f"which of {', '.join(inputs.NAMES)}, or all (default: large,small)",
    )
    parser.add_argument(
        "--peers",
        type=parse_peers,
        default="cp,rsync,restic,borg,backupd",
        metavar="NAMES",
        help=f"which of {', '.join(PEERS)} (default: all but restic-max)",
    )
    parser.add_argument(
        "--against",
        type=lambda text: text.split(","),
        default="restic,cp",
        metavar="NAMES",
        help="the peers that ratios are held to (default: restic,cp)",
    )
    parser.add_argument("--repeat", type=int, default=5, metavar="N", help="rounds (default: 5)")
    parser.add_argument(
        "--size", type=parse_size, default="2G", help="bytes of `large` (default: 2G)"
    )
    parser.add_argument(
        "--series", action="store_true", help="also snapshot the trained inputs as they grew"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="every single value, as JSON")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="the tables, as a file too")
    parser.add_argument(
        "--work", type=Path, metavar="DIR", help="where to work (default: a folder on /dev/shm)"
    )
    parser.add_argument(
        "--cache",
        type=Path,
        default=inputs.default_cache(),
        metavar="DIR",
        help="where trained inputs are kept (default: %(default)s)",
    )
    parser.add_argument(
        "--prepare", action="store_true", help="train the inputs that the cache lacks, and end"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> int:
    """Run the benchmark; 0 when every program was there and did its work."""
    options = arguments(argv)
    try:
        if options.prepare:
            inputs.ensure_trained(options.cache)
            return 0
        missing = [text for text in (peer.missing() for peer in options.peers) if text]
        if missing:
            print("\n".join(missing), file=sys.stderr)
            return 1
        return _measure(options)
    except (CommandFailedError, rounds.WrongBytesError, RuntimeError, OSError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1


def _measure(options: argparse.Namespace) -> int:
    machine = report.describe_machine()
    for peer in options.peers:
        machine[peer.name] = _version(peer)
    parent = options.work or Path("/dev/shm")
    parent.mkdir(parents=True, exist_ok=True)
    results, tables = [], []
    for name in options.inputs:
        work = Path(tempfile.mkdtemp(prefix="backupd-benchmark-", dir=parent))
        try:
            given = inputs.build(name, work, size_bytes=options.size, cache=options.cache)
            _refuse_a_full_disk(given, work)
            figures = rounds.measure(
                given, options.peers, work=work, repeat=options.repeat, series=options.series
            )
        finally:
            shutil.rmtree(work, ignore_errors=True)
        tables.append(report.markdown(given, figures, against=options.against, machine=machine))
        results.append(report.as_json(given, figures))
        print(tables[-1], flush=True)
        # After each input, so that an interrupted run leaves what it had.
        if options.json:
            options.json.write_text(
                json.dumps({"machine": machine, "results": results}, indent=1) + "\n"
            )
        if options.markdown:
            options.markdown.write_text("\n".join(tables))
    held = promises(results)
    if held:
        print(held)
        if options.markdown:
            options.markdown.write_text("\n".join([*tables, held]))
    return 0


def _version(peer: type[Peer]) -> str:
    """The version as the program states it, without its own name."""
    command = peer.version()
    said = subprocess.run(
        command.arguments, cwd=command.directory, capture_output=True, text=True, check=False
    ).stdout
    words = said.split("\n", 1)[0].split()
    return next((word for word in words if word[:1].isdigit()), "unknown")


def _refuse_a_full_disk(given: inputs.Input, work: Path) -> None:
    """A repository, a restored copy and a change must fit beside the input."""
    needed, free = int(given.size_bytes * 2.5), shutil.disk_usage(work).free
    if free < needed:
        raise RuntimeError(
            f"{given.name} needs {needed >> 20} MiB in {work.parent}, which has {free >> 20} MiB;"
            " choose another place with --work or a smaller --size"
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

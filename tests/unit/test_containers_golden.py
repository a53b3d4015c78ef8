"""What real libraries wrote is found where and as those libraries hold it to be."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from backupd.capture.containers import identify, read_at_descriptor

GOLDEN = Path(__file__).parents[1] / "golden" / "containers"
EXPECTED = json.loads((GOLDEN / "expected.json").read_text())


@pytest.mark.parametrize("name", EXPECTED)
def test_a_file_of_a_real_library_gives_its_tensors_with_their_bytes(name: str) -> None:
    data = (GOLDEN / name).read_bytes()
    fd = os.open(GOLDEN / name, os.O_RDONLY)
    try:
        layout = identify(read_at_descriptor(fd), len(data), name.encode())
    finally:
        os.close(fd)
    expected = EXPECTED[name]
    if expected["kind"] is None:
        assert layout is None
        return
    assert layout is not None
    assert layout.kind == expected["kind"]
    found = [
        {
            "name": tensor.name,
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "sha256": hashlib.sha256(
                data[tensor.offset : tensor.offset + tensor.size_bytes]
            ).hexdigest(),
        }
        for tensor in layout.tensors
    ]

    def by_name(row: dict[str, object]) -> str:
        return str(row["name"])

    assert sorted(found, key=by_name) == sorted(expected["tensors"], key=by_name)


def test_every_golden_file_is_expected() -> None:
    stored = {path.name for path in GOLDEN.iterdir()}
    assert stored - {"make.py", "expected.json", "__pycache__"} == set(EXPECTED)


def test_a_file_is_told_by_its_content_and_not_by_its_name() -> None:
    for name, expected in EXPECTED.items():
        data = (GOLDEN / name).read_bytes()
        layout = identify(lambda at, n, d=data: d[at : at + n], len(data), b"anything.txt")
        assert (layout.kind if layout else None) == expected["kind"]


def test_the_pickle_reader_needs_no_library_that_could_load_it() -> None:
    code = (
        "import sys\n"
        "from backupd.capture.containers import identify, read_at_descriptor\n"
        "import os\n"
        f"fd = os.open({str(GOLDEN / 'checkpoint.pt')!r}, os.O_RDONLY)\n"
        "assert identify(read_at_descriptor(fd), os.fstat(fd).st_size, b'').tensors\n"
        "loaders = {'pickle', '_pickle', 'torch', 'numpy', 'zipfile'} & set(sys.modules)\n"
        "print(sorted(loaders - {'pickle', '_pickle'}), 'torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] False"

"""Makes the golden repository of the codec: `python -m tests.golden.codec1.make DIR`.

It was made once and is never made anew: every later version must read what is stored here. Two
snapshots of one model, the second of which is mostly differences from the first; together they
hold codecs 0 to 3, of elements of 1, 2, 4 and 8 bytes, and every container of `../containers`.
`repository.tar.gz` is the repository, without encryption, `expected.json` is what each snapshot
must give back.
"""

from __future__ import annotations

import io
import json
import shutil
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np

from backupd.config.settings import (
    KeySettings,
    LimitsSettings,
    LocalTarget,
    ModelSettings,
    Settings,
)
from backupd.operations.installation import Installation
from backupd.operations.setup import initialise
from backupd.operations.snapshot import take_snapshot
from tests.golden.format1.make import set_times
from tests.golden.format1.manifest import manifest_of
from tests.support.checkpoints import bfloat16, trained, weights, write_safetensors

HOST = "golden"
MODEL = "llama"
CONTAINERS = Path(__file__).parents[1] / "containers"


def write_checkpoint(folder: Path, step: int) -> None:
    """Tensors of every width, as safetensors, as npz and as bare arrays."""
    values = weights(1, 10_000)
    if step:
        values = trained(values, step)
    write_safetensors(
        folder / "model.safetensors",
        {
            "f32": values.reshape(50, 200),
            "bf16": bfloat16(values),
            "f16": values.astype(np.float16),
            "f64": values.astype(np.float64),
            "i32": (values * 1e4).astype(np.int32),
            "i8": (values * 1e3).astype(np.int8),
            "frozen": weights(2, 10_000),
            "odd": values[:8_501],
            "scalar": np.array(step, np.int64),
            "empty": np.zeros((0, 5), np.float32),
        },
    )
    np.save(folder / "exp_avg_sq.npy", np.square(values))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in (("weight", values), ("bias", values[:500].astype(np.float64))):
            entry = io.BytesIO()
            np.save(entry, array)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), entry.getvalue())
    (folder / "optimizer.npz").write_bytes(buffer.getvalue())
    (folder / "raw.bin").write_bytes(values.tobytes())
    (folder / "trainer_state.json").write_text(json.dumps({"step": step, "log": [0.25] * 5000}))


def main(out: Path) -> None:
    work = out / "work"
    model = work / "model"
    settings = Settings(
        source=work / "backupd.yaml",
        state_dir=work / "state",
        host=HOST,
        key=KeySettings(encryption=False),
        targets={"disk": LocalTarget("disk", work / "repo")},
        policies={},
        models={MODEL: ModelSettings(MODEL, model, {"disk": ()})},
        limits=LimitsSettings(threads=1),
    )
    expected: dict[str, object] = {}
    clock = iter(range(1_800_000_000, 1_900_000_000))
    noise = np.random.default_rng(20261124)
    with Installation(
        settings, environment={}, clock=lambda: float(next(clock)), random=noise.bytes
    ) as installation:
        initialise(installation)
        shutil.copytree(
            CONTAINERS, model / "containers", ignore=shutil.ignore_patterns("*.py", "__pycache__")
        )
        for version in (1, 2):
            write_checkpoint(model / f"checkpoint-{version * 500}", version - 1)
            set_times(model)
            report = take_snapshot(installation, settings.models[MODEL])
            assert report.snapshot is not None and not report.partial, report
            expected[str(version)] = manifest_of(model)
    shutil.rmtree(work / "repo" / ".tmp", ignore_errors=True)
    with tarfile.open(out / "repository.tar.gz", "w:gz") as tar:
        tar.add(work / "repo", "repo")
    (out / "expected.json").write_text(json.dumps(expected, indent=1, sort_keys=True) + "\n")
    shutil.rmtree(work)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

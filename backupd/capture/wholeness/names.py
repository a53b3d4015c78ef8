"""Which files a checkpoint is made of, by their names.

Only these hold a snapshot up: a log that grows for weeks must not.
"""

from __future__ import annotations

import re

ZIP_SUFFIXES = (b".npz", b".keras")
# Zip archives since torch 1.6, pickles before; nothing that tells may be there yet.
TORCH_SUFFIXES = (b".pt", b".pth", b".ckpt", b".bin", b".distcp")
HDF5_SUFFIXES = (b".h5", b".hdf5")
PICKLE_SUFFIXES = (b".pkl", b".pickle", b".joblib")
NEVER_EMPTY = (
    *ZIP_SUFFIXES,
    *TORCH_SUFFIXES,
    *HDF5_SUFFIXES,
    *PICKLE_SUFFIXES,
    b".safetensors",
    b".gguf",
    b".npy",
    b".pb",
)
"""Suffixes of files that hold something as soon as they are whole."""

_SUFFIXES = (*NEVER_EMPTY, b".msgpack", b".onnx", b".tflite", b".meta", b".tar")

# tensorflow/core/util/tensor_bundle/naming.cc; the index's name is checked with its data files.
TENSORFLOW_DATA = re.compile(rb"(.+)\.data-(\d{5})-of-(\d{5})\Z", re.DOTALL)
TENSORFLOW_INDEX = b".index"
# huggingface_hub's split_torch_state_dict_into_shards, and what came before it.
SHARD = re.compile(rb"(.+)-(\d{5})-of-(\d{5})(\.[A-Za-z0-9_.]+)\Z", re.DOTALL)
SHARD_INDEX = b".index.json"
# transformers.trainer: PREFIX_CHECKPOINT_DIR and TRAINER_STATE_NAME.
TRAINER_FOLDER = re.compile(rb"checkpoint-\d+\Z")
TRAINER_STATE = b"trainer_state.json"
TRAINER_MARKS = (b"training_args.bin", b"optimizer.pt", b"scheduler.pt", b"rng_state.pth")
# deepspeed.runtime.engine: _get_ckpt_name, _get_zero_ckpt_name and the file `latest`.
DEEPSPEED_RANK = re.compile(
    rb"(?:bf16_)?(?:zero_pp_rank_(\d+)_)?mp_rank_(\d+)(?:_\w+)?_(model|optim)_states\.pt\Z"
)
# torch.distributed.checkpoint.filesystem: `__RANK_NUMBER.distcp`, then `.metadata`.
DISTRIBUTED = re.compile(rb"__(\d+)_(\d+)\.distcp\Z")
DISTRIBUTED_METADATA = b".metadata"
LATEST = (b"latest", b"latest_checkpointed_iteration.txt")
SAVED_MODEL = (b"saved_model.pb", b"saved_model.pbtxt")

_WHOLE_NAMES = frozenset({TRAINER_STATE, DISTRIBUTED_METADATA, *LATEST, *SAVED_MODEL})


def is_checkpoint_name(name: bytes) -> bool:
    """Whether a file of this name (the last component) may be part of a checkpoint."""
    lower = name.lower()
    return (
        lower.endswith(_SUFFIXES)
        or lower.endswith((SHARD_INDEX, TENSORFLOW_INDEX))
        or name in _WHOLE_NAMES
        or TENSORFLOW_DATA.match(name) is not None
    )

"""zstd frames made by Huffman coding almost alone, for planes in which little repeats.

zstd's fast strategy still spends more than half of its time on a search for matches. With a large
`target_length` it looks at few places, but leaves literals uncoded unless it is told otherwise, by
a parameter (`ZSTD_c_literalCompressionMode`, zstd.h) that zstandard's classes do not take. The
library that it ships takes it. The frames are ordinary ones, and any zstd decoder reads them.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from backupd.codec.plane_kernels import Bytes

_MAGICLESS = 1  # ZSTD_f_zstd1_magicless
_FAST = 1  # ZSTD_fast
_CODED = 1  # ZSTD_ps_enable
_STEP = 64  # places passed over between two looks for a match; long runs are still found


class HuffmanCompressor:
    """One thread's own, as its buffer is kept. Raises `LookupError` where the library lacks it."""

    @classmethod
    def made(cls, *, min_match: int, hash_log: int, window_log: int) -> HuffmanCompressor | None:
        """One with these parameters of zstd's, or None where zstandard does not ship the library
        in this form."""
        try:
            return cls(min_match=min_match, hash_log=hash_log, window_log=window_log)
        except LookupError:
            return None

    def __init__(self, *, min_match: int, hash_log: int, window_log: int) -> None:
        try:
            self._module: Any = importlib.import_module("zstandard._cffi")
            lib = self._module.lib
            self._context = self._module.ffi.gc(lib.ZSTD_createCCtx(), lib.ZSTD_freeCCtx)
            parameters = {
                lib.ZSTD_c_format: _MAGICLESS,
                lib.ZSTD_c_strategy: _FAST,
                lib.ZSTD_c_minMatch: min_match,
                lib.ZSTD_c_hashLog: hash_log,
                lib.ZSTD_c_windowLog: window_log,
                lib.ZSTD_c_targetLength: _STEP,
                lib.ZSTD_c_literalCompressionMode: _CODED,
            }
            for parameter, value in parameters.items():
                if lib.ZSTD_isError(lib.ZSTD_CCtx_setParameter(self._context, parameter, value)):
                    raise LookupError(f"zstd refuses {value} for its parameter {parameter}")
        except (ImportError, AttributeError) as error:
            raise LookupError(str(error)) from None
        self._out = np.empty(0, np.uint8)

    def compress(self, plane: memoryview) -> Bytes:
        """The plane as a frame, good until the next call."""
        ffi, lib = self._module.ffi, self._module.lib
        bound = lib.ZSTD_compressBound(len(plane))
        if self._out.size < bound:
            self._out = np.empty(bound, np.uint8)
        size = lib.ZSTD_compress2(
            self._context,
            ffi.from_buffer(self._out.data),
            self._out.size,
            ffi.from_buffer(plane),
            len(plane),
        )
        if lib.ZSTD_isError(size):
            raise ValueError(ffi.string(lib.ZSTD_getErrorName(size)).decode())
        return self._out[:size]

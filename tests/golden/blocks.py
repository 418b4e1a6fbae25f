#!/usr/bin/env python3
"""Makes tests/unit/data/blocks.bin: random blocks of every weight format and what the gguf package reads from them.

usage: tests/golden/blocks.py OUT.bin        (needs: pip install gguf numpy)

The file is, per format: u32 ggml type, u32 number of elements, the blocks' bytes, the elements as f32. Block bytes
are random but for the f16 scales, which are finite and cover normal, subnormal, zero and negative values.
"""
import struct
import sys

import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf import GGML_QUANT_SIZES, quants

# Format: byte offsets of the f16 fields in a block.
FORMATS = {
    Type.F32: [], Type.F16: [], Type.BF16: [],
    Type.Q4_0: [0], Type.Q4_1: [0, 2], Type.Q5_0: [0], Type.Q5_1: [0, 2], Type.Q8_0: [0],
    Type.Q4_K: [0, 2], Type.Q5_K: [0, 2], Type.Q6_K: [208],
}
N_ELEMS = 1024


def blocks_of(kind, halves, rng):
    """Random rows of one format as a (1, row bytes) array."""
    elems, size = GGML_QUANT_SIZES[kind]
    if kind == Type.F32:
        return rng.standard_normal((1, N_ELEMS), dtype=np.float32).view(np.uint8)
    if kind in (Type.F16, Type.BF16):
        words = rng.integers(0, 0x7800, (1, N_ELEMS), dtype=np.uint16)
        return (words | rng.integers(0, 2, words.shape, dtype=np.uint16) << 15).view(np.uint8)
    blocks = rng.integers(0, 256, (N_ELEMS // elems, size), dtype=np.uint8)
    for at in halves:
        scale = rng.standard_normal((len(blocks), 1)) * 10.0 ** rng.integers(-7, 2, (len(blocks), 1))
        scale[0] = 0.0
        blocks[:, at:at + 2] = scale.astype("<f2").view(np.uint8)
    return blocks.reshape(1, -1)


def main():
    rng = np.random.default_rng(20240607)
    with open(sys.argv[1], "wb") as out:
        for kind, halves in FORMATS.items():
            rows = np.ascontiguousarray(blocks_of(kind, halves, rng))
            if kind == Type.F32:
                values = rows.view(np.float32)
            elif kind == Type.F16:
                values = rows.view(np.float16).astype(np.float32)
            else:
                values = quants.dequantize(rows, kind)
            assert values.dtype == np.float32 and values.size == N_ELEMS
            out.write(struct.pack("<II", int(kind), N_ELEMS))
            out.write(rows.tobytes())
            out.write(np.ascontiguousarray(values).tobytes())


if __name__ == "__main__":
    main()

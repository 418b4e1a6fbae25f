#!/usr/bin/env python3
"""Adds to a GGUF file what a model trained for DMS needs (docs/dms.md).

    tools/setup/oracle tools/dms.py IN.gguf OUT.gguf --form separate|borrowed --window N --shift 0|1
                       [--scale 100] [--offset 5] [--tensors FILE.safetensors …]
    tools/setup/oracle tools/dms.py FILE.gguf --shift 0|1          changes the shift of such a file, in place

IN.gguf holds the checkpoint's weights as llama.cpp's converter writes them. --tensors, for form separate: the files
with model.layers.N.self_attn.dms_proj_alpha.weight and dms_proj_alpha_norm.weight (F32, F16 or BF16).
"""
import argparse
import json
import re
import struct
import sys

import gguf
import numpy as np

TYPES = gguf.GGMLQuantizationType
NAMES = {"dms_proj_alpha.weight": "attn_dms.weight", "dms_proj_alpha_norm.weight": "attn_dms_norm.weight"}


def adapter(path):
    """Name in the GGUF file and values (float32) of every DMS tensor of a safetensors file."""
    with open(path, "rb") as f:
        n = struct.unpack("<Q", f.read(8))[0]
        header = json.loads(f.read(n))
        for name, about in header.items():
            match = re.search(r"layers\.(\d+)\.self_attn\.(dms_\w+\.\w+)$", name)
            if not match:
                continue
            if match[2] not in NAMES:
                sys.exit(f"{path}: {name} has no place in the file: projections with a bias are not supported")
            first, end = about["data_offsets"]
            f.seek(8 + n + first)
            raw = f.read(end - first)
            if about["dtype"] == "BF16":
                values = (np.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4")
            else:
                values = np.frombuffer(raw, {"F32": "<f4", "F16": "<f2"}[about["dtype"]]).astype("<f4")
            yield f"blk.{match[1]}.{NAMES[match[2]]}", values.reshape(about["shape"])


def set_shift(path, shift):
    field = gguf.GGUFReader(path, "r+").fields.get("kept.dms.shift")
    if field is None:
        sys.exit(f"{path} has no kept.dms.shift")
    field.parts[field.data[0]][0] = shift          # mapped memory


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("target", nargs="?")
    parser.add_argument("--form", choices=["separate", "borrowed"])
    parser.add_argument("--window", type=int)
    parser.add_argument("--shift", type=int, choices=[0, 1], required=True)
    parser.add_argument("--scale", type=float, default=100.0)
    parser.add_argument("--offset", type=float, default=5.0)
    parser.add_argument("--tensors", nargs="*", default=[])
    args = parser.parse_args()
    if not args.target:
        return set_shift(args.source, args.shift)
    if not args.form or not args.window:
        parser.error("--form and --window are needed")

    reader = gguf.GGUFReader(args.source)
    writer = gguf.GGUFWriter(args.target, reader.fields["general.architecture"].contents())
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            sub = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), field.types[0], sub_type=sub)
    writer.add_string("kept.dms.form", args.form)
    writer.add_uint32("kept.dms.window", args.window)
    writer.add_uint32("kept.dms.shift", args.shift)
    writer.add_float32("kept.dms.scale", args.scale)
    writer.add_float32("kept.dms.offset", args.offset)
    rough = [t.name for t in reader.tensors if t.name.endswith("attn_q.weight") and t.tensor_type > TYPES.F16
             and t.tensor_type not in (TYPES.BF16, TYPES.Q8_0)]
    if args.form == "borrowed" and rough:
        print(f"warning: {rough[0]} and {len(rough) - 1} others make the decisions and have less than 8 bits",
              file=sys.stderr)
    for t in reader.tensors:
        writer.add_tensor(t.name, t.data, raw_shape=t.data.shape, raw_dtype=t.tensor_type)
    found = [pair for path in args.tensors for pair in adapter(path)]
    layers = reader.fields[f"{reader.fields['general.architecture'].contents()}.block_count"].contents()
    if len(found) != (2 * layers if args.form == "separate" else 0):
        sys.exit(f"{len(found)} DMS tensors, form {args.form} of {layers} layers has "
                 f"{2 * layers if args.form == 'separate' else 0}")
    for name, values in found:
        writer.add_tensor(name, np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


main()

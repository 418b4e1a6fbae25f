#!/usr/bin/env python3
"""A bounded past on two devices gives the same logits: backends_kl.c on the text of kept_sets.json.

    backends_kl.py PROGRAM MODEL_NAME SIDECAR DEVICE DEVICE READ GIVEN

Needs the model in the cache (tools/check puts it there); exit code 77 where it or a device lacks.
"""
import json
import os
import pathlib
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "kept"


def main():
    program, name, sidecar, *rest = sys.argv[1:]
    model = CACHE / "models" / name
    if not model.exists():
        print(f"skipped: {model} is not there: tools/check puts it there")
        sys.exit(77)
    with tempfile.TemporaryDirectory() as folder:
        ids = pathlib.Path(folder) / "ids"
        ids.write_text(" ".join(map(str, json.loads((HERE / "kept_sets.json").read_text(encoding="utf-8"))["ids"])))
        sys.exit(subprocess.run([program, model, sidecar, ids, *rest], stdin=subprocess.DEVNULL).returncode)


main()

#!/usr/bin/env python3
"""What a bounded session keeps of a real text, against an independent implementation (kept_sets.json):

    kept_sets.py PROGRAM MODEL_NAME DEVICE     PROGRAM: the executable of kept_sets.c

window    the same positions in every head
keydiff   mean Jaccard index of the heads' sets at least 0.998, and 0.98 in every head
expected  the same; of slots that both keep 99.5 % have biases within 0.05

What is left is a choice between two slots that are nearly equal; it changes what the layers above see.

Needs the model in the cache (tools/check puts it there); exit code 77 where it or the device lacks.
"""
import array
import base64
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import zlib

HERE = pathlib.Path(__file__).resolve().parent
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "kept"
SKIP = 77
OPTIONS = {"expected": ["scorer", "0"], "keydiff": ["scorer", "2", "merge", "0"], "window": ["mode", "1"]}
STEPS = 100                                                      # stored biases: hundredths


def skip(why):
    print(f"skipped: {why}")
    sys.exit(SKIP)


def unpack(text):
    return zlib.decompress(base64.b64decode(text))


def sets_of(raw, tokens):
    """Bit t % 8 of byte t / 8 of a head's bytes: the token at position t was kept."""
    size = tokens // 8
    heads = [raw[i:i + size] for i in range(0, len(raw), size)]
    return [[t for t in range(tokens) if head[t // 8] >> t % 8 & 1] for head in heads]


def biases_of(raw, sets):
    """Of the kept tokens in order, as unsigned 16-bit little-endian hundredths."""
    flat = array.array("H", raw)
    if sys.byteorder == "big":
        flat.byteswap()
    values = iter(flat)
    return [{t: next(values) / STEPS for t in kept} for kept in sets]


def run(program, model, device, golden, scorer, folder):
    ids, budgets = pathlib.Path(folder) / "ids", pathlib.Path(folder) / "budgets"
    ids.write_text(" ".join(map(str, golden["ids"])))
    budgets.write_text(" ".join(map(str, golden["budgets"])))
    args = [program, model, ids, device, golden["tokens"], "budget", golden["mean"], "window", golden["window"],
            "sinks", golden["sinks"], "block", golden["block"], "refresh", golden["block"], *OPTIONS[scorer]]
    if scorer != "window":
        args += ["budgets", budgets]
    p = subprocess.run([str(a) for a in args], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if p.returncode:
        sys.exit(f"{scorer}: exit code {p.returncode}\n{p.stderr}")
    out = json.loads(p.stdout)
    flat = [[b for layer in out[name] for b in layer] for name in ("kept", "bias")]
    return flat[0], [dict(zip(kept, bias)) for kept, bias in zip(*flat)]


def jaccard(a, b):
    a, b = set(a), set(b)
    return len(a & b) / len(a | b)


def check_biases(got, want):
    pairs = [(g[t], w[t]) for g, w in zip(got, want) for t in g.keys() & w.keys()]
    close = sum(abs(g - w) <= 0.05 for g, w in pairs) / len(pairs)
    print(f"expected: {close:.2%} of {len(pairs)} biases within 0.05")
    return close >= 0.995 and any(w > 0.05 for _, w in pairs)


def check(golden, scorer, kept, biases):
    want = sets_of(unpack(golden["sets"][scorer]), golden["tokens"])
    if len(want) != len(kept) or list(map(len, kept)) != list(map(len, want)):
        print(f"{scorer}: other numbers of slots: {list(map(len, kept))}")
        return False
    shares = [jaccard(a, b) for a, b in zip(kept, want)]
    mean, close = sum(shares) / len(shares), sum(s >= 0.99 for s in shares)
    print(f"{scorer}: Jaccard mean {mean:.5f}, least {min(shares):.4f}, 0.99 or more in {close} of {len(shares)}")
    if scorer == "window":
        return kept == want
    good = mean >= 0.998 and min(shares) >= 0.98
    return good and (scorer != "expected" or check_biases(biases, biases_of(unpack(golden["biases"]), want)))


def main():
    program, name, device = sys.argv[1:]
    model = CACHE / "models" / name
    if not model.exists():
        skip(f"{model} is not there: tools/check puts it there")
    golden = json.loads((HERE / "kept_sets.json").read_text(encoding="utf-8"))
    good = True
    with tempfile.TemporaryDirectory() as folder:
        for scorer in OPTIONS:
            good &= check(golden, scorer, *run(program, model, device, golden, scorer, folder))
    sys.exit(not good)


main()

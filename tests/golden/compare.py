#!/usr/bin/env python3
"""Compares logits that the program wrote with the oracle's.

    tools/setup/oracle tests/golden/compare.py MODEL TEXT LOGITS... [--kl 1e-4] [--top1 0.99] [--tokens N]

LOGITS: raw little-endian float32 [n][vocab], the logits after each of the first n tokens of TEXT (BOS first where the
model adds one) as one sequence, as `kept eval logits MODEL -f TEXT --out FILE` writes them. Prints for each file the
mean and largest KL divergence and the share of equal top choices; the exit code is 1 when a limit is broken. With
--tokens only the first N rows count, and fewer are an error.
"""
import argparse
import os
import pathlib
import sys

import numpy as np

import oracle
import tokens


def compare(logp, logits):
    """Two arrays [rows][vocab] of log-probabilities and logits: KL(oracle || program) and top-1 agreement by row."""
    mine = oracle.log_softmax(logits.astype(np.float64))
    return (np.exp(logp) * (logp - mine)).sum(axis=1), logp.argmax(axis=1) == mine.argmax(axis=1)


def main():
    args = argparse.ArgumentParser()
    args.add_argument("model")
    args.add_argument("text")
    args.add_argument("logits", nargs="+")
    args.add_argument("--kl", type=float, default=1e-4)
    args.add_argument("--top1", type=float, default=0.99)
    args.add_argument("--tokens", type=int)
    args = args.parse_args()

    model = oracle.Model(args.model)
    n_vocab = int(model.tensors["token_embd.weight"].shape[1])
    files = []
    for name in args.logits:
        n, rest = divmod(os.path.getsize(name), 4 * n_vocab)
        if rest or n == 0:
            sys.exit(f"compare: {name} is not a whole number of rows of {n_vocab} float32")
        if args.tokens and n < args.tokens:
            sys.exit(f"compare: {name} has only {n} rows")
        files.append(np.memmap(name, "<f4", "r", shape=(n, n_vocab))[:args.tokens])
    longest = max(len(f) for f in files)
    ids = tokens.encode(model, pathlib.Path(args.text).read_text(encoding="utf-8"))[:longest]
    if len(ids) < longest:
        sys.exit(f"compare: {args.text} has only {len(ids)} tokens, the longest file {longest} rows")

    h, kl, top = model.hidden(ids), [[] for _ in files], [[] for _ in files]
    for a in range(0, longest, 64):                              # by rows: all logits at once may be gigabytes
        logp = oracle.log_softmax(model.head(h[a:a + 64]))
        for i, f in enumerate(files):
            k, t = compare(logp[:max(len(f) - a, 0)], f[a:a + 64])
            kl[i].extend(k)
            top[i].extend(t)
    bad = False
    for name, k, t in zip(args.logits, kl, top):
        ok = np.all(np.isfinite(k)) and np.mean(k) <= args.kl and np.mean(t) >= args.top1
        bad |= not ok
        print(f"{name}: {len(k)} tokens, KL mean {np.mean(k):.3g}, largest {np.max(k):.3g}, "
              f"top-1 agreement {100 * np.mean(t):.2f} %: {'ok' if ok else 'BROKEN'}")
    sys.exit(bad)


main()

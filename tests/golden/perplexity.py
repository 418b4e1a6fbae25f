#!/usr/bin/env python3
"""The oracle's perplexity of a text: the rows of perplexity.json, to which the figures of llama.cpp were added.

    tools/setup/oracle tests/golden/perplexity.py MODEL TEXT CONTEXT [CHUNKS]

prints one JSON row (name, context, perplexity after each chunk) and says how far it has come on standard error.
Scored as llama-perplexity does: chunks of CONTEXT tokens, the second half of each scored, the first token replaced
by BOS where the model adds one.
"""
import json
import pathlib
import sys

import numpy as np

import oracle
import tokens


def chunk_nll(model, ids):
    """Negative log-likelihood of the tokens in the second half of ids."""
    first = len(ids) // 2
    h, nll = model.hidden(ids), 0.0
    for a in range(first, len(ids) - 1, 128):
        b = min(a + 128, len(ids) - 1)
        logp = oracle.log_softmax(model.head(h[a:b]))
        nll -= logp[np.arange(b - a), ids[a + 1:b + 1]].sum()
    return nll, len(ids) - 1 - first


def main():
    path, text, context = sys.argv[1], sys.argv[2], int(sys.argv[3])
    model = oracle.Model(path)
    ids = np.array(tokens.encode(model, pathlib.Path(text).read_text(encoding="utf-8")))
    chunks = min(int(sys.argv[4]) if len(sys.argv) > 4 else 1 << 30, len(ids) // context)
    total, count, running = 0.0, 0, []
    for i in range(chunks):
        part = ids[i * context:(i + 1) * context].copy()
        if model.meta("tokenizer.ggml.add_bos_token"):
            part[0] = model.meta("tokenizer.ggml.bos_token_id")
        nll, n = chunk_nll(model, part)
        total, count = total + nll, count + n
        running.append(round(float(np.exp(total / count)), 5))
        print(f"chunk {i + 1} of {chunks}: {running[-1]}", file=sys.stderr)
    print(json.dumps({"model": pathlib.Path(path).name, "context": context, "tokens": len(ids), "oracle": running}))


main()

#!/usr/bin/env python3
"""The oracle's log-probabilities of a few texts, as the JSON files that the golden tests read.

    tools/setup/oracle tests/golden/golden.py MODEL OUT.json [PEER.json]

OUT: {"model", "how", "sequences": [{"name", "text", "ids", "prompt_tokens", "next_logprob": [n - 1],
"top_ids": [n][16], "top_logprobs": [n][16]}]}. next_logprob[i] is that of ids[i + 1] after ids[0] to ids[i];
top_* are the 16 likeliest tokens after ids[0] to ids[i]. Ids are to be fed as they stand.
PEER: greedy answers of another program (rows of prompt, prompt_ids, ids, logprob, margin). They become sequences that
keep its numbers as "peer_logprob" and "peer_margin", one for each token after the prompt.
"""
import json
import pathlib
import sys

import numpy as np

import oracle
import tokens

TEXTS = {
    "prose": "In the beginning God created the heaven and the earth. And the earth was without form, and void; and "
             "darkness was upon the face of the deep.",
    "mixed": "def mean(xs):\n    return sum(xs) / len(xs)  # 3.14\n\n"
             "Über die Brücke: naïve café, 東京 and Ελλάδα 🙂 — ok?",
}
TOP = 16


def sequence(model, name, text, ids, prompt_tokens):
    logp = oracle.log_softmax(model.logits(ids))
    top = np.argsort(-logp, axis=1, kind="stable")[:, :TOP]
    rounded = lambda a: [round(float(x), 6) for x in a]
    return {
        "name": name, "text": text, "ids": [int(i) for i in ids], "prompt_tokens": prompt_tokens,
        "next_logprob": rounded(logp[np.arange(len(ids) - 1), ids[1:]]),
        "top_ids": top.tolist(), "top_logprobs": [rounded(row[t]) for row, t in zip(logp, top)],
    }


def main():
    path, out = sys.argv[1:3]
    model = oracle.Model(path)
    rows = []
    for name, text in TEXTS.items():
        ids = tokens.encode(model, text)[:64]
        rows.append(sequence(model, name, text, ids, len(ids)))
    for i, r in enumerate(json.load(open(sys.argv[3]))["rows"] if len(sys.argv) > 3 else []):
        row = sequence(model, f"greedy-{i}", r["prompt"], r["prompt_ids"] + r["ids"], len(r["prompt_ids"]))
        row |= {"peer_logprob": r["logprob"], "peer_margin": r["margin"]}
        near = np.array(row["next_logprob"][row["prompt_tokens"] - 1:])
        print(f"{row['name']}: peer differs by {np.abs(near - r['logprob']).max():.3f} at most")
        rows.append(row)
    how = "float64 forward of the dequantised weights: tests/golden/golden.py"
    lines = json.dumps({"model": pathlib.Path(path).name, "how": how, "sequences": rows}, ensure_ascii=False)
    pathlib.Path(out).write_text(lines.replace("], [", "],\n[").replace(', "', ',\n"') + "\n", encoding="utf-8")


main()

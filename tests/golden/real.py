#!/usr/bin/env python3
"""Runs the program on a real model and holds its answers against golden data. One check of one model on one device:

    real.py KEPT ppl|kl|teacher smollm2|gemma3 cpu|vulkan|opencl

ppl      perplexity of 4 chunks of 512 tokens: within 0.1 % of the oracle's and 1.5 % of the peer's (whose own
         backends differ by 1 %)
kl       logits of 512 tokens against the oracle run afresh: mean KL at most 1e-4, top-1 agreement at least 99 %
teacher  log-probabilities of the stored sequences: of the token that follows and of the likeliest within 0.02 of the
         oracle's, of the peer's choices within 0.3; the same top choice wherever the margin is 0.6 or more

All with float32 activations.

Needs the models and the text in the cache (tools/check puts them there); exit code 77 where they or the device lack.
"""
import array
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "kept"
FILES = {"smollm2": "smollm2-135m-q4_1.gguf", "gemma3": "gemma3-270m-q4_k_m.gguf"}
SKIP, NO_DEVICE = 77, 5


def skip(why):
    print(f"skipped: {why}")
    sys.exit(SKIP)


def need(path):
    return path if path.exists() else skip(f"{path} is not there: tools/check puts it there")


def kept(*args):
    """The program's answer to a command with --json."""
    p = subprocess.run([*map(str, args), "--json", "--quiet"], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if p.returncode == NO_DEVICE:
        skip(f"no such device: {p.stdout.strip()}")
    if p.returncode:
        sys.exit(f"{' '.join(map(str, args))}: exit code {p.returncode}\n{p.stdout}{p.stderr}")
    return json.loads(p.stdout) if p.stdout.strip() else {}


def head_of_text(folder, length):
    """The first lines of the text, at most length bytes."""
    raw = need(CACHE / "texts" / "genesis.txt").read_bytes()[:length]
    path = pathlib.Path(folder) / "text.txt"
    path.write_bytes(raw[:raw.rindex(b"\n") + 1])
    return path


def check_ppl(program, model, name, device, folder):
    rows = json.loads((HERE / "perplexity.json").read_text())["rows"]
    row = next(r for r in rows if r["model"] == FILES[name] and r["context"] == 512)
    text = head_of_text(folder, 8700)                            # 4 chunks and a rest, for both tokenizers
    got = kept(program, "eval", "ppl", model, "-f", text, "--context", 512, "--device", device, "--activations", "f32")
    oracle, peer = row["oracle"][3], row["peer"][3]
    share, far = got["perplexity"] / oracle - 1, got["perplexity"] / peer - 1
    print(f"perplexity {got['perplexity']:.5f}: oracle {oracle} ({share:+.4%}), peer {peer} ({far:+.3%})")
    return abs(share) <= 0.001 and abs(far) <= 0.015


def check_kl(program, model, device, folder):
    text, out = head_of_text(folder, 2600), pathlib.Path(folder) / "logits.f32"
    kept(program, "eval", "logits", model, "-f", text, "--out", out, "--context", 1024, "--device", device,
         "--activations", "f32")
    runner = HERE.parents[1] / "tools" / "setup" / "oracle"
    p = subprocess.run([runner, HERE / "compare.py", model, text, out, "--tokens", "512"],
                       stdin=subprocess.DEVNULL, capture_output=True, text=True)
    print(p.stdout + p.stderr)
    return p.returncode == 0


def log_sum(row):
    top = max(row)
    return top + math.log(math.fsum(math.exp(x - top) for x in row))


def check_sequence(s, rows):
    """Compares logits [n][vocab] with a stored sequence: the worst differences, and what broke."""
    worst = worst_peer = 0.0
    broken = []
    peers = dict(enumerate(zip(s.get("peer_logprob", []), s.get("peer_margin", [])), s["prompt_tokens"] - 1))
    for i, (row, ids, logps) in enumerate(zip(rows, s["top_ids"], s["top_logprobs"])):
        norm, best = log_sum(row), max(range(len(row)), key=row.__getitem__)
        following = s["ids"][i + 1] if i + 1 < len(s["ids"]) else ids[0]
        for token, expected in zip(ids, logps):
            if token in (ids[0], following):                     # the others are what the KL check is for
                worst = max(worst, abs(row[token] - norm - expected))
        if logps[0] - logps[1] >= 0.6 and best != ids[0]:
            broken.append(f"top choice after token {i}")
        if i in peers:
            logp, margin = peers[i]
            worst_peer = max(worst_peer, abs(row[s["ids"][i + 1]] - norm - logp))
            if margin >= 0.6 and best != s["ids"][i + 1]:
                broken.append(f"the peer's choice after token {i}")
    if not worst <= 0.02:
        broken.append("log-probability")
    if not worst_peer <= 0.3:
        broken.append("log-probability of the peer")
    print(f"{s['name']}: {len(rows)} tokens, oracle {worst:.4f}, peer {worst_peer:.3f} {', '.join(broken)}")
    return not broken


def check_teacher(program, model, name, device, folder):
    golden = json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))
    good = True
    for s in golden["sequences"]:
        ids, out = pathlib.Path(folder) / "ids.txt", pathlib.Path(folder) / "logits.f32"
        ids.write_text(" ".join(map(str, s["ids"])))
        kept(program, "eval", "logits", model, "--ids", ids, "--out", out, "--context", 128, "--device", device,
             "--activations", "f32")
        flat = array.array("f", out.read_bytes())
        n = len(flat) // len(s["ids"])
        good &= check_sequence(s, [flat[i * n:(i + 1) * n] for i in range(len(s["ids"]))])
    return good


def main():
    program, what, name, device = sys.argv[1:]
    model = need(CACHE / "models" / FILES[name])
    with tempfile.TemporaryDirectory() as folder:
        if what == "ppl":
            good = check_ppl(program, model, name, device, folder)
        elif what == "kl":
            good = check_kl(program, model, device, folder)
        elif what == "teacher":
            good = check_teacher(program, model, name, device, folder)
        else:
            sys.exit(f"real.py: unknown check '{what}'")
    sys.exit(not good)


main()

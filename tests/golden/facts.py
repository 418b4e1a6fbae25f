#!/usr/bin/env python3
"""Facts that are written, found, read and forgotten with the real model, through the program:

    facts.py KEPT cpu|vulkan|opencl [N]        N facts of facts-200.jsonl instead of as many as fit a test

quality  address top-1 at least 98 % (query) and 95 % (paraphrase); exact answers at least 90 % and 70 %, none without
         facts; q8_0 payloads within 3 points (bars for 100 facts or more: a test with fewer allows one miss more)
scope    none of 60 ordinary sentences is taken for a question about a fact, whatever is stored
forget   a store that has forgotten facts against one that never held them: equal weights, bit for bit, and equal
         answers to questions about the forgotten facts, five rephrased and five indirect ones each; none of the
         answers is the forgotten one. After compaction no text of theirs is in the file

Needs the model in the cache (tools/check puts it there); exit code 77 where it or the device lacks.
"""
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "kept"
MODEL = CACHE / "models" / "smollm2-135m-q4_1.gguf"
SKIP, NO_DEVICE, NO_FACTS = 77, 5, 3
SIZES = {"cpu": (60, 8), "opencl": (30, 4), "vulkan": (6, 1)}   # facts stored; facts forgotten
# Of one fact: {n} its name. What it is about decides which of them make sense.
REPHRASED = ["What is the {w} of {n}? It is", "Please tell me the {w} of {n}:", "{n} has a {w}, and it is",
             "I forgot the {w} of {n}. It was", "As everybody knows, the {w} of {n} is"]
INDIRECT = ["Tell me a number that has to do with {n}:", "My note about {n} says", "If you think of {n}, you think of",
            "Somebody asked about {n}, and the answer was", "The only thing I know about {n} is the number"]
ABOUT = ["access code", "house number", "year of birth", "locker number", "train number"]


def skip(why):
    print(f"skipped: {why}")
    sys.exit(SKIP)


def kept(program, *args):
    """The program's answer to a command with --json."""
    p = subprocess.run([str(a) for a in (program, *args, "--json", "--quiet")], stdin=subprocess.DEVNULL,
                       capture_output=True, text=True)
    if p.returncode == NO_DEVICE:
        skip(f"no such device: {p.stdout.strip()}")
    if p.returncode == NO_FACTS and "SQLite" in p.stdout:
        skip("a build without SQLite")
    if p.returncode:
        sys.exit(f"{' '.join(map(str, args))}: exit code {p.returncode}\n{p.stdout}{p.stderr}")
    return json.loads(p.stdout) if p.stdout.strip() else {}


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def at_least(what, value, bar, n):
    least = (math.floor(n * bar) - (n < 100)) / n
    print(f"{what}: {100 * value:.1f} % (at least {100 * least:.1f})")
    return value >= least - 1e-9


def check_quality(program, device, folder, facts):
    n, good = len(facts), True
    file = lines(folder / "facts.jsonl", facts)
    for payload in ("f16", "q8_0"):
        r = kept(program, "eval", "facts", MODEL, "--facts", folder / payload, "-f", file, "--add",
                 "--payload", payload, "--ordinary", HERE / "ordinary.txt", "--device", device)
        print(f"-- {payload} payload, {n} facts, writing {r['write_eval_s'] / n * 1e3:.1f} ms a fact")
        for form, address, exact in (("query", 0.98, 0.90), ("paraphrase", 0.95, 0.70)):
            good &= at_least(f"{form}: address", r["address_top1"][form], address, n)
            good &= at_least(f"{form}: exact", r["exact"][form], exact, n)
            print(f"{form}: as text {100 * r['exact_as_text'][form]:.1f} %, in scope {100 * r['accepted'][form]:.1f} %")
            good &= r["exact_without"][form] == 0
        print(f"ordinary sentences: {r['ordinary']['false_accepts']} of {r['ordinary']['sentences']}, largest weight "
              f"{max(r['ordinary']['weights']):.3f}")
        good &= r["ordinary"]["false_accepts"] == 0 and r["ordinary"]["sentences"] >= 60
        good &= r["planned_bytes"] == r["actual_bytes"]
        if payload == "f16":
            f16 = r["exact"]
        good &= all(abs(r["exact"][form] - f16[form]) <= max(0.03, 1.01 / n) for form in f16)
    return good


def questions_about(fact):
    """Five pairs of a rephrased and an indirect question."""
    words = {"n": fact["name"], "w": ABOUT[int(fact["id"][1:]) % len(ABOUT)]}
    return [{"id": fact["id"], "query": a.format(**words), "paraphrase": b.format(**words), "answer": fact["answer"]}
            for a, b in zip(REPHRASED, INDIRECT)]


def check_forgetting(program, device, folder, facts, n_gone):
    gone, stay = facts[:n_gone], facts[n_gone:]
    fixed = [{"id": f["id"], "text": f["text"], "time": 1} for f in facts]
    had, never = folder / "had", folder / "never"
    for store, rows in ((had, fixed), (never, fixed[n_gone:])):
        kept(program, "facts", store, "add", "--model", MODEL, "-f", lines(folder / "rows", rows), "--device", device)
    kept(program, "facts", had, "forget", *[a for f in gone for a in ("--id", f["id"])])
    kept(program, "facts", had, "compact")
    raw = had.read_bytes()
    left = [f["id"] for f in gone if f["name"].encode() in raw or f["answer"].encode() in raw]
    print(f"-- forgotten {n_gone} of {len(facts)}; left in the file: {left or 'nothing'}")
    leaks = [q for f in gone for q in questions_about(f)]
    file, answers = lines(folder / "leaks", leaks), []
    for store in (had, never):
        r = kept(program, "eval", "facts", MODEL, "--facts", store, "-f", file, "--device", device)
        answers.append({k: r[k] for k in ("weights", "exact", "accepted", "address_top1", "exact_without")})
    same, leaked = answers[0] == answers[1], answers[0]["exact"]
    print(f"{2 * len(leaks)} questions: {'the same' if same else 'NOT the same'} as if it had never been written; "
          f"answered {leaked}")
    r = kept(program, "eval", "facts", MODEL, "--facts", had, "-f", lines(folder / "kept", stay), "--device", device)
    print(f"what stayed: {r['exact']}, address {r['address_top1']}")
    return same and not left and leaked == {"query": 0, "paraphrase": 0} and r["address_top1"]["query"] == 1


def main():
    program, device = sys.argv[1:3]
    n, n_gone = SIZES[device]
    n = int(sys.argv[3]) if len(sys.argv) > 3 else n
    if not MODEL.exists():
        skip(f"{MODEL} is not there: tools/check puts it there")
    facts = [json.loads(line) for line in (HERE / "facts-200.jsonl").read_text().splitlines()][:n]
    with tempfile.TemporaryDirectory() as folder:
        good = check_quality(program, device, pathlib.Path(folder), facts)
        good &= check_forgetting(program, device, pathlib.Path(folder), facts, n_gone)
    print("passed" if good else "FAILED")
    sys.exit(not good)


if __name__ == "__main__":
    main()

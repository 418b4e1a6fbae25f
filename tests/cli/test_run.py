"""kept run: fields, determinism, ends of answers."""
from harness import *

FIELDS = {"model", "device", "driver", "prompt_tokens", "generated_tokens", "tokens", "text", "finish_reason", "seed",
          "first_token_s", "prefill_tps", "decode_tps", "planned_bytes", "actual_bytes", "driver_overhead_bytes",
          "kv_tokens_seen", "kv_slots_live", "evicted", "merged", "facts_used"}
PROMPT = "The quick brown fox jumps over the lazy dog. "

for model in (LLAMA, GEMMA):
    run = ("run", model, "--device", "cpu", "--raw", "-p", PROMPT)
    greedy = kept_json(*run, "--temp", "0", "-n", "24")
    check(FIELDS <= set(greedy), f"fields: {FIELDS - set(greedy)} are missing")
    check(greedy["planned_bytes"] == greedy["actual_bytes"] > 0, "planned = actual")
    check(greedy["device"] == "cpu" and greedy["evicted"] == greedy["merged"] == 0, "values")
    check(greedy["facts_used"] == [], "no facts")
    check(len(greedy["tokens"]) == greedy["generated_tokens"], "as many tokens as counted")
    if greedy["finish_reason"] == "length":
        check(greedy["generated_tokens"] == 24, "-n is kept")
        check(greedy["kv_tokens_seen"] == greedy["prompt_tokens"] + 23, "the last token is not evaluated")
    plan = kept_json("plan", model, "--device", "cpu")
    check(plan["planned_bytes"] == greedy["actual_bytes"], "what plan says is what run takes")

    ids = kept_json("tokenize", model, "-p", PROMPT)["ids"]
    check(greedy["prompt_tokens"] == len(ids), "--raw evaluates what tokenize shows")
    again = kept_json(*run, "--temp", "0", "-n", "24", "--chunk", "7")
    check(again["tokens"] == greedy["tokens"], "another chunk, same greedy tokens")
    a, b, c = (kept_json(*run, "-n", "24", "--temp", "1.5", "--seed", seed) for seed in (7, 7, 8))
    check(a["tokens"] == b["tokens"] and a["seed"] == 7, "same seed, same tokens")
    check(a["tokens"] != c["tokens"], "another seed, other tokens")
    check(kept_json(*run, "-n", "2")["seed"] != kept_json(*run, "-n", "2")["seed"], "seeds are random unless given")
    one = kept_json(*run, "-n", "24", "--temp", "5", "--top-k", "1", "--seed", "3")
    check(one["tokens"] == greedy["tokens"], "top-k 1 is greedy")
    check(kept_json(*run, "-n", "0")["generated_tokens"] == 0, "-n 0")

    # What is streamed is the text, and decoding the ids gives it too.
    rc, out, err = kept(*run, "--temp", "0", "-n", "24", text=False)
    check(rc == 0 and err == "", "no notes where standard error is no terminal")
    text = out.removesuffix(b"\n")
    check(text.decode("utf-8", "replace") == greedy["text"].removesuffix("\n") or b"\n" in text, "streamed text = text")
    piped = kept_json("run", model, "--device", "cpu", "--raw", "--temp", "0", "-n", "24", stdin=PROMPT)
    check(piped["tokens"] == greedy["tokens"], "the prompt from a pipe")

    # Every piece of the answer as a stop text, across token boundaries.
    whole = greedy["text"]
    for at in range(0, max(len(whole) - 3, 0), 3):
        stop = whole[at:at + 3]
        if "\ufffd" in stop or "\0" in stop:
            continue
        got = kept_json(*run, "--temp", "0", "-n", "24", "--stop", "never there", "--stop", stop)
        check(got["text"] == whole[:whole.index(stop)] and got["finish_reason"] == "stop", f"stop at {stop!r}")
    got = kept_json(*run, "--temp", "0", "-n", "24", "--stop", whole[-1] + "never there")
    check(got["text"] == whole, "what was held back for a stop text comes out in the end")

    n = greedy["prompt_tokens"]
    full = kept_json(*run, "--temp", "0", "--context", n + 4)
    if full["finish_reason"] != "stop":
        check(full["finish_reason"] == "context" and full["generated_tokens"] == 5, f"context full: {full}")
    check(kept_json(*run, "--context", n, "-n", "3")["generated_tokens"] <= 1, "a prompt that fills the context")
    fails(2, *run, "--context", n - 1, says=[str(n), str(n - 1)])
finish()

"""kept fit and what is measured with its sidecar: eval kl, copy, needle and the sweep."""
import math
import shutil
import xml.etree.ElementTree

from harness import *

WORDS = "the of and to in a that it was his he with for as had you not be her is but at on him".split()
state = 7
text = []
for i in range(5200):
    state = (state * 1103515245 + 12345) % 2**31
    text.append(WORDS[state // 65536 % len(WORDS)] + ("." if i % 11 == 10 else ""))
path("text").write_text(" ".join(text))
path("short").write_text(" ".join(text[:200]))
model = path("model.gguf")
shutil.copy(LLAMA, model)

# Fitting.
small = ["--tokens", "300", "--pieces", "2"]
made = kept_json("fit", model, "--device", "cpu", "-f", path("text"), *small)
check(path("model.kept").is_file(), "the sidecar stands beside the model")
check(made["n_tokens"] == 600 and made["has_gate"] is False and made["fit_s"] > 0, f"what it says: {made}")
shown = kept_json("inspect", path("model.kept"))
check(shown["curves"] == made["curves"] and shown["reports"] == made["reports"], "inspect shows the same")
for curve in shown["curves"]:
    flat = [f for layer in curve["fractions"] for f in layer]
    check(abs(sum(flat) / len(flat) - curve["share"]) < 1e-3 and all(0 < f <= 1 for f in flat), f"{curve}")
rc, out, err = kept("inspect", path("model.kept"))
check(rc == 0 and "layer 0" in out and "600 tokens" in out, "inspect as text")
other = kept_json("fit", model, "--device", "cpu", "-f", path("text"), "-f", path("text"), *small, "--no-reports",
                  "-o", path("two.kept"))
check(other["n_tokens"] == 600 and other["reports"] == [] and path("two.kept").is_file(), "two texts, another file")
again = kept_json("fit", model, "--device", "cpu", "-f", path("text"), *small, "--no-reports", "-o", path("again.kept"))
check(again["curves"] == made["curves"], "the same again")
gemma = kept_json("fit", GEMMA, "--device", "cpu", "-f", path("text"), *small, "--no-reports", "-o", path("gemma.kept"))
with_window = [layer for layer in gemma["curves"][0]["fractions"] if not any(layer)]
check(0 < len(with_window) < gemma["n_layers"], "layers with a sliding window have no budgets")
gated = kept_json("fit", model, "--device", "cpu", "-f", path("text"), "--tokens", "600", "--pieces", "2", "--gate",
                  "--chunk", "200", "--no-reports", "-o", path("gate.kept"))
check(gated["has_gate"] is True and kept_json("inspect", path("gate.kept"))["has_gate"] is True, f"a gate: {gated}")
check(len(gated["gate_correlation"]) == gated["n_layers"] and all(-1 <= c <= 1 for c in gated["gate_correlation"]),
      f"how well it predicts: {gated['gate_correlation']}")
rc, out, err = kept("fit", GEMMA, "--device", "cpu", "-f", path("text"), "--tokens", "512", "--pieces", "1", "--gate",
                    "--no-reports", "-o", path("gemma-gate.kept"))
check(rc == 0 and "with a gate" in out and "predicts" not in out, f"one piece: nothing to predict: {out[:300]} {err}")
by_gate = kept_json("eval", "kl", model, "--device", "cpu", "-f", path("text"), "--context", "512", "--places", "1",
                    "--retain", "scored", "--retain-budget", "50%", "--scorer", "gate", "--sidecar", path("gate.kept"))
check(by_gate["kl_mean"] > 0, f"it ranks: {by_gate}")
fails(2, "fit", model, "--device", "cpu", "-f", path("text"), *small, "--gate", says=["--tokens 300", "--gate", "512"])
fails(2, "fit", model, "--device", "cpu", says=["-f"])
fails(2, "fit", model, "--device", "cpu", "-f", path("short"), says=["short", "tokens"])
fails(2, "fit", model, "--device", "cpu", "-f", path("text"), "--tokens", "100", says=["--tokens 100"])
fails(2, "fit", model, "--device", "cpu", "-f", path("text"), "-o", model, *small, says=["the model itself"])
fails(3, "fit", model, "--device", "cpu", "-f", path("none"), says=["none"])
fails(3, "fit", model, "--device", "cpu", "-f", path("text"), *small, "--no-reports", "-o", path("no/such.kept"),
      says=["such.kept"])
raw = path("model.kept").read_bytes()

# Using the sidecar.
scored = ["--retain", "scored", "--retain-budget"]
base = ["plan", model, "--device", "cpu", "--context", "512"]
heads = [b for layer in kept_json(*base, *scored, "50%")["heads"] for b in layer]
check(len(set(heads)) > 1 and sum(heads) <= 256 * len(heads), f"budgets of heads differ: {heads}")
uniform = [b for layer in kept_json(*base, *scored, "50%", "--sidecar", "none")["heads"] for b in layer]
check(set(uniform) == {256}, "--sidecar none: every head alike")
fails(3, "plan", GEMMA, "--device", "cpu", "--context", "512", *scored, "50%", "--sidecar", path("model.kept"),
      says=["model.kept"])
weights = bytearray(LLAMA.read_bytes())
weights[-40] ^= 1
path("tuned.gguf").write_bytes(weights)
fails(3, "run", path("tuned.gguf"), "--device", "cpu", "--raw", "-p", "a", *scored, "50%", "--sidecar",
      path("model.kept"), says=["other weights"])
path("ids").write_text(" ".join(str(i % 200 + 3) for i in range(1000)))  # past the trained context, by its length alone
fails(3, "eval", "logits", path("tuned.gguf"), "--device", "cpu", "--ids", path("ids"), "--out", path("logits"),
      "--sidecar", path("model.kept"), says=["other weights"])
for name, damage in [("cut", raw[:-5]), ("long", raw + b"x"), ("flip", raw[:99] + bytes([raw[99] ^ 1]) + raw[100:])]:
    path("bad.kept").write_bytes(damage)
    fails(3, *base, *scored, "50%", "--sidecar", path("bad.kept"), says=["bad.kept"])
    fails(3, "inspect", path("bad.kept"), says=["bad.kept"])

# Measuring.
KL = {"tokens", "perplexity", "standard_error", "nll", "kl_mean", "kl_p95", "kl_p99", "kl_max", "top1_agreement",
      "ppl_ratio", "kv_bytes", "kv_bytes_full"}
kl = ["eval", "kl", model, "--device", "cpu", "-f", path("text"), "--context", "400"]
got = kept_json(*kl)
check(KL <= set(got) and got["tokens"] == 3 * 512, f"fields: {KL - set(got)}")
check(got["kl_mean"] == got["kl_max"] == 0 and got["top1_agreement"] == 1 and got["ppl_ratio"] == 1
      and got["kv_bytes"] == got["kv_bytes_full"], "full against full")
got = kept_json(*kl, *scored, "400")
check(got["kl_max"] == 0 and got["evicted"] == 0, "a budget of the prefix changes nothing")
got = kept_json(*kl, *scored, "200", "--places", "2")
check(got["tokens"] == 1024 and got["kl_mean"] > 0 and got["evicted"] > 0 and got["kv_bytes"] < got["kv_bytes_full"],
      f"half of the slots: {got}")
check(got["kl_mean"] <= got["kl_p95"] * 20 and got["kl_p95"] <= got["kl_p99"] <= got["kl_max"], "quantiles ascend")
check(abs(got["ppl_ratio"] / math.exp(got["nll"] - got["nll_full"]) - 1) < 1e-6, "ppl_ratio")
check(got["planned_bytes"] == got["actual_bytes"], "planned is measured")
got = kept_json("eval", "kl", model, "--device", "cpu", "-f", path("text"), "--context", "400", "--kv", "q8_0")
check(0 < got["kl_mean"] < 0.05 and got["kv_bytes"] < 0.6 * got["kv_bytes_full"], f"q8_0: {got['kl_mean']}")
got = kept_json("eval", "kl", model, "--device", "cpu", "-f", path("text"), "--context", "400", "--stream", "--from",
                "100", "--single", "20", *scored, "200")
check(got["tokens"] == 299 and got["kl_mean"] > 0 and got["single_tokens"] == 20, f"stream: {got}")
got = kept_json("eval", "copy", model, "--device", "cpu", "-f", path("text"), "--context", "448", *scored, "50%")
check({"nll", "nll_full", "kl_mean"} <= set(got) and got["tokens"] == 3 * 160, f"copy: {got}")
got = kept_json("eval", "copy", GEMMA, "--device", "cpu", "-f", path("text"), "--context", "448", "--places", "1",
                *scored, "50%", "--sidecar", path("gemma.kept"))
check(got["tokens"] == 160 and got["kl_mean"] > 0, f"copy with sliding windows: {got}")
got = kept_json("eval", "needle", model, "--device", "cpu", "-f", path("text"), "--context", "512", *scored, "50%")
cells = {(t, n) for t in ("passkey", "multikey") for n in (256, 512)}
check({(r["test"], r["length"]) for r in got["results"]} == cells
      and all(0 <= r["found"] <= r["total"] == 1 and 0 < r["depth"] < 1 for r in got["results"]), f"needle: {got}")
streams = [kept_json("eval", "ppl", model, "--device", "cpu", "-f", path("text"), "--context", "400", "--stream",
                     "--from", "200", *more) for more in ([], [*scored, "200"], [*scored, "200", "--single", "150"])]
check(streams[0]["evicted"] == 0 < streams[1]["evicted"] and streams[0]["nll"] != streams[1]["nll"],
      "ppl with retention")
check(abs(streams[1]["nll"] - streams[2]["nll"]) < 0.02, "one at a time as together")

# The sweep.
got = kept_json("eval", "kl", model, "--device", "cpu", "-f", path("text"), "--context", "448", "--places", "1",
                "--sweep", "--budgets", "50%,160", "--methods", "window,uniform,merged,kv", "--out",
                path("curves.html"))
check(json.loads(path("curves.json").read_text())["points"] != [] and len(got["points"]) == 3 * 2 + 3, "points")
check({p["method"] for p in got["points"]} == {"window", "uniform", "merged", "kv"}, "methods")
check(all(KL <= set(p) and "copy_nats" in p for p in got["points"]), "a point has the fields of eval kl")
page = path("curves.html").read_text()
check(page.count("<svg") == 4 and "http" not in page.replace("http-equiv", "") and "<script" not in page,
      "one page that needs nothing else")
for svg in page.split("<svg")[1:]:
    xml.etree.ElementTree.fromstring("<svg" + svg.split("</svg>")[0] + "</svg>")
got = kept_json("eval", "kl", model, "--device", "cpu", "-f", path("text"), "--context", "448", "--places", "1",
                "--sweep", "--budgets", "12.5%", "--methods", "window", "--out", path("none.html"))
check(got["points"] == [] and "132" in got["left_out"][0], "a budget that is too small is left out")
for option, value in [("--budgets", "50%,"), ("--budgets", "0"), ("--budgets", "x"), ("--methods", "best")]:
    fails(2, *kl, "--sweep", option, value, says=[option])
fails(2, "eval", "kl", model, "--device", "cpu", "-f", path("short"), "--context", "400", says=["913"])
fails(2, "eval", "copy", model, "--device", "cpu", "-f", path("text"), "--context", "200", says=["386"])
fails(2, "eval", "copy", model, "--device", "cpu", "-f", path("text"), "--stream", says=["--stream"])
fails(2, *kl, *scored, "100", says=["100", "132"])
finish()

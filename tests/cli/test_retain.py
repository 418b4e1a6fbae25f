"""Types of slots, retention and sidecars: what the options do, and every way in which they are refused."""
from harness import *

path("text").write_text("The quick brown fox jumps over the lazy dog. Pack my box with five dozen liquor jugs. " * 5)


def answer(*args, code=0):
    return kept_json("run", LLAMA, "--device", "cpu", "--raw", "-f", path("text"), "-n", "8", "--temp", "0",
                     "--context", "512", *args, code=code)


# What the options do to plans.
full = kept_json("plan", LLAMA, "--device", "cpu", "--context", "512")
check(full["retains"] is False and full["scorer_bytes"] == 0, "nothing is evicted by default")
q8 = kept_json("plan", LLAMA, "--device", "cpu", "--context", "512", "--kv", "q8_0")
q84 = kept_json("plan", LLAMA, "--device", "cpu", "--context", "512", "--kv", "q8_0:q4_0")
q4 = kept_json("plan", LLAMA, "--device", "cpu", "--context", "512", "--kv", "q4_0:q4_0")
check(full["kv_bytes"] > q8["kv_bytes"] > q84["kv_bytes"] > q4["kv_bytes"], "bytes of slots by their type")
check(next(c for c in q84["choices"] if c["what"] == "kv")["chosen"] == "q8_0:q4_0", "the type is a choice")
scored = ["--retain", "scored", "--retain-budget"]
half = kept_json("plan", LLAMA, "--device", "cpu", "--context", "512", *scored, "50%")
check(half["retains"] and half["scorer_bytes"] > 0 and half["kv_bytes"] < full["kv_bytes"], "half of the slots")
check(all(b == 256 for layer in half["heads"] for b in layer), f"uniform budgets: {half['heads']}")
same = kept_json("plan", LLAMA, "--device", "cpu", "--context", "512", *scored, "256")
check(same["regions"] == half["regions"], "a budget in slots and in percent")
window = kept_json("plan", LLAMA, "--device", "cpu", "--context", "512", "--retain", "window", "--retain-budget", "256")
check(window["retains"] and window["kv_bytes"] <= half["kv_bytes"] and window["scorer_bytes"] < half["scorer_bytes"],
      "a window needs no running sums")
all_of_it = kept_json("plan", LLAMA, "--device", "cpu", "--context", "512", *scored, "512")
check(not all_of_it["retains"] and all_of_it["kv_bytes"] == full["kv_bytes"],
      "a budget of the context is full retention")
check(any("whole context" in c["why"] for c in all_of_it["choices"]), "and says so")
rc, out, err = kept("plan", LLAMA, "--device", "cpu", "--context", "512", *scored, "50%", "--regions")
check(rc == 0 and "Budgets of KV heads" in out and "256 (" in out, "--regions shows budgets")

kept("plan", LLAMA, "--device", "cpu", "--context", "512", *scored, "50%", "--svg", path("plan.svg"))
check(path("plan.svg").read_text().count("256 slots</title>") == len([b for layer in half["heads"] for b in layer]),
      "the picture has a bar for each head")

# Input past the trained context, and nothing said: the plan decides.
LONG = ["plan", LLAMA, "--device", "cpu", "--context"]
trained = int(kept_json("inspect", LLAMA)["metadata"]["llama.context_length"])
check(kept_json(*LONG, str(trained))["retains"] is False, "everything stays within the trained context")
long = kept_json(*LONG, str(trained * 4))
asked = kept_json(*LONG, str(trained * 4), *scored, str(max(trained // 4, 264)), "--positions", "compact")
check(long["retains"] and long["regions"] == asked["regions"], "past it a quarter of it stays")
why = {c["what"]: c["why"] for c in long["choices"]}
check("past the trained context" in why["retention"] and "quality" in why, f"and says so: {why}")
less = kept_json(*LONG, str(trained * 4), "--retain-budget", "200")
check(less["retains"] and less["kv_bytes"] < long["kv_bytes"], "with another budget")
fails(2, *LONG, str(trained * 4), "--retain", "full", says=["past the", "--positions compact"])
fails(2, *LONG, str(trained), "--retain-budget", "200", says=["--retain window"])

setting = ("eval", "ppl", LLAMA, "--device", "cpu", "-f", path("text"), "--stream", "--context", str(trained * 4))
path("text").write_text("The quick brown fox jumps over the lazy dog. " * 120)
for more, retain in [((), "scored"), (("--assoc", "64"), "full"),
                     (("--assoc", "64", "--retain-budget", "200"), "scored")]:
    got = kept_json(*setting, *more)["setting"]
    check(got["retain"] == retain and got["positions"] == "compact", f"eval says what the plan decided: {more} {got}")
path("text").write_text("The quick brown fox jumps over the lazy dog. Pack my box with five dozen liquor jugs. " * 5)

# Running with them.
plain = answer()
check(plain["evicted"] == plain["merged"] == 0 and plain["kv_slots_live"] == plain["kv_tokens_seen"], "full keeps all")
tight = answer(*scored, "96", "--protect", "32")
check(tight["evicted"] > 0 and tight["merged"] > 0 and tight["kv_slots_live"] <= 96 + 64, f"evicted: {tight}")
check(tight["planned_bytes"] == tight["actual_bytes"], "what was planned is used")
check(answer(*scored, "96", "--protect", "32", "--merge", "off")["merged"] == 0, "--merge off")
check(answer(*scored, "96", "--protect", "32", "--scorer", "keydiff")["evicted"] > 0, "keydiff evicts")
check(answer("--retain", "window", "--retain-budget", "96", "--protect", "32")["evicted"] > 0, "window evicts")
check(answer(*scored, "512")["tokens"] == plain["tokens"], "a budget of the context changes nothing")

# Refusals.
for option, value in [("--kv", "q5_0"), ("--kv", "f16:"), ("--kv", ":f16"), ("--kv", "f16:f16:f16"),
                      ("--retain", "some"), ("--retain-budget", "0"), ("--retain-budget", "0%"),
                      ("--retain-budget", "101%"), ("--retain-budget", "-5"), ("--retain-budget", "x"),
                      ("--retain-budget", "1.5"), ("--retain-budget", "nan%"), ("--retain-budget", "12%x"),
                      ("--protect", "-1"), ("--sinks", "many"), ("--scorer", "random"), ("--merge", "maybe"),
                      ("--positions", "relative")]:
    fails(2, "plan", LLAMA, "--device", "cpu", option, value, says=[option, f"'{value}'"])
base = ["plan", LLAMA, "--device", "cpu", "--context", "512"]
fails(2, *base, "--retain-budget", "50%", says=["--retain window"])
fails(2, *base, "--retain", "scored", says=["--retain-budget"])
fails(2, *base, *scored, "131", says=["131", "132"])
fails(2, *base, *scored, "20", "--protect", "10", "--sinks", "11", says=["20", "21"])
check(kept_json(*base, *scored, "20", "--protect", "10", "--sinks", "10")["retains"], "the least budget")
check(kept_json(*base, *scored, "20", "--protect", "0", "--sinks", "0")["retains"], "no token is safe")
fails(2, *base, *scored, "50%", "--scorer", "gate", "--protect", "0", says=["--protect 0"])
fails(2, *base, *scored, "50%", "--scorer", "gate", says=["gate", "sidecar"])

# Sidecars.
fails(3, *base, *scored, "50%", "--sidecar", path("none.kept"), says=["none.kept"])
path("short.kept").write_bytes(b"\xb4KEPTSC\n")
fails(3, *base, *scored, "50%", "--sidecar", path("short.kept"), says=["short.kept", "bytes"])
path("text.kept").write_bytes(b"no sidecar at all, but long enough to be read as one, one might think")
fails(3, *base, *scored, "50%", "--sidecar", path("text.kept"), says=["text.kept", "magic"])
fails(3, *base, "--sidecar", path("text.kept"), says=["text.kept"])  # named: it must be right
model = path("model.gguf")
model.write_bytes(LLAMA.read_bytes())
path("model.kept").write_bytes(b"damaged" * 20)
own = ["plan", model, "--device", "cpu", "--context", "512"]
check(kept_json(*own)["fits"], "a damaged sidecar beside the model that is not needed")
fails(3, *own, *scored, "50%", says=["model.kept"])
check(kept_json(*own, *scored, "50%", "--sidecar", "none")["retains"], "--sidecar none")
fails(3, "inspect", path("short.kept"), says=["short.kept"])
finish()

"""Associative memory: its options, its figures, /memory and the picture of it."""
import xml.etree.ElementTree as ElementTree

from harness import *

TEXT = "The quick brown fox jumps over the lazy dog. Pack my box with five dozen liquor jugs. " * 5
path("text").write_text(TEXT)
ALONE = ["--protect", "32", "--assoc", "32"]
RUN = ["--device", "cpu", "--context", "512", "-n", "8", "--temp", "0"]


def answer(*args, code=0):
    return kept_json("run", LLAMA, "--raw", "-f", path("text"), *RUN, *args, code=code)


def picture(name):
    """The heads of a picture that have bars, and its title."""
    root = ElementTree.parse(path(name)).getroot()
    check(root.tag.endswith("}svg"), f"{name} is an SVG")
    groups = [g for g in root.iter() if g.tag.endswith("}g")]
    bars = [[r for r in g if r.tag.endswith("}rect")] for g in groups]
    titled = all(len(r) and "token" in r[0].text for rects in bars for r in rects)
    check(titled, f"{name}: every bar says what it stands for")
    text = " ".join(t.text for t in root.iter() if t.tag.endswith("}text"))
    check(all(words in text for words in ("consolidated", "last touched", "mean position", "layer 0")),
          f"{name}: legend and axes: {text[:300]}")
    return groups, bars


# Plans.
plan = kept_json("plan", LLAMA, "--device", "cpu", "--context", "512", *ALONE)
n_heads = sum(len(layer) for layer in plan["heads"])
check(all(b == 4 + 32 + 32 for layer in plan["heads"] for b in layer), f"memory on top of safe tokens: {plan['heads']}")
both = kept_json("plan", LLAMA, "--device", "cpu", "--context", "512", *ALONE, "--retain", "scored",
                 "--retain-budget", "100")
check(all(b == 100 + 32 for layer in both["heads"] for b in layer), f"memory on top of a budget: {both['heads']}")

# Running.
plain = answer()
check(plain["consolidated"] == 0, "nothing is consolidated by default")
for form in ("kept", "published"):
    got = answer(*ALONE, "--assoc-form", form, "--memory-svg", path(form + ".svg"))
    check(0 < got["consolidated"] <= got["evicted"], f"{form}: consolidated: {got}")
    check(got["planned_bytes"] == got["actual_bytes"], f"{form}: what was planned is used")
    groups, bars = picture(form + ".svg")
    check(len(groups) == n_heads and all(bars), f"{form}: bars of every head: {[len(b) for b in bars]}")
    check(path(form + ".svg").stat().st_size < 2_000_000, f"{form}: a small file")
rotated, unrotated = (answer(*ALONE, "--assoc-keys", keys) for keys in ("rotated", "unrotated"))
check(0 < rotated["consolidated"] < unrotated["consolidated"],
      f"keys that stand far apart are alike without their positions only: {rotated} {unrotated}")
never = answer(*ALONE, "--assoc-threshold", "2")
check(never["consolidated"] == 0 and never["evicted"] > 0, "a threshold that nothing reaches")

# What is said in a conversation.
model = with_template(LLAMA, path("chat.gguf"), TEMPLATE)
told = f"{TEXT}\n/memory\n/memory {path('chat.svg')}\n/help\n"
rc, out, err = kept("chat", model, *RUN, *ALONE, stdin=told)
check(rc == 0 and f"{32 * n_heads} slots are used" in out and "novelties" in out and "/memory [FILE]" in out,
      f"/memory: {rc} {out[:600]} {err[:200]}")
check(path("chat.svg").exists() and all(picture("chat.svg")[1]), "/memory FILE")
rc, out, err = kept("chat", model, *RUN, *ALONE, stdin=f"/memory\n/memory {path('empty.svg')}\n")
check(rc == 0 and f"0 of {32 * n_heads} slots" in out, f"/memory before anything was said: {out[:300]} {err[:200]}")
check("Nothing has left" in path("empty.svg").read_text(), "a picture of nothing")
ElementTree.parse(path("empty.svg"))
rc, out, err = kept("chat", model, *RUN, stdin=f"/memory\n/memory {path('no.svg')}\n")
check(rc == 2 and "Associative" not in out and "--assoc" in err and not path("no.svg").exists(),
      f"/memory without associative memory: {rc} {out[:300]} {err[:200]}")

# Refusals.
base = ["run", LLAMA, "--raw", "-p", "a", *RUN]
for option, value in [("--assoc", "0"), ("--assoc", "-1"), ("--assoc", "x"), ("--assoc-threshold", "2.1"),
                      ("--assoc-threshold", "nan"), ("--assoc-form", "other"),
                      ("--assoc-keys", "other")]:
    fails(2, *base, *(["--assoc", "32"] if option != "--assoc" else []), option, value, says=[option, f"'{value}'"])
fails(2, *base, "--assoc-threshold", "0.5", says=["--assoc-threshold", "need --assoc"])
fails(2, *base, "--assoc-form", "published", says=["need --assoc"])
fails(2, *base, "--assoc-keys", "unrotated", says=["need --assoc"])
fails(2, *base, "--memory-svg", path("no.svg"), says=["--memory-svg needs --assoc"])
fails(2, *base, "--retain", "window", "--retain-budget", "200", "--assoc", "32", says=["--retain window"])
rc, out, err = kept(*base, "--assoc", "32", "--memory-svg", path("nowhere") / "x.svg")
check(rc == 3 and "x.svg" in err, f"a picture that cannot be written: {rc} {err[:200]}")

# Curves.
words = " ".join(f"word {i} of {i * i % 97}" for i in range(1200))
path("long").write_text(words)
kept_json("eval", "kl", LLAMA, "--device", "cpu", "-f", path("long"), "--context", "400", "--places", "1", "--sweep",
          "--budgets", "200,120", "--methods", "assoc,assoc-published", "--out", path("sweep.html"))
sweep = json.loads(path("sweep.json").read_text())
points = {p["method"]: p for p in sweep["points"]}
check(set(points) == {"assoc", "assoc-published"} and len(sweep["points"]) == 2, f"points: {list(points)}")
check(all(p["budget_slots"] == 200 and p["budget_percent"] == 50 and p["consolidated"] > 0 for p in points.values()),
      f"points: {points}")
check(len(sweep["left_out"]) == 2 and all("120" in w and "132" in w for w in sweep["left_out"]),
      f"left out: {sweep['left_out']}")
finish()

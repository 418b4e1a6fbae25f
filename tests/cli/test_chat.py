"""kept chat from a pipe, and kept run with a template."""
from harness import *

OPTIONS = ("--device", "cpu", "--temp", "0", "-n", "6", "--context", "400")


def lines(*args, stdin, code=0):
    rc, out, err = kept("chat", *args, *OPTIONS, "--json", stdin=stdin)
    check(rc == code, f"chat {args}: {rc}, not {code}: {out[:200]} {err}")
    return [json.loads(line) for line in out.splitlines() if line.startswith("{")]


def count(model, text):
    return len(kept_json("tokenize", model, "-p", text)["ids"])


for source in (LLAMA, GEMMA):
    model = with_template(source, path("chat.gguf"), TEMPLATE)
    one = kept_json("run", model, "-p", "Hi there", *OPTIONS)
    check(one["prompt_tokens"] == count(model, "[user] Hi there\n[assistant] "), "the template is applied")
    raw = kept_json("run", model, "-p", "Hi there", "--raw", *OPTIONS)
    check(raw["prompt_tokens"] == count(model, "Hi there"), "--raw goes without")
    told = kept_json("run", model, "-p", "Hi there", "--system", "Be brief", *OPTIONS)
    check(told["prompt_tokens"] == count(model, "[system] Be brief\n[user] Hi there\n[assistant] "), "--system")

    a, b = lines(model, stdin="Hi there\nAnd now?\n")
    check(a["tokens"] == one["tokens"], "the first turn is what run answers")
    check(b["reused_tokens"] >= a["prompt_tokens"], "the second turn evaluates only what is new")
    check(b["prompt_tokens"] > a["prompt_tokens"] + a["generated_tokens"], "and goes on after the first")
    c, d = lines(model, stdin="Hi there\n/reset\nHi there\n")
    check(c["tokens"] == d["tokens"] == one["tokens"], "/reset begins anew")
    check(d["prompt_tokens"] == a["prompt_tokens"], "/reset forgets what was before")
    e, = lines(model, stdin="/system Be brief\nHi there\n")
    check(e["tokens"] == told["tokens"], "/system")
    f, g = lines(model, stdin=f"Hi there\n/save {path('talk')}\n/reset\n/load {path('talk')}\nAnd now?\n")
    same = g["prompt_tokens"] == b["prompt_tokens"] and g["tokens"] == b["tokens"]
    check(same, "/save, /load and go on")
    lines(model, stdin="/sav x\n", code=2)
    rc, out, err = kept("chat", model, *OPTIONS, stdin="/help\n/memory\n/plan\n/exit\nnever\n")
    check(rc == 0 and "/system TEXT" in out and "of 400 tokens" in out and "Fits" in out,
          f"/help /memory /plan: {out[:300]}")
    path("on.kept").unlink(missing_ok=True)
    lines(model, "--session", path("on.kept"), stdin="Hi there\n")
    h, = lines(model, "--session", path("on.kept"), stdin="And now?\n")
    check(h["tokens"] == b["tokens"], "--session goes on")
    i = kept_json("run", model, "--session", path("on.kept"), "-p", "More", *OPTIONS)
    check(i["reused_tokens"] > b["prompt_tokens"], "run goes on with a conversation, too")
    lines(model, stdin="word " * 500 + "\n", code=2)
finish()

"""--session: what goes on from a file is what would have gone on without it."""
import array

from harness import *

for model in (LLAMA, GEMMA):
    run = ("run", model, "--device", "cpu", "--raw", "--temp", "0", "--context", "256")
    session = path("talk.kept")
    session.unlink(missing_ok=True)
    a = kept_json(*run, "-p", "The quick brown fox", "-n", "12", "--session", session)
    check(session.exists(), "the session is saved")
    if a["finish_reason"] == "stop":
        continue                                                 # nothing to go on from
    b = kept_json(*run, "-p", " jumps", "-n", "12", "--session", session, "--chunk", "3")
    check(b["reused_tokens"] == a["prompt_tokens"] + a["generated_tokens"], "nothing is evaluated twice")

    # The same in one go: tokens as the first run left them, then the second prompt's.
    first = kept_json("tokenize", model, "-p", "The quick brown fox")["ids"] + a["tokens"]
    second = kept_json("tokenize", model, "-p", " jumps")["ids"]
    path("ids").write_text(" ".join(map(str, first + second[-(b["prompt_tokens"] - len(first)):])))
    kept_json("eval", "logits", model, "--device", "cpu", "--ids", path("ids"), "--out", path("logits"))
    logits = array.array("f", path("logits").read_bytes())
    vocab = len(logits) // b["prompt_tokens"]
    last = logits[-vocab:]
    best = max(range(vocab), key=last.__getitem__)
    margin = last[best] - max(x for i, x in enumerate(last) if i != best)
    check(margin < 0.05 or b["tokens"][0] == best, "the first token after loading is the one without loading")

    raw = session.read_bytes()
    for at in (0, 10, 30, len(raw) // 2, len(raw) - 1):
        path("bad.kept").write_bytes(raw[:at] + bytes([raw[at] ^ 4]) + raw[at + 1:])
        fails(3, *run, "-p", "a", "--session", path("bad.kept"))
    path("bad.kept").write_bytes(raw[:-9])
    fails(3, *run, "-p", "a", "--session", path("bad.kept"))
    other = GEMMA if model == LLAMA else LLAMA
    fails(3, "run", other, "--device", "cpu", "--raw", "-p", "a", "--session", session)
finish()

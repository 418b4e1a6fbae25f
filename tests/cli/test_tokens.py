"""kept tokenize: there and back."""
from harness import *

TEXTS = ["Hello, world!", "  two  spaces ", "line\nline\n", "größer 北京 👍🏽 e\u0301",
         "<|im_end|> <end_of_turn> <s>", "\t", "1234567890"]
for model in (LLAMA, GEMMA):
    for text in TEXTS:
        there = kept_json("tokenize", model, "-p", text)
        check(len(there["ids"]) == len(there["pieces"]) > 0, f"{text!r}: {there}")
        ids = " ".join(map(str, there["ids"]))
        rc, out, err = kept("tokenize", model, "--decode", stdin=ids, text=False)
        check(rc == 0 and out.decode() == text, f"decode(encode({text!r})) = {out!r}")
        back = kept_json("tokenize", model, "--decode", "-p", json.dumps(there["ids"]))
        check(back["text"] == text, f"{text!r} as JSON")
        path("text").write_text(text, encoding="utf-8", newline="")
        check(kept_json("tokenize", model, "-f", path("text")) == there, f"{text!r} from a file")
    rc, out, err = kept("tokenize", model, "-p", "Hello")
    n = len(kept_json("tokenize", model, "-p", "Hello")["ids"])
    check(rc == 0 and len(out.splitlines()) == n, "one line per token")
    fails(2, "tokenize", model, "--decode", "-p", "12 x", says=["'x'"])
    fails(2, "tokenize", model, "--decode", "-p", "99999999", says=["99999999"])
    fails(2, "tokenize", model, "--decode", "-p", "-1", says=["'-1'"])
    path("invalid").write_bytes(b"abc\xe2\x28")
    fails(2, "tokenize", model, "-f", path("invalid"), says=["3"])
finish()

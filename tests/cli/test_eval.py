"""kept eval: the perplexity of a text is what its logits say."""
import array
import math

from harness import *

path("text").write_text("The quick brown fox jumps over the lazy dog. Pack my box with five dozen liquor jugs. " * 6)


def nll(row, token):
    top = max(row)
    return top + math.log(math.fsum(math.exp(x - top) for x in row)) - row[token]


def logits(model, ids):
    path("ids").write_text(" ".join(map(str, ids)))
    said = kept_json("eval", "logits", model, "--device", "cpu", "--ids", path("ids"), "--out", path("out"))
    flat = array.array("f", path("out").read_bytes())
    n = said["vocabulary"]
    check(said["tokens"] == len(ids) and len(flat) == n * len(ids), "one row of logits per token")
    return [flat[i * n:(i + 1) * n] for i in range(len(ids))]


for model in (LLAMA, GEMMA):
    ids = kept_json("tokenize", model, "-f", path("text"))["ids"]
    got = kept_json("eval", "ppl", model, "--device", "cpu", "-f", path("text"), "--context", "64", "--chunks", "2")
    bos = ids[0] if model == GEMMA or ids[0] == kept_json("tokenize", model, "-p", "x")["ids"][0] else None
    total, count, squares, running = 0.0, 0, 0.0, []
    for c in range(2):
        chunk = ids[64 * c:64 * c + 64]
        if bos is not None:
            chunk[0] = bos
        rows = logits(model, chunk)
        for i in range(32, 63):
            x = nll(rows[i], chunk[i + 1])
            total, squares, count = total + x, squares + x * x, count + 1
        running.append(math.exp(total / count))
    mean = total / count
    check(got["tokens"] == count and got["chunks"] == 2, f"scored tokens: {got['tokens']}, not {count}")
    check(abs(got["nll"] - mean) < 1e-4 and abs(got["perplexity"] / math.exp(mean) - 1) < 1e-4, f"{got} is not {mean}")
    check(all(abs(a / b - 1) < 1e-4 for a, b in zip(got["running"], running, strict=True)),
          f"running: {got['running']}, {running}")
    error = math.exp(mean) * math.sqrt((squares / count - mean * mean) / (count - 1))
    check(abs(got["standard_error"] / error - 1) < 1e-3, f"standard error {got['standard_error']}, not {error}")

    got = kept_json("eval", "ppl", model, "--device", "cpu", "-f", path("text"), "--context", "100", "--stream",
                    "--from", "10")
    rows = logits(model, ids[:100])
    mean = math.fsum(nll(rows[i], ids[i + 1]) for i in range(10, 99)) / 89
    check(got["tokens"] == 89 and abs(got["nll"] - mean) < 1e-4, f"stream: {got}, not {mean}")
    path("short").write_text("Too short for a chunk.")
    fails(2, "eval", "ppl", model, "--device", "cpu", "-f", path("short"), "--context", "500", says=["500"])
    fails(2, "eval", "ppl", model, "--device", "cpu", says=["-f"])
finish()

#!/usr/bin/env python3
"""Tiny models that decide themselves what of the past may go (docs/dms.md), and what the rule gives on them.

    dms.py [DIR]         default: the folder of this script; needs pip install numpy gguf regex

The published rule of inference in plain numpy: every token has a decision a for each KV head of a layer; a > 0 hides
it from queries more than `window` tokens later. With a budget, at every 64th token the hidden ones go and then the
lowest of the others, until the head has no more than the budget; the last `window` tokens are not asked.

NAME.gguf is a model; NAME.logits (all of the budget is enough) and NAME-80.logits (a budget of 80 slots) are as
tiny.py writes them, but with the logits of the last 64 tokens only. Seeds are tried until no decision is so close
that rounding could turn it. No token comes twice: in the first layer equal tokens decide alike, and which of two
equals goes when only one must would be up to rounding.
"""
import pathlib
import sys

import numpy as np

import oracle
import tiny

N_TOKENS, N_ROWS, BLOCK, BUDGET, WINDOW, MARGIN = 272, 64, 64, 80, 24, 0.003
SHAPE = dict(n_layer=2, n_embd=64, n_head=4, n_kv=2, n_ff=64, formats=["Q8_0"], embd="Q8_0", out=None)
RULE = dict(window=WINDOW, scale=100.0, offset=5.0)
MODELS = {      # family, and metadata
    "tiny-llama-dms": ("llama", dict(form="separate", shift=0, **RULE)),
    "tiny-llama-dms-next": ("llama", dict(form="separate", shift=1, **RULE)),
    "tiny-llama-dms-query": ("llama", dict(form="borrowed", shift=0, **RULE)),
    "tiny-qwen3-dms-query": ("qwen3", dict(form="borrowed", shift=1, **RULE)),
}


class TooClose(Exception):
    """A decision that rounding could turn."""


class Model(oracle.Model):
    """oracle.Model with decisions. `margin` is how close the closest of them was; TooClose when it is below MARGIN."""

    def __init__(self, path, budget):
        super().__init__(path)
        rule = lambda name: self.meta(f"kept.dms.{name}")
        self.dms_window, self.shift, self.scale, self.offset = map(rule, ("window", "shift", "scale", "offset"))
        self.budget, self.margin = budget, np.inf

    def hidden_by(self, a):
        """[query][key] of one head with the decisions a."""
        n = len(a)
        of = np.append(a[self.shift:], [-np.inf] * self.shift)         # decision `shift` rows later
        self.margin = min(self.margin, np.abs(a).min() / self.scale)
        age = np.arange(n)[:, None] - np.arange(n)[None, :]
        hidden = (of > 0)[None, :] & (age > self.dms_window)
        live = np.arange(0)
        for end in range(BLOCK, n, BLOCK):
            live = np.append(live, np.arange(end - BLOCK, end))
            asked = live[live < end - self.dms_window]
            order = asked[np.argsort(-of[asked], kind="stable")]       # the first to go first
            gone = max((of[asked] > 0).sum(), min(len(live) - self.budget, len(asked)))
            if 0 < gone < len(order):
                self.margin = min(self.margin, (of[order[gone - 1]] - of[order[gone]]) / self.scale)
            hidden[end:, order[:gone]] = True
            live = np.setdiff1d(live, order[:gone])
        if self.margin < MARGIN:
            raise TooClose
        return hidden

    def attention_of(self, h, layer):
        n, d, p = len(h), self.head_dim, f"blk.{layer}."
        x = self.norm(h, p + "attn_norm.weight")
        q = self.mul(x, p + "attn_q.weight").reshape(n, self.n_head, d)
        k = self.mul(x, p + "attn_k.weight").reshape(n, self.n_kv, d)
        v = self.mul(x, p + "attn_v.weight").reshape(n, self.n_kv, d)
        if self.arch == "qwen3":
            q, k = self.norm(q, p + "attn_q_norm.weight"), self.norm(k, p + "attn_k_norm.weight")
        if self.meta("kept.dms.form") == "separate":
            alpha = self.mul(self.norm(h, p + "attn_dms_norm.weight"), p + "attn_dms.weight")
            q = self.rope(q, self.base)
        else:
            first = slice(None, None, self.n_head // self.n_kv)        # of every KV head's query heads
            alpha = q[:, first, -1].copy()
            q[:, first, -1] = 0
            q = self.rope(q, self.base)
            q[:, first, -1] = 0
        k = self.rope(k, self.base)
        out = np.empty((n, self.n_head, d))
        hidden = [self.hidden_by(self.scale * alpha[:, g] - self.offset) for g in range(self.n_kv)]
        for i in range(self.n_head):
            g = i * self.n_kv // self.n_head
            seen = np.tril(np.ones((n, n), bool)) & ~hidden[g]
            out[:, i] = np.exp(oracle.log_softmax(np.where(seen, q[:, i] @ k[:, g].T / np.sqrt(d), -np.inf))) @ v[:, g]
        return self.mul(out.reshape(n, -1), p + "attn_output.weight")

    def hidden(self, ids):
        h = self.weight("token_embd.weight")[np.asarray(ids)].astype(np.float64)
        for i in range(self.n_layer):
            p = f"blk.{i}."
            h = h + self.attention_of(h, i)
            x = self.norm(h, p + "ffn_norm.weight")
            f = oracle.silu(self.mul(x, p + "ffn_gate.weight")) * self.mul(x, p + "ffn_up.weight")
            h = h + self.mul(f, p + "ffn_down.weight")
        return h


def write(path, ids, n_vocab, logits):
    with open(path, "wb") as f:
        f.write(np.array([len(ids), n_vocab, *ids], "<i4").tobytes())
        f.write(logits[-N_ROWS:].astype("<f4").tobytes())


def main():
    folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent)
    for first, (name, (arch, dms)) in enumerate(MODELS.items()):
        for seed in range(1000):
            rng = np.random.default_rng(2000 + 1000 * first + seed)
            n_vocab = tiny.write_model(folder / f"{name}.gguf", rng, arch=arch, dms=dms, **SHAPE)
            ids = rng.permutation(np.arange(3, n_vocab))[:N_TOKENS]
            runs = [Model(folder / f"{name}.gguf", budget) for budget in (N_TOKENS, BUDGET)]
            try:
                logits = [m.logits(ids) for m in runs]
                break
            except TooClose:
                continue
        else:
            sys.exit(f"{name}: every seed has a decision within {MARGIN}")
        plain = oracle.Model(folder / f"{name}.gguf").logits(ids)
        write(folder / f"{name}.logits", ids, n_vocab, logits[0])
        write(folder / f"{name}-{BUDGET}.logits", ids, n_vocab, logits[1])
        moved = [np.abs(l - plain)[-N_ROWS:].max() for l in logits]
        print(f"{name}: seed {seed}, margin {min(m.margin for m in runs):.4f}, logits moved by {moved}")


if __name__ == "__main__":
    main()

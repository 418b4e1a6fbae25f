"""Independent forward pass of the model families llama, gemma3 and qwen3, in float64, from a GGUF file.

The `gguf` package reads and dequantises the file; every product, norm and softmax is numpy float64, so what differs
from the program is the program's rounding. Whole sequences at once, no cache: simple, and nothing to share with the
program. Needs `pip install numpy gguf regex`.

    m = oracle.Model(path);  logits = m.logits(ids)            # float64 [n][vocab]
    h = m.hidden(ids);  logits = m.head(h[a:b])                # the same for some rows: all of them may be large
"""
import gguf
import numpy as np


def log_softmax(x):
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def silu(x):
    return x / (1.0 + np.exp(-x))


def gelu_tanh(x):
    return 0.5 * x * (1.0 + np.tanh(np.sqrt(2.0 / np.pi) * (x + 0.044715 * x**3)))


class Model:
    def __init__(self, path):
        self.path = str(path)
        reader = gguf.GGUFReader(self.path)
        self.fields = reader.fields
        self.arch = self.meta("general.architecture")
        assert self.arch in ("llama", "gemma3", "qwen3"), self.arch
        assert not any(".rope.scaling." in k for k in self.fields), "RoPE scaling is not covered"
        key = lambda name, default=None: self.meta(f"{self.arch}.{name}", default)
        self.n_layer, self.n_embd = key("block_count"), key("embedding_length")
        self.n_head, self.n_kv = key("attention.head_count"), key("attention.head_count_kv")
        self.head_dim = key("attention.key_length", self.n_embd // self.n_head)
        self.eps = key("attention.layer_norm_rms_epsilon")
        self.base = key("rope.freq_base", 10000.0)
        self.window = key("attention.sliding_window", 0)
        self.tensors = {t.name: t for t in reader.tensors}
        self.cache = {}

    def meta(self, key, default=None):
        return self.fields[key].contents() if key in self.fields else default

    def weight(self, name):
        """The tensor dequantised to float32, slowest dimension first."""
        if name not in self.cache:
            t = self.tensors[name]
            w = gguf.quants.dequantize(t.data, t.tensor_type)
            self.cache[name] = np.asarray(w, np.float32).reshape([int(n) for n in reversed(t.shape)])
        return self.cache[name]

    def mul(self, x, name):
        """x [n][k] times the transpose of weight [m][k]."""
        w = self.weight(name)
        rows = range(0, len(w), 16384)          # in slices: a float64 copy of an embedding is large
        return np.concatenate([x @ w[i:i + 16384].astype(np.float64).T for i in rows], axis=1)

    def norm(self, x, name):
        w = self.weight(name).astype(np.float64)
        return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + self.eps) * w

    def rope(self, x, base):
        """x [n][heads][head_dim] at positions 0 to n - 1. In a llama file Q and K are stored so that neighbours
        (2i, 2i + 1) make a pair; in the other families (i, i + head_dim / 2) do."""
        half = self.head_dim // 2
        angle = np.outer(np.arange(len(x)), float(base) ** (-np.arange(half) / half))[:, None, :]
        cos, sin = np.cos(angle), np.sin(angle)
        first, second = (x[..., 0::2], x[..., 1::2]) if self.arch == "llama" else (x[..., :half], x[..., half:])
        out = np.empty_like(x)
        a, b = (out[..., 0::2], out[..., 1::2]) if self.arch == "llama" else (out[..., :half], out[..., half:])
        a[...], b[...] = first * cos - second * sin, first * sin + second * cos
        return out

    def is_local(self, layer):
        return self.arch == "gemma3" and layer % 6 != 5        # five local layers, then a global one

    def attention(self, x, layer):
        n, d, p = len(x), self.head_dim, f"blk.{layer}."
        q = self.mul(x, p + "attn_q.weight").reshape(n, self.n_head, d)
        k = self.mul(x, p + "attn_k.weight").reshape(n, self.n_kv, d)
        v = self.mul(x, p + "attn_v.weight").reshape(n, self.n_kv, d)
        if self.arch != "llama":
            q, k = self.norm(q, p + "attn_q_norm.weight"), self.norm(k, p + "attn_k_norm.weight")
        base = 10000.0 if self.is_local(layer) else self.base
        q, k = self.rope(q, base), self.rope(k, base)
        age = np.arange(n)[:, None] - np.arange(n)[None, :]
        seen = age >= 0
        if self.is_local(layer):
            seen &= age < self.window
        out = np.empty((n, self.n_head, d))
        for h in range(self.n_head):
            g = h * self.n_kv // self.n_head
            score = np.where(seen, q[:, h] @ k[:, g].T / np.sqrt(d), -np.inf)
            out[:, h] = np.exp(log_softmax(score)) @ v[:, g]
        return self.mul(out.reshape(n, -1), p + "attn_output.weight")

    def hidden(self, ids):
        """The residual stream after the last layer, of one sequence that starts at position 0: [n][n_embd]."""
        gemma = self.arch == "gemma3"
        act = gelu_tanh if gemma else silu
        h = self.weight("token_embd.weight")[np.asarray(ids)].astype(np.float64)
        if gemma:
            h = h * np.sqrt(self.n_embd)
        for i in range(self.n_layer):
            p = f"blk.{i}."
            a = self.attention(self.norm(h, p + "attn_norm.weight"), i)
            h = h + (self.norm(a, p + "post_attention_norm.weight") if gemma else a)
            x = self.norm(h, p + "ffn_norm.weight")
            f = act(self.mul(x, p + "ffn_gate.weight")) * self.mul(x, p + "ffn_up.weight")
            f = self.mul(f, p + "ffn_down.weight")
            h = h + (self.norm(f, p + "post_ffw_norm.weight") if gemma else f)
        return h

    def head(self, h):
        x = self.norm(h, "output_norm.weight")
        return self.mul(x, "output.weight" if "output.weight" in self.tensors else "token_embd.weight")

    def logits(self, ids):
        return self.head(self.hidden(ids))

#!/usr/bin/env python3
"""Writes the tiny random models of the tests, and what the oracle says of them.

    tiny.py [DIR]        default: the folder of this script; needs pip install numpy gguf regex

Each NAME.gguf is a whole model with a tokenizer, small enough to be committed. Between them they have every tensor
format, every family, grouped heads, a head size apart from n_embd / n_head, tied and untied output, and a window
much shorter than the text. NAME.logits holds little-endian int32 n_tokens, int32 n_vocab, int32 ids[n_tokens] and
float32 logits[n_tokens][n_vocab]. Same versions of numpy and gguf, same bytes.
"""
import pathlib
import sys

import gguf
import numpy as np

import oracle
import tokens

TYPES = gguf.GGMLQuantizationType
N_TOKENS = 100

# name: family, sizes, the formats that the matrices of successive layers take turns with, format of the embedding,
# and of the output (None: tied).
MODELS = {
    "tiny-llama-plain": dict(arch="llama", n_layer=3, n_embd=64, n_head=4, n_kv=2, n_ff=64,
                             formats=["F32", "F16", "BF16"], by_layer=True, embd="F16", out="BF16"),
    "tiny-llama-legacy": dict(arch="llama", n_layer=4, n_embd=64, n_head=4, n_kv=2, n_ff=96,
                              formats=["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"], embd="Q8_0", out=None),
    "tiny-llama-k": dict(arch="llama", n_layer=1, n_embd=256, n_head=8, n_kv=2, n_ff=256,
                         formats=["Q4_K", "Q5_K", "Q6_K"], embd="Q6_K", out="Q4_K"),
    "tiny-gemma3": dict(arch="gemma3", n_layer=7, n_embd=64, n_head=4, n_kv=2, n_ff=96,
                        formats=["Q5_0", "Q8_0", "F16", "Q4_1"], embd="Q8_0", out=None),
    "tiny-qwen3": dict(arch="qwen3", n_layer=3, n_embd=64, n_head=4, n_kv=2, n_ff=96,
                       formats=["Q8_0", "Q4_0", "F16"], embd="Q8_0", out="Q5_1"),
}
HEAD_DIM, WINDOW, CONTEXT = 32, 16, 512


def random_blocks(rng, kind, rows, cols):
    """Random but valid K-quant blocks: gguf writes none. Scales are chosen so that weights have about unit variance
    after division by the square root of cols, and mean zero."""
    block, size = gguf.GGML_QUANT_SIZES[TYPES[kind]]
    n = rows * cols // block
    raw = rng.integers(0, 256, (n, size), dtype=np.uint8)
    scale = rng.uniform(0.7, 1.3, (n, 1)) / np.sqrt(cols)
    half = lambda x: x.astype(np.float16).view(np.uint8)
    if kind == "Q6_K":                             # d * scale (int8) * (q - 32)
        raw[:, -2:] = half(scale / 1350)
    else:                                          # d * scale (6 bit) * q - dmin * min (6 bit)
        top = {"Q4_K": 15, "Q5_K": 31}[kind]
        raw[:, 0:2] = half(scale / (12 * top))
        raw[:, 2:4] = half(scale / 24)
    return raw.reshape(rows, -1)


def add_matrix(writer, rng, name, kind, rows, cols):
    if kind.endswith("_K"):
        writer.add_tensor(name, random_blocks(rng, kind, rows, cols), raw_dtype=TYPES[kind])
        return
    w = (rng.standard_normal((rows, cols)) / np.sqrt(cols)).astype(np.float32)
    writer.add_tensor(name, gguf.quants.quantize(w, TYPES[kind]), raw_dtype=TYPES[kind])


def add_norm(writer, rng, name, n, mean=1.0):
    writer.add_tensor(name, (mean * rng.uniform(0.5, 1.5, n)).astype(np.float32))


WORDS = ["he", "th", "the", "in", "an", "and", "er", "on", " t", " the", " a", " and", " o", " of", " w"]


def add_tokenizer(writer, arch):
    """Bytes, a few joined pieces and three control tokens: counts that no tile divides."""
    normal, control, byte = gguf.TokenType.NORMAL, gguf.TokenType.CONTROL, gguf.TokenType.BYTE
    if arch != "gemma3":
        letters = tokens.byte_letters()
        spell = lambda text: "".join(letters[b] for b in text.encode())
        merges = [("h", "e"), ("t", "h"), ("th", "e"), ("i", "n"), ("a", "n"), ("an", "d"), ("e", "r"), ("o", "n"),
                  (" ", "t"), (" t", "he"), (" ", "a"), (" a", "nd"), (" ", "o"), (" o", "f"), (" ", "w"), ("o", "f")]
        names = ["<unk>", "<s>", "</s>"] + [letters[b] for b in range(256)] + [spell(a + b) for a, b in merges]
        types = [control] * 3 + [normal] * (len(names) - 3)
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("qwen2" if arch == "qwen3" else "smollm")
        writer.add_token_merges([f"{spell(a)} {spell(b)}" for a, b in merges])
        writer.add_add_bos_token(False)
    else:
        pieces = [*"adefhinortw", "\u2581"] + [w.replace(" ", "\u2581") for w in WORDS]
        pieces = list(dict.fromkeys(pieces))
        names = ["<pad>", "<eos>", "<bos>"] + [f"<0x{b:02X}>" for b in range(256)] + pieces
        types = [control] * 3 + [byte] * 256 + [normal] * len(pieces)
        writer.add_tokenizer_model("llama")
        writer.add_token_scores([0.0] * 259 + [-float(i) for i in range(len(pieces))])
        writer.add_add_bos_token(True)
        writer.add_add_space_prefix(False)
    writer.add_token_list(names)
    writer.add_token_types(types)
    writer.add_bos_token_id(2 if arch == "gemma3" else 1)
    writer.add_eos_token_id(1 if arch == "gemma3" else 2)
    writer.add_unk_token_id(0)
    return len(names)


def write_model(path, rng, arch, n_layer, n_embd, n_head, n_kv, n_ff, formats, embd, out, by_layer=False,
                dms=None):
    w = gguf.GGUFWriter(path, arch)
    w.add_name(path.stem)
    w.add_block_count(n_layer)
    w.add_context_length(CONTEXT)
    w.add_embedding_length(n_embd)
    w.add_feed_forward_length(n_ff)
    w.add_head_count(n_head)
    w.add_head_count_kv(n_kv)
    w.add_key_length(HEAD_DIM)
    w.add_value_length(HEAD_DIM)
    w.add_rope_freq_base(10000.0 if arch == "llama" else 1000000.0)
    w.add_layer_norm_rms_eps(1e-5 if arch == "llama" else 1e-6)
    if arch == "gemma3":
        w.add_sliding_window(WINDOW)
    elif arch == "llama":
        w.add_rope_dimension_count(HEAD_DIM)
    if dms:
        for key, value in dms.items():
            add = {str: w.add_string, int: w.add_uint32, float: w.add_float32}[type(value)]
            add(f"kept.dms.{key}", value)
    n_vocab = add_tokenizer(w, arch)
    if arch == "llama":
        w.add_vocab_size(n_vocab)
    add_matrix(w, rng, "token_embd.weight", embd, n_vocab, n_embd)
    turn = 0
    for i in range(n_layer):
        q, kv = n_head * HEAD_DIM, n_kv * HEAD_DIM
        for name, rows, cols in (("attn_q", q, n_embd), ("attn_k", kv, n_embd), ("attn_v", kv, n_embd),
                                 ("attn_output", n_embd, q), ("ffn_gate", n_ff, n_embd), ("ffn_up", n_ff, n_embd),
                                 ("ffn_down", n_embd, n_ff)):
            kind = formats[(i if by_layer else turn) % len(formats)]
            add_matrix(w, rng, f"blk.{i}.{name}.weight", kind, rows, cols)
            turn += 1
        for name in ("attn_norm", "ffn_norm"):
            add_norm(w, rng, f"blk.{i}.{name}.weight", n_embd)
        if dms and dms["form"] == "separate":
            add_matrix(w, rng, f"blk.{i}.attn_dms.weight", "F32", n_kv, n_embd)
            add_norm(w, rng, f"blk.{i}.attn_dms_norm.weight", n_embd)
        if arch == "gemma3":
            for name in ("post_attention_norm", "post_ffw_norm"):
                add_norm(w, rng, f"blk.{i}.{name}.weight", n_embd)
        if arch != "llama":
            for name in ("attn_q_norm", "attn_k_norm"):
                add_norm(w, rng, f"blk.{i}.{name}.weight", HEAD_DIM)
    add_norm(w, rng, "output_norm.weight", n_embd, mean=3.0)           # decided logits: errors show in the KL
    if out:
        add_matrix(w, rng, "output.weight", out, n_vocab, n_embd)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return n_vocab


def main():
    folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent)
    for seed, (name, shape) in enumerate(MODELS.items()):
        rng = np.random.default_rng(1000 + seed)
        path = folder / f"{name}.gguf"
        n_vocab = write_model(path, rng, **shape)
        ids = rng.integers(3, n_vocab, N_TOKENS)
        logits = oracle.Model(path).logits(ids)
        with open(folder / f"{name}.logits", "wb") as f:
            f.write(np.array([N_TOKENS, n_vocab, *ids], "<i4").tobytes())
            f.write(logits.astype("<f4").tobytes())
        print(f"{name}: {path.stat().st_size} bytes, vocabulary {n_vocab}, "
              f"standard deviation of the logits {logits.std():.2f}")


if __name__ == "__main__":
    main()

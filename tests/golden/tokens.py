"""Independent tokenizer for the two golden models: byte-level BPE with the 'smollm' pattern, and SentencePiece-style
merging by score with byte fallback. Text only: special tokens in the text are not recognised.

    ids = tokens.encode(model, text)         # model: oracle.Model; BOS is added where the model adds one
"""
import heapq

import regex

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def byte_letters():
    """GPT-2's printable stand-ins for the 256 bytes."""
    keep = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in keep]
    return {b: chr(b) for b in keep} | {b: chr(256 + i) for i, b in enumerate(rest)}


def merge(parts, rank):
    """Joins the neighbours of lowest rank(a, b), the leftmost first, until no pair has a rank."""
    n = len(parts)
    after, before, heap = list(range(1, n + 1)), list(range(-1, n - 1)), []

    def push(i):
        j = after[i]
        if j < n and (r := rank(parts[i], parts[j])) is not None:
            heapq.heappush(heap, (r, i, parts[i], parts[j]))

    for i in range(n):
        push(i)
    while heap:
        _, i, a, b = heapq.heappop(heap)
        j = after[i]
        if parts[i] != a or j >= n or parts[j] != b:
            continue                                            # one of the two has been joined meanwhile
        parts[i], parts[j] = a + b, None
        after[i] = after[j]
        if after[j] < n:
            before[after[j]] = i
        push(i)
        if before[i] >= 0:
            push(before[i])
    return [p for p in parts if p is not None]


def encode(model, text):
    meta = lambda name: model.meta("tokenizer.ggml." + name)
    vocab = {t: i for i, t in enumerate(meta("tokens"))}
    ids = [meta("bos_token_id")] if meta("add_bos_token") else []
    if meta("model") == "gpt2":
        ranks = {tuple(m.split(" ")): i for i, m in enumerate(meta("merges"))}
        letters = byte_letters()
        for outer in regex.findall(r"\p{N}|[^\p{N}]+", text):   # smollm: every digit stands alone
            for word in regex.findall(GPT2, outer):
                parts = [letters[b] for b in word.encode()]
                ids += [vocab[p] for p in merge(parts, lambda a, b: ranks.get((a, b)))]
        return ids
    scores = meta("scores")
    rank = lambda a, b: -scores[vocab[a + b]] if a + b in vocab else None
    types = meta("token_type")                   # 4: user-defined, found before anything is merged
    whole = {t for t, kind in zip(vocab, types) if kind == 4}
    pattern = "|".join(regex.escape(t) for t in sorted(whole, key=len, reverse=True)) or "(?!)"
    for piece in regex.split(f"({pattern})", text):
        for part in [piece] if piece in whole else merge(list(piece.replace(" ", "\u2581")), rank):
            ids += [vocab[part]] if part in vocab else [vocab[f"<0x{b:02X}>"] for b in part.encode()]
    return ids

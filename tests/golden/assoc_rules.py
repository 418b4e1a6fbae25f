"""The rules of associative memory in numpy: written from the method, not from the library.

The method is CAMELoT's (He et al. 2024, arXiv 2402.13449), as a prototype in torch had it that is not in this
repository. Tokens leaving the window are written in sub-batches of 16: each is compared with the slots by the cosine of
un-rotated keys; from the threshold on it is averaged into the most similar one (keys, values, positions, weighted by
counts), else it is new; then the best M slots stay, by age or by expected attention x |v| x count. `prototype` below is
that, but for ranking by the key that is read instead of the mean of rotated keys.

What the library does otherwise, as its documentation says (src/kernel/params.h, docs/memory.md), and what `maintain`
does with it:

- Slots are pruned once a block (64 tokens; 128 in one setting here), not after each sub-batch.
- Keys and values are stored in f16, keys rotated at the rounded mean position; sub-batches of a block work on f32.
- kept form, unless it is asked not to: keys are compared and averaged as they are stored, at their positions.
- kept form: heads that are within their budget consolidate nothing (only_over).
- kept form: all slots are scored every `refresh` tokens (256), before the block is consolidated; in between only what
  leaves is scored, against the sums of the last time, and the scores of the others grow with their counts.
- kept form: slots are ranked by the key that is read, not by the mean of rotated keys. (The softmax is over the memory
  alone and counts multiply it afterwards, as in the prototype.)
- kept form, unless merging is off: what is dropped gives its value, weighted by expected attention, to the kept slot
  with the most similar key; bias, weight and score of that slot grow.
- published form: all memory is read at the position before the window; a slot's age is the block in which it changed.
- Of equals the lower slot is taken, or goes.
"""
import numpy as np

SUB, FUTURE = 16, 512
TIE = 1e-6                                                       # cosines in f32 differ by less from rounding
PLANES = ("pos", "bias", "count", "frac", "stamp")


class Setting:
    """The head line of a recording, and tables of rotation."""

    def __init__(self, head):
        self.__dict__.update(head)
        i = np.arange(self.n_rot // 2)
        self.at = (2 * i, 2 * i + 1) if self.pairs == 1 else (i, i + self.n_rot // 2)
        self.frequency = self.base ** (-2.0 * i / self.n_rot) * self.scale
        angle = np.arange(FUTURE)[:, None] * self.frequency
        self.mean = np.exp(1j * angle).mean(0)
        self.group = self.n_head // self.n_kv
        self.most = self.blocks * self.block
        self.table = np.exp(1j * np.arange(-self.most, self.most + 1)[:, None] * self.frequency)

    def turn(self, x, by):
        """Rows of x, each pair times a complex number: by [n or 1][n_rot/2]."""
        a, b = self.at
        z = (x[..., a] + 1j * x[..., b]) * by
        out = np.array(x)
        out[..., a], out[..., b] = z.real, z.imag
        return out

    def rotation(self, positions):
        return self.table[np.asarray(positions, int) + self.most]

    def expected(self, keys, position, mean, covariance):
        """Expected logits [query head of the group][slot] of stored keys, over the next positions."""
        y = self.turn(keys, np.conj(self.rotation([position]) * self.mean))
        q = self.q_scale
        return np.stack([q * (y @ m) + q * q / 2 * np.einsum("si,si->s", y @ c, y) for m, c in zip(mean, covariance)])


def moments(s1, s2, end, sinks):
    n = max(end - sinks, 1)
    mean = s1 / n
    return mean, s2 / n - mean[:, :, None] * mean[:, None, :]


class Head:
    """The slots of one KV head: k as stored (rotated), v, planes, score and weight; lse and top of its query heads."""

    NAMES = ("k", "v", *PLANES, "score", "weight")

    def __init__(self, budget, **arrays):
        self.budget, self.scored = budget, False
        for name in self.NAMES:
            setattr(self, name, arrays[name])
        self.lse = self.top = None

    def take(self, order):
        for name in self.NAMES:
            setattr(self, name, getattr(self, name)[order])


class Decisions:
    """Of one block: `begin` the first slot that left, target [left] (-1: new), tied (the choice of the other side was
    taken), averaged planes, lost slots (those that go and were not consolidated), the order after."""


def cosines(a, b):
    with np.errstate(all="ignore"):
        like = a @ b.T / (np.linalg.norm(a, axis=1)[:, None] * np.linalg.norm(b, axis=1))
    return np.where(np.isfinite(like), like, -3e38)


def average(s, h, raw, t, r, end, store):
    """Tokens t go into slots r."""
    u, index, n = np.unique(r, return_inverse=True, return_counts=True)
    c = h.count[u]
    new = c + n
    for x in (raw, h.v):
        total = x[u] * c[:, None]
        np.add.at(total, index, x[t])
        x[u] = total / new[:, None]
    h.v[u] = store(h.v[u])
    if s.published:
        h.score[u] = end
    else:
        moved = c * h.frac[u]
        np.add.at(moved, index, h.pos[t].astype(float) - h.pos[r])
        delta = moved / new
        whole = np.floor(delta + .5)
        h.pos[u] += whole.astype(int)
        h.frac[u] = delta - whole
        gain = new / c
        h.bias[u] += np.log(gain)
        h.weight[u] += np.log(gain)
        h.score[u] *= gain
    h.count[u] = new
    h.stamp[u] = end
    h.k[u] = store(s.turn(raw[u], s.rotation(h.pos[u])) if s.unrotated else raw[u])


def choose(s, like, old, t, out, theirs):
    """The slot for each token, and whether it goes there. Where several are equally good but for rounding, what
    `theirs` chose: a model's first layer gives the same token the same key wherever it stands."""
    best = like.max(1)
    r, hit = old[like.argmax(1)], best >= s.threshold
    if theirs is None:
        return r, hit
    want = theirs[t - out.begin]
    at = np.searchsorted(old, want).clip(0, len(old) - 1)
    found = (want >= 0) & (old[at] == want)
    good = np.where(found, like[np.arange(len(t)), at], -np.inf)
    tied = found & (good >= np.maximum(best, s.threshold) - TIE)
    tied |= (want == -1) & hit & (best < s.threshold + TIE)
    out.tied[t - out.begin] = tied & (np.where(hit, r, -1) != want)
    return np.where(tied & found, want, r), np.where(tied, want >= 0, hit)


def consolidate(s, h, out, c, end, store, theirs):
    """Sub-batches of what leaves: slots out.begin … c-1."""
    raw = np.zeros_like(h.k)
    m = slice(s.sinks, c)
    raw[m] = s.turn(h.k[m], np.conj(s.rotation(h.pos[m]))) if s.unrotated else h.k[m]
    for first in range(c - s.block, c, SUB):
        t = np.arange(max(first, s.sinks), max(first + SUB, s.sinks))
        old = np.arange(s.sinks, max(first, s.sinks))
        old = old[~out.gone[old]]
        if len(t) and len(old):
            like = cosines(raw[t], raw[old])
            r, hit = choose(s, like, old, t, out, theirs)
        else:
            r, hit = t, np.zeros(len(t), bool)
        if s.published:
            h.score[t[~hit]] = end
        if hit.any():
            out.target[t[hit] - out.begin] = r[hit]
            out.gone[t[hit]] = True
            average(s, h, raw, t[hit], r[hit], end, store)


def rank(s, h, out, c, z, lengths, begin):
    """Scores and weights of slots from `begin` on, whose z and |v| were taken before consolidation."""
    n = len(h.pos)
    if begin == 0:
        stay = ~out.gone
        memory = stay.copy()
        memory[:s.sinks] = memory[c:] = False
        h.top = z[:, stay].max(1)
        most = z[:, memory].max(1, keepdims=True)
        h.lse = most[:, 0] + np.log(np.exp(z[:, memory] - most).sum(1))
    at = np.arange(begin, n)[~out.gone[begin:]]
    x = z[:, at - begin]
    h.score[at] = np.exp(x + h.bias[at] - h.lse[:, None]).mean(0) * lengths[at - begin]
    h.weight[at] = np.log(np.exp(x - h.top[:, None]).sum(0)) + h.bias[at]
    h.scored = True


def transfer(h, out, store):
    """Values of what goes into the most similar kept slot."""
    n = len(h.pos)
    kept = np.setdiff1d(np.arange(n), out.evicted)
    e = out.lost
    if not len(e):
        return
    like = h.k[e] @ h.k[kept].T / np.linalg.norm(h.k[kept], axis=1)
    r = kept[like.argmax(1)]
    w = np.minimum(np.exp(h.weight[e] - h.weight[r]), 1e4)
    sums = np.zeros(n)
    np.add.at(sums, r, w)
    v = h.v.copy()
    np.add.at(v, r, w[:, None] * h.v[e])
    u = np.unique(r)
    h.v[u] = store(v[u] / (1 + sums[u, None]))
    h.bias[u] += np.log1p(sums[u])
    h.weight[u] += np.log1p(sums[u])
    h.score[u] *= 1 + sums[u]


def order_after(out, c, m, n):
    """Slots as they lie afterwards: gaps are filled from behind, the window moves down."""
    order = np.arange(c - m)
    holes = out.evicted[out.evicted < c - m]
    order[holes] = np.setdiff1d(np.arange(c - m, c), out.evicted)
    return np.concatenate((order, np.arange(c, n)))


def maintain(s, h, end, stats, store, theirs=None):
    """One block of one head, by the library's rules; h becomes what it is afterwards. theirs: targets to follow
    in ties; -2: unknown."""
    n, out = len(h.pos), Decisions()
    c = max(n - s.window, 0)
    over = max(n - h.budget, 0)
    out.begin = max(s.sinks, c - s.block)
    out.target = np.full(max(c - out.begin, 0), -1)
    out.tied = np.zeros(len(out.target), bool)
    out.gone = np.zeros(n, bool)
    out.active = bool(s.published or over) and c > out.begin
    left = slice(out.begin, max(c, out.begin))
    h.count[left], h.frac[left], h.stamp[left] = 1, 0, end
    begin = 0 if not h.scored or end % s.refresh == 0 else max(0, n - s.window - s.block)
    if over and not s.published:
        z = s.expected(h.k[begin:], end, *stats)
        lengths = np.linalg.norm(h.v[begin:], axis=1)
    if out.active:
        consolidate(s, h, out, c, end, store, theirs)
    out.averaged = {name: getattr(h, name).copy() for name in PLANES}
    m = min(max(over, int(out.gone.sum())), s.block, max(c - s.sinks, 0))
    if over and m and not s.published:
        rank(s, h, out, c, z, lengths, begin)
    at = np.arange(s.sinks, max(c, s.sinks))
    out.evicted = np.sort(at[np.lexsort((at, h.score[at], ~out.gone[at]))[:m]])
    out.lost = out.evicted[~out.gone[out.evicted]]
    if s.merge and m:
        transfer(h, out, store)
    out.order = order_after(out, c, m, n)
    h.take(out.order)
    if s.published:
        memory = slice(s.sinks, max(s.sinks, len(h.pos) - s.window))
        new = end - s.window - 1
        h.k[memory] = store(s.turn(h.k[memory], s.rotation(new - h.pos[memory])))
        h.pos[memory] = new
    return out


def prototype(s, h, end, stats):
    """The prototype's write of the same tokens into the same slots: (target [left], the slots that go)."""
    c = max(len(h.pos) - s.window, 0)
    begin = max(s.sinks, c - s.block)
    position = (h.pos + h.frac)[:c]
    raw = s.turn(h.k[:c], np.conj(s.rotation(h.pos[:c])))
    v, count, age = h.v[:c].copy(), h.count[:c].copy(), h.stamp[:c].astype(float)
    memory, target = np.arange(s.sinks, begin), np.full(c - begin, -1)
    for a in range(begin, c, SUB):
        t, new = np.arange(a, min(a + SUB, c)), end + a - begin
        like = cosines(raw[t], raw[memory]) if len(memory) else np.full((len(t), 1), -2.)
        hit = like.max(1) >= s.threshold
        count[t], age[t] = 1, new
        if hit.any():
            r = memory[like.argmax(1)][hit]
            target[t[hit] - begin] = r
            n = np.bincount(r, minlength=c)
            u = np.unique(r)
            for x in (raw, v, position[:, None]):
                total = x * count[:, None]
                np.add.at(total, r, x[t[hit]])
                x[u] = total[u] / (count + n)[u, None]
            count[u] += n[u]
            age[u] = new
        memory = np.concatenate((memory, t[~hit]))
        room = h.budget - s.sinks - s.window
        if hit.all() or len(memory) <= room:
            continue
        worth = age[memory]
        if not s.published:
            z = s.expected(s.turn(raw[memory], s.rotation(np.rint(position[memory]))), end, *stats)
            p = np.exp(z - z.max(1, keepdims=True))
            p = (p / p.sum(1, keepdims=True)).mean(0)
            worth = p * np.linalg.norm(v[memory], axis=1) * count[memory]
        memory = np.sort(memory[np.lexsort((memory, worth))[len(memory) - room:]])
    joined = begin + np.flatnonzero(target >= 0)
    return target, np.setdiff1d(np.arange(s.sinks, c), np.concatenate((memory, joined)))

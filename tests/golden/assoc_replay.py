#!/usr/bin/env python3
"""What associative memory does with a real text, replayed by independent rules (assoc_rules.py):

    assoc_replay.py PROGRAM MODEL_NAME DEVICE     PROGRAM: the executable of assoc_record.c

For every block of tokens the recording has what the rules read (keys, values, positions, counts, statistics of the
queries) and what was decided. Each block is replayed from the recorded state. A write is a token that leaves the window
of a head which consolidates. It is equal when it is new in both or goes into the same slot in both, whose count is the
same and whose position is within 0.5 afterwards. Slots whose cosines differ by less than 1e-6 (tied, counted beside it)
are as good as each other: the replay follows. Required, of each setting:

writes       99.9 % equal
replaced     99.9 % of the slots that go are the same
slots        of all slots of memory after a block 99.9 % have the same count, and a position within 0.5
content      99.9 % of them have key and value within 0.5 % (of their length)

Reported beside it: the whole stream from end to end, the replay carrying its own state in float64 from block to block
(equal: the same, slots being known by the token that opened them); and the prototype's own order of work (pruning
after every 16 tokens, every head consolidates) on the recorded states.

Needs the model and the text in the cache (tools/check puts them there) and numpy (tools/setup/oracle installs it); exit
code 77 where one of them or the device lacks.
"""
import json
import os
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "kept"
SKIP, BOUND = 77, .999

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
try:
    import numpy as np
except ImportError:
    if "KEPT_ORACLE" in os.environ:
        print("skipped: numpy is not there: tools/setup/oracle installs it")
        sys.exit(SKIP)
    runner = HERE.parents[1] / "tools" / "setup" / "oracle"
    os.environ["KEPT_ORACLE"] = "1"
    if subprocess.run([runner, "--prepare"], stdin=subprocess.DEVNULL).returncode:
        print("skipped: numpy is not there, and tools/setup/oracle cannot install it")
        sys.exit(SKIP)
    sys.exit(subprocess.run([runner, __file__, *sys.argv[1:]], stdin=subprocess.DEVNULL).returncode)

from assoc_rules import PLANES, Head, Setting, maintain, moments, prototype  # noqa: E402

FILLS, LOST, LISTS = 2, 5, 8                                     # of moves


def settings(device):
    """(what it is, tokens, options): 4 first tokens, 128 last, 384 of memory; less where a test has to be short."""
    size = ["slots", 124, "window", 64] if device == "vulkan" else ["slots", 384, "window", 128]
    less = ["slots", 60, "window", 64] if device == "vulkan" else ["slots", 192, "window", 128]
    tokens = [448, 320, 384] if device == "vulkan" else [2048, 896, 896]
    return [("kept", tokens[0], ["form", 1, *size]),
            ("published", tokens[1], ["form", 2, *less]),
            ("kept, as near to the prototype as options allow", tokens[2],
             ["form", 1, *size, "unrotated", 1, "block", 128, "refresh", 128, "merge", 0])]


# ---- the recording ----

class Recording:
    """Reads blocks of layers as assoc_record.c writes them."""

    def __init__(self, stream):
        self.stream = stream
        self.s = Setting(json.loads(stream.readline()))

    def array(self, dtype, *shape):
        raw = self.stream.read(np.dtype(dtype).itemsize * int(np.prod(shape)))
        return np.frombuffer(raw, np.dtype(dtype).newbyteorder("<")).reshape(shape)

    def meta(self, total):
        words = self.array("u4", len(PLANES), total)
        return {name: words[i].view("<i4" if name in ("pos", "stamp") else "<f4") for i, name in enumerate(PLANES)}

    def state(self, total):
        s = self.s
        out = {"table": self.array("u4", s.n_kv, 12)}
        out["k"], out["v"] = self.array("f2", total, s.d), self.array("f2", total, s.d)
        out.update(self.meta(total))
        out["score"], out["weight"] = self.array("f4", 2, total)
        return out

    def layer(self, layer):
        """One layer's block."""
        s, total, out = self.s, layer["total"], {}
        out["before"] = self.state(total)
        if not s.published:
            out["stats"] = self.array("f4", s.n_head, s.d * s.d + s.d + 16)
            out["queries"] = self.array("f4", layer["query_rows"], s.n_head, s.d)
        out["averaged"] = self.meta(total)
        out["near"] = self.array([("like", "<f4"), ("slot", "<u4")], s.n_kv, layer["n_splits"], s.block)
        out["moves"] = self.array("u4", s.n_kv, 8 + 3 * s.block)
        out["after"] = self.state(total)
        return out


def head_of(s, state, layer, i, n):
    """The first n slots of KV head i as a Head of float64."""
    first, _, budget = layer["heads"][i]
    part = slice(first, first + n)
    arrays = {name: state[name][part].astype(int if name in ("pos", "stamp") else float) for name in Head.NAMES}
    head = Head(budget, **arrays)
    head.scored = bool(state["table"][i][6])
    return head


class Decided:
    """What the library decided about a head, named as in Decisions."""

    def __init__(self, s, record, layer, i, n):
        first = layer["heads"][i][0]
        c = max(n - s.window, 0)
        begin = max(s.sinks, c - s.block)
        near = record["near"][i]
        best = near["like"].argmax(0)                            # of equals the lower split, whose slots are lower
        slot = near["slot"][best, np.arange(s.block)].astype(int)
        pos = record["averaged"]["pos"][first:first + n]
        gone = pos == -2**31
        at = np.arange(begin, max(c, begin))
        self.target = np.where(gone[at], slot[at - (c - s.block)], -1)
        self.averaged = {name: record["averaged"][name][first:first + n] for name in PLANES}
        moves = record["moves"][i]
        m, fills, lost = int(moves[0]), int(moves[FILLS]), int(moves[LOST])
        self.lost = moves[LISTS:LISTS + lost].astype(int)
        source, to = (moves[LISTS + k * s.block:LISTS + k * s.block + fills].astype(int) for k in (1, 2))
        order = np.arange(c - m)
        order[to] = source
        self.order = np.concatenate((order, np.arange(c, n)))


# ---- comparisons ----

class Tally(dict):
    def add(self, name, equal, total):
        a, b = self.get(name, (0, 0))
        self[name] = (a + int(equal), b + int(total))

    def share(self, name):
        equal, total = self.get(name, (0, 0))
        return equal / total if total else 1.

    def line(self):
        return ", ".join(f"{name} {self.share(name):.4%} of {total}" for name, (_, total) in self.items())


def compare(s, tally, ours, theirs, after, want):
    """A block of a head replayed from the recorded state."""
    if ours.active:
        same = ours.target == theirs.target
        slot = np.where(ours.target >= 0, ours.target, ours.begin + np.arange(len(same)))
        a, b = ours.averaged, theirs.averaged
        same &= a["count"][slot] == b["count"][slot]
        same &= np.abs(a["pos"][slot] + a["frac"][slot] - b["pos"][slot] - b["frac"][slot]) <= .5
        tally.add("writes", same.sum(), len(same))
        tally.add("tied", ours.tied.sum(), len(same))
        tally.add("averaged", (theirs.target >= 0).sum(), len(same))
    a, b = ours.lost, theirs.lost
    tally.add("replaced", len(np.intersect1d(a, b)), max(len(a), len(b)))
    if not ours.active:
        return
    most = max(len(after.pos), len(want.pos)) - s.window - s.sinks
    memory = np.arange(s.sinks, max(s.sinks, min(len(after.pos), len(want.pos)) - s.window))
    after.take(memory)
    want.take(memory)
    same = after.count == want.count
    same &= np.abs(after.pos + after.frac - want.pos - want.frac) <= .5
    tally.add("slots", same.sum(), most)
    keys = s.turn(after.k, s.rotation(want.pos - after.pos))      # half a position may be rounded up or down
    for x, y in ((keys, want.k), (after.v, want.v)):
        same &= np.linalg.norm(x - y, axis=1) <= .005 * np.linalg.norm(y, axis=1)
    tally.add("content", same.sum(), most)


def compare_prototype(tally, ours, theirs, active):
    target, gone = ours
    for name in ("of heads over their budget", "of all heads")[0 if active else 1:]:
        tally.add("writes " + name, (target == theirs.target).sum(), len(target))
    if active:
        tally.add("replaced", len(np.intersect1d(gone, theirs.lost)), max(len(gone), len(theirs.lost)))


# ---- the replay ----

def known(mine, who, target):
    """Their targets as ours: the slots that were opened by the same tokens."""
    where = {token: slot for slot, token in enumerate(mine)}
    return np.array([where.get(who[t], -2) if t >= 0 else -1 for t in target], int)


def half(x):
    return x.astype("f2").astype(float)


class Replay:
    def __init__(self, recording, stream, near):
        self.s, self.recording, self.stream, self.near = recording.s, recording, stream, near
        self.tally, self.whole, self.literal = Tally(), Tally(), Tally()
        self.sums, self.heads = {}, {}

    def run(self):
        for block in range(self.s.blocks):
            for layer in self.s.layers:
                self.layer(layer, self.recording.layer(layer), (block + 1) * self.s.block)

    def layer(self, layer, record, end):
        s = self.s
        stats = own = None
        if not s.published:
            rows = np.arange(end - s.block, end)
            q = record["queries"][rows[rows >= s.sinks] % layer["query_rows"]].astype(float).transpose(1, 0, 2)
            s1, s2 = q.sum(1), q.transpose(0, 2, 1) @ q
            raw = record["stats"].astype(float)
            d = s.d
            stats = moments(raw[:, d * d:d * d + d] + s1, raw[:, :d * d].reshape(-1, d, d) + s2, end, s.sinks)
            before = self.sums.get(layer["layer"], (0, 0))
            self.sums[layer["layer"]] = (before[0] + s1, before[1] + s2)
            own = moments(*self.sums[layer["layer"]], end, s.sinks)
        for i in range(s.n_kv):
            group = slice(i * s.group, (i + 1) * s.group)
            pick = [None if x is None else (x[0][group], x[1][group]) for x in (stats, own)]
            self.head(layer, record, end, i, pick)

    def head(self, layer, record, end, i, stats):
        s, table = self.s, record["before"]["table"][i].astype(np.int32)
        n = int(table[3]) + end - int(table[4])
        theirs = Decided(s, record, layer, i, n)
        head = head_of(s, record["before"], layer, i, n)
        if not s.published:
            sums = record["stats"][i * s.group:(i + 1) * s.group].astype(float)
            head.lse, head.top = sums[:, s.d * s.d + s.d], sums[:, s.d * s.d + s.d + 1]
        if self.near and n > s.window + s.sinks:
            active = n > head.budget
            compare_prototype(self.literal, prototype(s, head, end, stats[0]), theirs, active)
        ours = maintain(s, head, end, stats[0], half, theirs.target)
        want = head_of(s, record["after"], layer, i, len(theirs.order))
        if self.stream:
            self.follow(layer, record, end, i, stats[1], theirs, want)
        compare(s, self.tally, ours, theirs, head, want)

    def follow(self, layer, record, end, i, stats, theirs, want):
        """The stream from end to end: `who` are the positions of the tokens that opened the slots, ours and theirs."""
        s, first = self.s, layer["heads"][i][0]
        n = len(theirs.averaged["pos"])
        new = head_of(s, record["before"], layer, i, n)
        new.take(np.arange(n - s.block, n))
        tokens = np.arange(end - s.block, end)
        head, mine, who = self.heads.get((layer["layer"], i), (None, tokens[:0], tokens[:0]))
        if head is None:
            head = new
            head.scored = False
        else:
            for name in Head.NAMES:
                setattr(head, name, np.concatenate((getattr(head, name), getattr(new, name))))
        mine, who = np.concatenate((mine, tokens)), np.concatenate((who, tokens))
        ours = maintain(s, head, end, stats, lambda x: x, known(mine, who, theirs.target))
        if len(theirs.target) and len(ours.target) == len(theirs.target):
            a = np.where(ours.target >= 0, mine[ours.target], -1)
            b = np.where(theirs.target >= 0, who[theirs.target], -1)
            if ours.active:
                self.whole.add("writes", (a == b).sum(), len(a))
                self.whole.add("tied", ours.tied.sum(), len(a))
            a, b = mine[ours.lost], who[theirs.lost]
            self.whole.add("replaced", len(np.intersect1d(a, b)), max(len(a), len(b)))
        mine, who = mine[ours.order], who[theirs.order]
        if end // s.block == s.blocks:
            self.last(head, want, mine, who)
        self.heads[layer["layer"], i] = head, mine, who

    def last(self, head, want, mine, who):
        s = self.s
        a, b = mine[s.sinks:len(mine) - s.window], who[s.sinks:len(who) - s.window]
        both, x, y = np.intersect1d(a, b, return_indices=True)
        self.whole.add("slots at the end in both", len(both), max(len(a), len(b)))
        x, y = x + s.sinks, y + s.sinks
        self.whole.add("of these the same count", (head.count[x] == want.count[y]).sum(), len(both))
        close = np.abs(head.pos[x] + head.frac[x] - want.pos[y] - want.frac[y]) <= .5
        self.whole.add("position within 0.5", close.sum(), len(both))


def replay(program, model, text, device, setting):
    name, tokens, options = setting
    read, write = os.pipe()
    args = [program, model, text, device, tokens, f"/dev/fd/{write}", *options]
    p = subprocess.Popen([str(a) for a in args], stdin=subprocess.DEVNULL, pass_fds=[write])
    os.close(write)
    near = "prototype" in name
    with open(read, "rb", 1 << 20) as stream:
        try:
            run = Replay(Recording(stream), not near, near or "published" in name)
            run.run()
        except ValueError as e:                                  # the recording ends early
            failure = e
        else:
            failure = None
    code = p.wait()
    if code == SKIP:
        print(f"skipped: no device '{device}'")
        sys.exit(SKIP)
    if code or failure:
        sys.exit(f"{name}: exit code {code}, {failure}")
    good = all(run.tally.share(x) >= BOUND for x in ("writes", "replaced", "slots", "content"))
    good &= run.tally.get("writes", (0, 0))[1] > 1000 and run.tally.get("averaged", (0, 0))[0] > 100
    print(f"{device}, {name}, {tokens} tokens, {'good' if good else 'BAD'}: {run.tally.line()}")
    for what, tally in (("end to end", run.whole), ("the prototype's order of work", run.literal)):
        if tally:
            print(f"    {what}: {tally.line()}")
    sys.stdout.flush()
    return good


def main():
    program, name, device = sys.argv[1:]
    model, text = CACHE / "models" / name, CACHE / "texts" / "genesis.txt"
    for path in (model, text):
        if not path.exists():
            print(f"skipped: {path} is not there: tools/check puts it there")
            sys.exit(SKIP)
    good = [replay(program, model, text, device, setting) for setting in settings(device)]
    sys.exit(not all(good))


if __name__ == "__main__":
    main()

"""kept facts, and facts in run, chat, plan and eval."""
from harness import *

CPU = ("--device", "cpu")
GREEDY = (*CPU, "--raw", "--temp", "0", "-n", "40", "--context", "300")
OFFICE, BOB, CAT = "The office is in Mill Lane.", "Bob likes tea.", "The cat is black."
LINES = [{"id": "b", "text": CAT, "time": 7}, {"id": "a", "text": BOB, "tag": "bob", "time": 9}]


def write(name, lines):
    path(name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path(name)


def exported(store):
    rc, out, _ = kept("facts", store, "export")
    check(rc == 0, f"export of {store}: {rc}")
    return [json.loads(line) for line in out.splitlines()]


def add(store, *args, **more):
    return kept_json("facts", store, "add", "--model", LLAMA, *args, *CPU, **more)


# ---- write and list
store = path("one.facts")
one = add(store, "--text", OFFICE, "--tag", "office", "--id", "o1")
check(one["written"] == 1 and one["id"] == "o1" and one["n_facts"] == 1 and one["superseded"] == 0, f"add: {one}")
many = add(store, "-f", write("lines", LINES))
check(many["written"] == 2 and many["n_facts"] == 3, f"add -f: {many}")
listed = kept_json("facts", store, "list")
check([f["id"] for f in listed["facts"]] == ["a", "b", "o1"], "listed by id")
check(listed["facts"][0] | {"tokens": 0} == {**LINES[1], "tokens": 0} and listed["payload"] == "f16", f"{listed}")
check(all(1 <= f["tokens"] <= 60 for f in listed["facts"]), "tokens of facts")
check(listed["n_facts"] == 3 and listed["n_damaged"] == 0 and listed["file_bytes"] > 0 and
      listed["host_bytes_per_fact"] > 0 and int(listed["model_hash"], 16) != 0, f"about the store: {listed}")
rc, out, err = kept("facts", store, "list")
check(rc == 0 and OFFICE in out and "office" in out and "3 facts" in out and err == "", f"list: {out} {err}")
check([f["id"] for f in exported(store)] == ["a", "b", "o1"] and exported(store)[1]["text"] == CAT, "export")
kept("facts", store, "export", "--out", path("out.jsonl"))
check(path("out.jsonl").read_text().splitlines()[1] == json.dumps({"id": "b", "text": CAT, "tag": "", "time": 7}),
      "export --out")
new = add(store, "--text", "The office is in High Street.", "--tag", "office")
check(new["superseded"] == 1 and new["n_facts"] == 3, f"the tag supersedes: {new}")
check([f["text"] for f in exported(store) if f["tag"] == "office"] == ["The office is in High Street."], "one version")

# ---- search
found = kept_json("facts", store, "search", BOB, "--model", LLAMA, *CPU)
best = found["matches"][0]
check(best["id"] == "a" and best["text"] == BOB and best["tag"] == "bob" and best["read"], f"search: {found}")
check(found["in_scope"] and best["weight"] == found["weight"] > 0.25 and 0 <= found["residual"] <= 1, f"{found}")
check(sum(m["read"] for m in found["matches"]) == 1 and len(found["matches"]) == 3, "one is read")
none = kept_json("facts", store, "search", BOB, "-m", LLAMA, "--facts-scope", "900", *CPU)
check(not none["in_scope"] and none["scope"] == 900 and not any(m["read"] for m in none["matches"]), "out of scope")
rc, out, _ = kept("facts", store, "search", BOB, "-m", LLAMA, *CPU)
check(rc == 0 and "* " in out and "In scope" in out, f"search: {out}")

# ---- answers
plain = kept_json("run", LLAMA, "-p", BOB, *GREEDY)
check(plain["facts_used"] == [] and "facts_weight" not in plain, "without facts")
told = kept_json("run", LLAMA, "-p", BOB, *GREEDY, "--facts", store)
check([f["id"] for f in told["facts_used"]][:1] == ["a"], f"facts_used: {told['facts_used']}")
check(told["facts_used"][0]["weight"] >= told["facts_weight"] - 1e-6 and told["facts_weight"] > 0.25, "weights")
check(told["planned_bytes"] == told["actual_bytes"] > plain["planned_bytes"], "planned, and more than without")
away = kept_json("run", LLAMA, "-p", BOB, *GREEDY, "--facts", store, "--facts-scope", "900")
check(away["tokens"] == plain["tokens"] and away["facts_used"] == [], "out of scope: as without facts")
two = kept_json("run", LLAMA, "-p", BOB, *GREEDY, "--facts", store, "--facts-top", "2", "-n", "1")
check(len(two["facts_used"]) <= 2, f"--facts-top: {two['facts_used']}")
for gap in ("1", "300"):
    kept_json("run", LLAMA, "-p", BOB, *GREEDY, "--facts", store, "--facts-gap", gap)
plan = kept_json("plan", LLAMA, *CPU, "--facts", store, "--context", "300")
more = kept_json("plan", LLAMA, *CPU, "--facts", store, "--context", "300", "--facts-max", "1000")
bare = kept_json("plan", LLAMA, *CPU, "--context", "300")


def episodic(p):
    return sum(r["bytes"] for r in p["regions"] if r["category"] == "episodic")


check(episodic(bare) == 0 < episodic(plan) < episodic(more), "episodic bytes are planned")
check(plan["planned_bytes"] == told["planned_bytes"], "run allocates what plan says")

# ---- forgetting
gone = kept_json("facts", store, "forget", "--tag", "office", "--id", "b", "--text", "No such text")
check(gone["forgotten"] == 2 and gone["n_facts"] == 1, f"forget: {gone}")
kept_json("facts", store, "compact")
never = path("never.facts")
add(never, "-f", write("only", LINES[1:]))
check(exported(store) == exported(never), "export after forgetting: as of a store that never held it")
for words in (OFFICE, "High Street", CAT):
    check(words.encode() not in store.read_bytes(), f"{words!r} is gone from the file")
args = ("-p", "The office is in", *GREEDY, "--facts-scope", "0")
a, b = (kept_json("run", LLAMA, *args, "--facts", s) for s in (store, never))
check(a["tokens"] == b["tokens"] and a["facts_used"] == b["facts_used"], "answers after forgetting")
check(kept_json("facts", store, "forget", "--id", "b")["forgotten"] == 0, "twice is no failure")
rc, out, _ = kept("facts", store, "forget", "--id", "b")
check(rc == 0 and "Nothing" in out, f"forget: {out}")
kept_json("facts", store, "forget", "--id", "a")
empty = kept_json("run", LLAMA, "-p", BOB, *GREEDY, "--facts", store)
check(empty["facts_used"] == [] and empty["tokens"] == plain["tokens"], "an empty store is none")
check(kept_json("facts", store, "search", BOB, "-m", LLAMA, *CPU)["matches"] == [], "search in an empty store")

# ---- payloads
add(path("q8.facts"), "--text", BOB, "--payload", "q8_0")
check(kept_json("facts", path("q8.facts"), "list")["payload"] == "q8_0", "--payload")
fails(3, "facts", path("q8.facts"), "add", "-m", LLAMA, "--text", CAT, "--payload", "f16", *CPU, says=["q8_0"])
kept_json("run", LLAMA, "-p", BOB, *GREEDY, "--facts", path("q8.facts"))

# ---- what is wrong is said
fails(3, "facts", path("no.facts"), "list", says=["no store", "add"])
fails(3, "facts", path("no.facts"), "verify", says=["no store"])
fails(3, "run", LLAMA, "-p", BOB, *GREEDY, "--facts", path("no.facts"), says=["no store"])
fails(3, "facts", FOLDER.name, "list")
fails(3, "facts", path("no/such/folder"), "add", "-m", LLAMA, "--text", BOB, *CPU)
fails(3, "facts", never, "search", BOB, "-m", GEMMA, *CPU, says=["model"])
fails(3, "run", GEMMA, "-p", BOB, *GREEDY, "--facts", never, says=["model"])
fails(2, "facts", never, says=["usage"])
fails(2, "facts", never, "lst", says=["list"])
fails(2, "facts", never, "list", "more", says=["more"])
fails(2, "facts", never, "add", "-m", LLAMA, says=["--text", "-f"])
fails(2, "facts", never, "add", "--text", BOB, says=["--model"])
fails(2, "facts", never, "add", "-m", LLAMA, "--text", BOB, "-f", path("lines"))
fails(2, "facts", never, "add", "-m", LLAMA, "--text", "word " * 200, *CPU, says=["60"])
fails(2, "facts", never, "add", "-m", LLAMA, "--text", BOB, "--text", CAT, says=["-f"])
fails(2, "facts", never, "search", "-m", LLAMA, says=["text"])
fails(2, "facts", never, "forget", says=["--id"])
fails(2, "run", LLAMA, "-p", BOB, "--facts-top", "2", says=["--facts"])
for line, words in (("{", "line 2"), ('{"id": 3, "text": "x"}', "id"), ('{"id": "x"}', "text"), ("[]", "object"),
                    ('{"text": "x", "time": "now"}', "time")):
    path("bad").write_text('{"text": "fine"}\n' + line + "\n")
    fails(2, "facts", never, "add", "-m", LLAMA, "-f", path("bad"), *CPU, says=["line 2", words])
path("bad").write_text("\n")
fails(2, "facts", never, "add", "-m", LLAMA, "-f", path("bad"), *CPU, says=["no lines"])
check([f["id"] for f in exported(never)] == ["a"], "nothing of all that was written")

# ---- damage
hurt = path("hurt.facts")
add(hurt, "-f", path("lines"))
check(kept_json("facts", hurt, "verify")["sound"], "sound at first")
raw = hurt.read_bytes()
at = raw.find(CAT.encode())
hurt.write_bytes(raw[:at] + b"t" + raw[at + 1:])
seen = kept_json("facts", hurt, "verify", code=3)
check(not seen["sound"] and seen["n_damaged"] == 1 and seen["damage"][0]["id"] == "b" and seen["damage"][0]["why"],
      f"verify: {seen}")
rc, out, _ = kept("facts", hurt, "verify")
check(rc == 3 and "repair" in out, f"verify: {out}")
rc, out, err = kept("run", LLAMA, "-p", BOB, *GREEDY, "--facts", hurt, "--json")
used = json.loads(out)
check(rc == 0 and used["facts_used"][0]["id"] == "a" and "damaged" in err, f"the others are read: {err}")
fixed = kept_json("facts", hurt, "repair")
check(fixed["kept"] == 1 and fixed["removed"] == 1 and len(fixed["damage"]) == 1, f"repair: {fixed}")
check(kept_json("facts", hurt, "verify")["sound"] and [f["id"] for f in exported(hurt)] == ["a"], "sound again")
hurt.write_bytes(b"x" * 5000)
fails(3, "facts", hurt, "list")
fails(3, "facts", hurt, "add", "-m", LLAMA, "--text", BOB, *CPU)
rc, out, err = kept("run", LLAMA, "-p", BOB, *GREEDY, "--facts", hurt, "--json")
used = json.loads(out)
check(rc == 0 and used["tokens"] == plain["tokens"] and used["facts_warning"] and "warning" in err,
      f"a damaged store: the answer goes on: {rc} {err}")
check(kept("run", LLAMA, "-p", BOB, *GREEDY, "--facts", hurt, "--quiet")[2] == "", "--quiet")

# ---- in a conversation
model = with_template(LLAMA, path("chat.gguf"), TEMPLATE)
TALK = (*CPU, "--temp", "0", "-n", "4", "--context", "400")


def chat(lines, *args, code=0):
    rc, out, err = kept("chat", model, *TALK, *args, stdin="".join(line + "\n" for line in lines))
    check(rc == code, f"chat {lines}: {rc}: {out[:300]} {err[:300]}")
    return out, err


talk = path("talk.facts")
out, _ = chat(["/facts", "/remember #office " + OFFICE, "/remember " + BOB, "/facts", BOB], "--facts", talk)
check("no facts yet" in out and out.count("Remembered as") == 2 and OFFICE in out and "2 facts" in out, f"chat: {out}")
check(sorted(f["text"] for f in exported(talk)) == sorted([OFFICE, BOB]), "remembered in the file")
check([f["tag"] for f in exported(talk) if f["text"] == OFFICE] == ["office"], "with its tag")
out, _ = chat(["/remember #office It is closed.", "/facts"], "--facts", talk)
check("in place of" in out and OFFICE not in out and "It is closed." in out, f"an update: {out}")
out, _ = chat([BOB], "--facts", talk, "--json")
bob = next(f["id"] for f in exported(talk) if f["text"] == BOB)
check(json.loads(out)["facts_used"][0]["id"] == bob, f"read in a turn: {out}")
out, _ = chat(["/forget #office", "/forget " + bob, "/forget nothing", "/facts"], "--facts", talk)
check(out.count("Forgotten: 1 fact") == 2 and "No fact has" in out and "0 facts" in out, f"/forget: {out}")
check(exported(talk) == [], "forgotten in the file")
with_, _ = chat([BOB, CAT], "--facts", talk)
without, _ = chat([BOB, CAT])
check(with_ == without, "out of scope, chat answers as without facts")
_, err = chat(["/remember x"], code=2)
check("--facts" in err, f"/remember without a store: {err}")
chat(["/remember #office"], "--facts", talk, code=2)
chat(["/forget"], "--facts", talk, code=2)

# ---- eval facts
questions = write("questions", [{"id": "q1", "text": "The code of Bob is 12.", "query": "The code of Bob is",
                                 "paraphrase": "To enter, Bob types", "answer": "12"},
                                {"id": "q2", "text": "The house of Ann is 7.", "query": "The house of Ann is",
                                 "paraphrase": "Ann lives at", "answer": "7"}])
path("ordinary").write_text("It rained all day.\n\nNobody came.\n")
said = kept_json("eval", "facts", LLAMA, *CPU, "--facts", path("eval.facts"), "-f", questions, "--add", "--ordinary",
                 path("ordinary"), "--payload", "q8_0")
for name in ("address_top1", "address_top3", "accepted", "exact", "exact_without", "exact_as_text"):
    shares = said[name]
    check(set(shares) == {"query", "paraphrase"} and all(0 <= x <= 1 for x in shares.values()), f"{name}: {shares}")
check(said["written"] == 2 and said["n_facts"] == 2 and said["payload"] == "q8_0" and said["questions"] == 2, f"{said}")
check(said["ordinary"]["sentences"] == 2 and len(said["ordinary"]["weights"]) == 2, f"{said['ordinary']}")
check(len(said["weights"]["query"]) == len(said["weights"]["paraphrase"]) == 2, "weights of all questions")
check(said["address_top1"]["query"] == 1, f"two different facts are told apart: {said}")
again = kept_json("eval", "facts", LLAMA, *CPU, "--facts", path("eval.facts"), "-f", questions, "--add")
check(again["written"] == 0 and again["exact"] == said["exact"], "--add writes what is not there")
rc, out, _ = kept("eval", "facts", LLAMA, *CPU, "--facts", path("eval.facts"), "-f", questions)
check(rc == 0 and "paraphrase" in out and "address" in out, f"eval facts: {out}")
kept_json("facts", path("eval.facts"), "forget", "--id", "q1", "--id", "q2")
lost = kept_json("eval", "facts", LLAMA, *CPU, "--facts", path("eval.facts"), "-f", questions)
check(lost["exact"] == lost["exact_without"] and not any(lost["accepted"].values()), f"forgotten: {lost}")
fails(2, "eval", "facts", LLAMA, *CPU, "-f", questions, says=["--facts"])
fails(2, "eval", "facts", LLAMA, *CPU, "--facts", path("eval.facts"), says=["-f"])
fails(2, "eval", "facts", LLAMA, *CPU, "--facts", path("eval.facts"), "-f", path("lines"), says=["query"])
fails(3, "eval", "facts", LLAMA, *CPU, "--facts", path("none.facts"), "-f", questions, says=["no store"])
fails(2, "eval", "ppl", LLAMA, *CPU, "--facts", path("eval.facts"), "-f", questions, says=["eval facts"])
finish()

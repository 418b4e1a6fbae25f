"""A build without SQLite: stores are refused in one sentence, everything else works."""
from harness import *

CPU = ("--device", "cpu")
store = path("there.facts")
store.write_bytes(b"")
for args in [("facts", store, "add", "-m", LLAMA, "--text", "a", *CPU), ("facts", store, "list"),
             ("run", LLAMA, *CPU, "--raw", "-p", "a", "-n", "1", "--facts", store)]:
    fails(3, *args, says=["there.facts", "SQLite was left out"])
check(store.read_bytes() == b"", "nothing is written")
check(kept_json("run", LLAMA, *CPU, "--raw", "-p", "a", "-n", "1", "--temp", "0")["tokens"], "answers without a store")
finish()

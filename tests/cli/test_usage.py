"""Commands, options, their values and their help."""
from harness import *

COMMANDS = ["run", "chat", "plan", "devices", "inspect", "tokenize", "eval", "fit", "facts", "selftest"]

rc, out, err = kept("--help")
check(rc == 0 and all(f"kept {c}" in out for c in COMMANDS), "--help lists the commands")
check(kept()[0] == 2, "no command: exit code 2")
check(kept("--version")[1].startswith("kept "), "--version")
for command in COMMANDS:
    rc, out, err = kept(command, "--help")
    check(rc == 0 and "Examples:" in out and "--json" in out and not err, f"{command} --help")
    check(kept("help", command)[1] == out, f"help {command}")
    check(all(len(line) <= 100 for line in out.splitlines()), f"{command} --help fits 100 columns")

rc, out, err = kept("rnu", "x")
check(rc == 2 and "'rnu'" in err and "is 'run' meant?" in err and "kept plan" in err, "unknown command")
fails(2, "bench", LLAMA, says=["not available in this version"])
fails(2, "run", says=["usage: kept run MODEL"])
fails(2, "run", LLAMA, "more", "still more", says=["too many"])
fails(2, "run", LLAMA, "--tmep", "0", says=["'--tmep'", "is --temp meant?"])
fails(2, "run", LLAMA, "-Z", says=["'-Z'"])
fails(2, "tokenize", LLAMA, "--temp", "0", says=["'kept tokenize' does not take --temp"])
fails(2, "run", LLAMA, "--json=yes", says=["--json takes no value"])
rc, out, err = kept("run", LLAMA, "-p")
check(rc == 2 and "--prompt needs a value" in err, "an option without its value")

for option, value in [("-n", "many"), ("-n", "-1"), ("--context", "0"), ("--context", "1e3"), ("--temp", "nan"),
                      ("--temp", "-0.1"), ("--top-p", "1.5"), ("--min-p", "x"), ("--memory", "lots"),
                      ("--memory", "-1MiB"), ("--memory", "5QiB"), ("--seed", "99999999999999999999"),
                      ("--chunk", ""), ("--log-level", "loud"), ("--stop", ""), ("--threads", "4096")]:
    fails(2, "run", LLAMA, "-p", "a", option, value, says=[f"'{value}'"] if value else [])
fails(2, "run", LLAMA, "-p", "a", "--activations", "q8", says=["--activations", "not available in this version"])
fails(2, "run", LLAMA, "-p", "a", "--device", "gpu", says=["'gpu'"])
fails(2, "run", LLAMA, "-p", "a", "--device", "cpu,cpu", says=["more than one device"])
fails(5, "run", LLAMA, "-p", "a", "--device", "vulkan:15", says=["vulkan:15"])
fails(2, "eval", "fun", LLAMA, "-f", LLAMA, says=["'fun'"])
fails(2, "eval", "needle", LLAMA, "-f", LLAMA, "--sweep", says=["--sweep", "needle"])

# Forms of the same thing.
same = [kept_json("plan", LLAMA, "--device", "cpu", *form)["total_bytes"]
        for form in [("--context", "128"), ("--context=128",), ("-c", "128"), ("-c128",), ("-c=128",)]]
check(len(set(same)) == 1, f"one plan by every form of an option: {same}")
for text, size in [("1GiB", 2**30), ("0.5MiB", 2**19), ("10MB", 10**7), ("4096 KiB", 2**22), ("12345678", 12345678)]:
    budget = kept_json("plan", LLAMA, "--device", "cpu", "-c", "64", "--memory", text, code=0 if size > 2e6 else 4)
    check(budget.get("budget_bytes") == size, f"--memory {text}: {budget.get('budget_bytes')}")
finish()

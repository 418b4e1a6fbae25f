"""kept plan and kept devices: shape, sums, profiles, the picture."""
import xml.etree.ElementTree

from harness import *

CATEGORIES = {"weights", "kv", "associative", "episodic", "scorer", "activations", "logits", "sampler", "state",
              "staging", "driver"}
devices = kept_json("devices")
cpu = next(d for d in devices["devices"] if d["id"] == "cpu")
check({"id", "name", "api", "driver", "type", "vendor", "architecture", "memory_bytes", "free_bytes", "uuid", "same_as",
       "features", "usable", "why_not"} <= set(cpu) and cpu["usable"], "fields of a device")
check(all(d["usable"] or d["why_not"] for d in devices["devices"]), "what is not usable says why")
check(all(a["n_devices"] or a["why"] for a in devices["apis"]), "an API without devices says why")
rc, out, err = kept("devices")
check(rc == 0 and "cpu" in out, "devices as a table")
path("here.json").write_text(json.dumps(devices))

for model in (LLAMA, GEMMA):
    plan = kept_json("plan", model, "--device", "cpu")
    check({"fits", "budget_bytes", "total_bytes", "lower_bound_bytes", "devices", "regions", "choices"} <= set(plan),
          "fields")
    check(plan["fits"] and "alternatives" not in plan, "a tiny model fits")
    check({r["category"] for r in plan["regions"]} <= CATEGORIES, "categories")
    for r in plan["regions"]:
        check({"name", "device", "category", "bytes", "offset", "first_use", "last_use", "why"} <= set(r) and r["why"],
              f"fields of region {r}")
    apart = sum(r["bytes"] for r in plan["regions"] if r["category"] not in ("activations", "driver"))
    own = apart + plan["activation_bytes"]
    check(own <= plan["planned_bytes"] < own + 256 * len(plan["regions"]), "regions add up, but for alignment")
    total = plan["planned_bytes"] + plan["driver_bytes"]
    check(plan["total_bytes"] == total == plan["devices"][0]["total_bytes"], "totals")
    check(plan["activation_bytes"] <= 1.1 * plan["lower_bound_bytes"], "activations are packed")
    check(plan["regions"] == kept_json("plan", model, "--device", "cpu")["regions"], "the same again")
    check(all(c["what"] and c["chosen"] and c["why"] for c in plan["choices"]), "choices have reasons")

    elsewhere = kept_json("plan", model, "--profile", path("here.json"), "--device", "cpu")
    check(elsewhere["regions"] == plan["regions"], "the same plan for the saved device")

    cap = plan["total_bytes"]
    check(kept_json("plan", model, "--device", "cpu", "--memory", cap)["fits"], "a cap of exactly the total fits")
    tight = kept_json("plan", model, "--device", "cpu", "--memory", cap - 1, code=4)
    check(tight["fits"] is False and tight["alternatives"], "one byte less does not, and says what would")
    for other in tight["alternatives"]:
        check(other["total_bytes"] < cap, f"alternative {other} is smaller")
        better = kept_json("plan", model, "--device", "cpu", "--memory", cap - 1, *other["change"].split())
        check(better["fits"] and better["total_bytes"] == other["total_bytes"], f"alternative {other} holds")
    rc, out, err = kept("plan", model, "--device", "cpu", "--memory", cap - 1)
    check(rc == 4 and "DOES NOT FIT" in out and tight["alternatives"][0]["change"] in out, "the table of alternatives")
    rc, out, err = kept("run", model, "--device", "cpu", "--memory", cap - 1, "-p", "a", "--raw")
    check(rc == 4 and tight["alternatives"][0]["change"] in err, "run refuses with the same table")
    error = fails(4, "run", model, "--device", "cpu", "--memory", cap - 1, "-p", "a", "--raw")
    check(error["code"] == "KEPT_E_BUDGET", f"{error}")
    rc, out, err = kept("plan", model, "--device", "cpu", "--regions", "--svg", path("plan.svg"))
    names = [r["name"] for r in plan["regions"] if r["category"] != "driver"]
    check(rc == 0 and all(name in out for name in names), "--regions names all")
    root = xml.etree.ElementTree.parse(path("plan.svg")).getroot()
    titles = [t.text for t in root.iter("{http://www.w3.org/2000/svg}title")]
    check(any(f" {plan['weight_bytes']} bytes" in t for t in titles), "the picture shows the weights' bytes")
    check(any(f" {plan['kv_bytes']} bytes" in t for t in titles), "the picture shows the slots' bytes")

fails(3, "plan", LLAMA, "--profile", path("none.json"), says=["none.json"])
path("broken.json").write_text('{"devices": [')
fails(3, "plan", LLAMA, "--profile", path("broken.json"), says=["broken.json"])
path("odd.json").write_text(json.dumps({"devices": [{**cpu, "memory_bytes": "much"}]}))
fails(3, "plan", LLAMA, "--profile", path("odd.json"), says=["memory_bytes"])
fails(5, "plan", LLAMA, "--profile", path("here.json"), "--device", "vulkan:77", says=["vulkan:77"])
limits = {**cpu["features"], "max_buffer_bytes": 0}
path("zero.json").write_text(json.dumps({"devices": [{**cpu, "features": limits}]}))
fails(2, "plan", LLAMA, "--profile", path("zero.json"))
rc, out, err = kept("plan", LLAMA, "--device", "cpu", "--svg", path("no/such/folder.svg"))
check(rc == 1 and "folder.svg" in err, "a picture that cannot be written")
finish()

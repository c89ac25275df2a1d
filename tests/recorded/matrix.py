"""The command lines that are recorded: for each command, pairs of all values of all its dimensions.

``python -m tests.recorded.record`` runs them once; what is replayed stands in ``baseline.jsonl``, not here.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from random import Random
from typing import Any

from tests.recorded.machine import TOKEN, Case
from tests.recorded.remote_cases import base_cases, fault_cases

Row = Mapping[str, Any]
SOURCES = ["folder", "hub", "s3", "web", "cached"]
HEAD = "apiVersion: lora-cli/v1\nkind: AdapterSet\n"
POLICY = "apiVersion: lora-cli/v1\nkind: Policy\n"
BASE = ["--base", "bases/llama"]


def rows(
    dimensions: Mapping[str, Sequence[Any]],
    trouble: Mapping[str, Sequence[Any]],
    possible: Callable[[Row], bool] = lambda _: True,
) -> Iterator[Row]:
    """Rows in which each pair of values of two dimensions stands at least once, as far as that is ``possible``.

    First come rows without ``trouble``, then rows with one value that is, next to each value of the other dimensions:
    after the first trouble a command looks at nothing else.
    """
    bad = {(name, value) for name, values in trouble.items() for value in values}
    yield from _pairwise(dimensions, lambda row: not bad & set(row.items()) and possible(row), lambda pair: True)
    if bad:
        yield from _pairwise(
            dimensions, lambda row: len(bad & set(row.items())) == 1 and possible(row), lambda pair: bool(bad & {*pair})
        )


def _pairwise(
    dimensions: Mapping[str, Sequence[Any]], possible: Callable[[Row], bool], counts: Callable[[Any], bool]
) -> Iterator[Row]:
    """Of many rows at random the one with most new pairs that count, until a thousand have none."""
    random = Random(20)
    seen: set[Any] = set()
    while True:
        drawn = ({name: random.choice(values) for name, values in dimensions.items()} for _ in range(1000))
        pairs_of = [(row, set(filter(counts, combinations(row.items(), 2)))) for row in drawn if possible(row)]
        best, found = max(pairs_of, key=lambda one: len(one[1] - seen))
        if not found - seen:
            return
        seen |= found
        yield best


def manifest(*names: str, more: str = "", entry: str = "") -> str:
    """An adapter set of adapters at the case's source; a folder's path is quoted by it."""
    entries = "".join(f'  - {{name: {name}, source: "{at(name)}"{entry}}}\n' for name in names)
    return f"{HEAD}{more}adapters:\n{entries}"


def at(name: str) -> str:
    """The reference of an adapter at the case's source."""
    return f"<<{name}>>"


def pairs(**given: str) -> list[str]:
    """``--name value`` for each that is not empty."""
    return [word for name, value in given.items() if value for word in (f"--{name.replace('_', '-')}", value)]


POLICIES = {
    "none": "",
    "allows": "allow_sources: ['hf://acme/*', 's3://*', 'http://*', '<here>/*']\n",
    "denies": "deny_sources: ['*sql*']\n",
    "sha256": "require_sha256: true\n",
    "pinned": "require_pinned: true\n",
    "small": "max_bytes: 1KiB\n",
    "hosts": "allow_hosts: [elsewhere.example]\n",
    "access": "require_access_check: true\n",
}


def fetch_cases() -> Iterator[Case]:
    """``fetch`` of references."""
    dimensions: dict[str, Sequence[Any]] = {
        "source": SOURCES,
        "adapter": ["sql", "chat", "pickled", "run", "nothing", "missing", "two"],
        "offline": [False, True],
        "policy": list(POLICIES),
        "hand": ["", "to", "publish", "fix-base"],
        "format": ["human", "json"],
        "option": ["", "include", "exclude", "checkpoint", "latest", "revision", "small", "link", "pickle", "config"],
    }
    trouble = {
        "adapter": ["pickled", "nothing", "missing", "two"],
        "policy": ["denies", "sha256", "pinned", "small", "hosts", "access"],
        "option": ["exclude", "small", "config", "revision"],
        "hand": ["fix-base"],
    }

    def possible(row: Row) -> bool:
        online = row.get("source") in {"cached", "folder"} or not row.get("offline")
        run = row.get("option") not in {"checkpoint", "latest"} or row.get("adapter") == "run"
        return online and run and not (row.get("option") == "link" and row.get("source") != "folder")

    for number, row in enumerate(rows(dimensions, trouble, possible)):
        names = {"missing": ["missing"], "two": ["sql", "missing", "chat"]}.get(row["adapter"], [row["adapter"]])
        published = [name for name in names if name != "missing"]
        options = {
            "include": ["--include", "*.md"],
            "exclude": ["--exclude", "adapter_model*"],
            "checkpoint": ["--checkpoint", "1"],
            "latest": ["--checkpoint", "latest"],
            "revision": ["--revision", "main"],
            "small": ["--max-bytes", "4KiB"],
            "link": ["--link"],
            "pickle": ["--allow-pickle"],
            "config": ["--max-header-bytes", "64B"],
        }.get(row["option"], [])
        hand = {
            "to": ["--to", "out"],
            "publish": ["--publish", "out", "--base", "tiny/base"],
            "fix-base": ["--publish", "out", "--fix-base", "acme/served"],
        }.get(row["hand"], [])
        files = {"policy.yaml": POLICY + POLICIES[row["policy"]]} if row["policy"] != "none" else {}
        cached = row["source"] == "cached"
        yield Case(
            f"fetch-{number:03}",
            row["source"],
            [
                "fetch", *map(at, names), *options, *hand, *pairs(policy="policy.yaml" if files else ""),
                *(["--format", "json"] if row["format"] == "json" else []), *(["--offline"] if row["offline"] else []),
            ],
            published,
            files,
            [["fetch", at(name), "--allow-pickle"] for name in published] if cached else [],
        )  # fmt: skip


def set_cases() -> Iterator[Case]:
    """``fetch -f``: locks, and what became of origins since."""
    dimensions: dict[str, Sequence[Any]] = {
        "source": SOURCES,
        "lock": ["none", "written", "locked", "check", "upgrade", "upgrade-one", "absent"],
        "since": ["nothing", "changed", "added", "dropped", "gone", "pickled"],
        "cache": ["kept", "emptied", "blob", "snapshot", "lost"],
        "offline": [False, True],
        "policy": ["none", "in-manifest", "sha256", "pinned", "denies", "small", "access"],
        "hand": ["", "to", "publish"],
        "format": ["human", "json"],
        "mistake": ["", "shard", "latest", "sha256", "wrong-sha256", "edited-lock", "cut-lock", "renamed"],
    }

    trouble = {
        "lock": ["absent"],
        "since": ["gone", "pickled"],
        "policy": ["pinned", "denies", "small", "sha256"],
        "mistake": ["wrong-sha256", "edited-lock", "cut-lock", "renamed"],
    }

    def possible(row: Row) -> bool:
        cut = row.get("mistake") in {"edited-lock", "cut-lock"} and row.get("lock") in {"none", "absent"}
        offline = row.get("offline") and (row.get("source") in {"hub", "s3", "web"} and row.get("cache") != "kept")
        return not cut and not offline and not (row.get("lock") == "check" and row.get("hand"))

    for number, row in enumerate(rows(dimensions, trouble, possible)):
        yield _set_case(f"set-{number:03}", row)


def _set_case(name: str, row: Row) -> Case:
    flags = {
        "locked": ["--locked"], "absent": ["--locked"], "check": ["--check"], "upgrade": ["--upgrade"],
        "upgrade-one": ["--upgrade", "sql"],
    }.get(row["lock"], [])  # fmt: skip
    since: list[Any] = {
        "changed": [{"change": ["sql", "sql-v2"]}],
        "pickled": [{"change": ["sql", "trained"]}],
        "added": [{"write": ["set.yaml", manifest("sql", "chat", "zero")]}],
        "dropped": [{"write": ["set.yaml", manifest("sql")]}],
        "gone": [{"write": ["set.yaml", manifest("sql", "missing")]}],
    }.get(row["since"], [])
    entry = {
        "latest": ", checkpoint: latest",
        "sha256": ", sha256: 53db58ee7d4a6cbcdcc045a2990734e606718340dc9e00288bd70008438825f3",
        "wrong-sha256": f", sha256: {'0' * 64}",
    }.get(row["mistake"], "")
    policy = POLICIES.get(row["policy"], POLICIES["none"])
    more = "policy: {max_bytes: 1MiB, deny_sources: ['hf://elsewhere/*']}\n" if row["policy"] == "in-manifest" else ""
    before: list[Any] = [] if row["lock"] in {"none", "absent"} else [["fetch", "-f", "set.yaml"]]
    if row["source"] == "cached":
        before += [["fetch", at("sql"), at("chat")]]
    before += since
    before += [{"remove": "cache"}] if before and row["cache"] == "emptied" and row["source"] != "folder" else []
    before += [{"damage": row["cache"]}] if before and row["cache"] in {"blob", "snapshot", "lost"} else []
    if row["mistake"] == "edited-lock":
        before.append({"edit": ["set.lock.yaml", 'sha256: "', 'sha256: "0']})
    if row["mistake"] == "cut-lock":
        before.append({"cut": "set.lock.yaml"})
    if row["mistake"] == "renamed":
        before.append({"edit": ["set.yaml", "name: sql", "name: query"]})
    hand = {"to": ["--to", "out"], "publish": ["--publish", "out", "--base", "tiny/base"]}.get(row["hand"], [])
    files = {"set.yaml": manifest("sql", "chat", more=more, entry=entry)}
    if policy:
        files["policy.yaml"] = POLICY + policy
    return Case(
        name,
        row["source"],
        [
            "fetch", "-f", "set.yaml", *flags, *hand, *pairs(policy="policy.yaml" if policy else ""),
            *(["--shard", "0/2"] if row["mistake"] == "shard" else []),
            *(["--format", "json"] if row["format"] == "json" else []), *(["--offline"] if row["offline"] else []),
        ],
        ["sql", "chat", "zero"],
        files,
        [step for step in before if not _impossible(step, row)],
    )  # fmt: skip


def _impossible(step: Any, row: Row) -> bool:
    """Nothing was fetched that could be damaged."""
    fetched = row["lock"] not in {"none", "absent"} or row["source"] == "cached"
    return isinstance(step, dict) and ("damage" in step or step.get("remove") == "cache") and not fetched


KINDS = [
    "sql", "chat", "wide", "dora", "misnamed", "wrongshape", "half", "head", "nan", "truncated", "noconfig", "ia3",
    "hostile", "pickled", "trained", "nothing", "missing",
]  # fmt: skip
ENGINES = ["", "vllm", "vllm@0.31", "sglang", "lorax", "trtllm", "peft", "two"]


def validate_cases() -> Iterator[Case]:
    """``validate`` of references and sets."""
    dimensions = {
        "source": SOURCES,
        "adapter": KINDS,
        "engine": ENGINES,
        "base": ["llama", "qwen2", "gpt2", "none", "absent", "missing"],
        "format": ["human", "json", "sarif", "junit", "github", "markdown", "file"],
        "option": ["", "warning", "no-values", "select", "known", "rank", "set", "ignore", "two", "policy", "offline"],
    }
    trouble = {"option": ["policy", "offline"], "base": ["absent", "missing"], "adapter": ["missing", "nothing"]}
    for number, row in enumerate(rows(dimensions, trouble)):
        yield _validate_case(f"validate-{number:03}", row)


def _validate_case(name: str, row: Row) -> Case:
    adapter, option = row["adapter"], row["option"]
    engine = {"": [], "two": ["--engine", "vllm", "--engine", "peft"]}.get(row["engine"], ["--engine", row["engine"]])
    base = {
        "none": ["--no-base"], "absent": [], "missing": ["--base", "bases/nowhere"],
    }.get(row["base"], ["--base", f"bases/{row['base']}"])  # fmt: skip
    form = {"human": [], "file": ["--format", "json=report.json", "--format", "junit=report.xml"]}.get(
        row["format"], ["--format", row["format"]]
    )
    known = f'{{"schema": "lora_cli/baseline/1", "findings": [{{"adapter": "{at(adapter)}", "code": "LC502", '
    suppressed = "suppressions: [{digest: '" + "1" * 64 + "', rule: LC302, reason: known}]\n"
    files = {
        "known": {"known.json": known + '"file": "adapter_model.safetensors", "field": "", "count": 9}]}'},
        "rank": {"policy.yaml": POLICY + suppressed},
        "policy": {"policy.yaml": POLICY + POLICIES["denies"]},
        "set": {"set.yaml": manifest(adapter, "sql" if adapter != "sql" else "chat")},
    }.get(option, {})
    words = {
        "warning": ["--fail-on", "warning"], "no-values": ["--no-values"], "select": ["--select", "LC3"],
        "ignore": ["--ignore", "LC5,LC402"], "known": ["--baseline", "known.json"],
        "policy": ["--policy", "policy.yaml"], "rank": ["--max-lora-rank", "8", "--policy", "policy.yaml"],
        "offline": ["--offline"],
    }.get(option, [])  # fmt: skip
    adapters = [at(adapter)] if option != "two" else [at(adapter), at("sql"), at("missing")]
    who = ["-f", "set.yaml"] if option == "set" else adapters
    published = sorted({adapter, "sql", "chat"} - {"missing"})
    locked = option == "set" and row["format"] in {"json", "sarif", "human"}
    before: list[Any] = [["fetch", "-f", "set.yaml", "--allow-pickle"]] if locked else []
    if row["source"] == "cached":
        before.append(["fetch", at(adapter), "--allow-pickle"])
    return Case(name, row["source"], ["validate", *who, *base, *engine, *words, *form], published, files, before)


def inspect_cases() -> Iterator[Case]:
    """``inspect``."""
    dimensions = {
        "source": SOURCES,
        "adapter": ["sql", "chat", "dora", "head", "pickled", "truncated", "hostile", "run"],
        "base": ["", "llama", "qwen2", "missing"],
        "format": ["human", "json", "html"],
        "option": ["", "spectrum", "diff", "args", "args-sglang", "checkpoint", "offline", "manifest", "policy", "two"],
    }
    trouble = {"option": ["offline", "policy"], "base": ["missing"], "adapter": ["truncated", "noconfig"]}
    for number, row in enumerate(rows(dimensions, trouble)):
        adapter, option = row["adapter"], row["option"]
        words = {
            "spectrum": ["--spectrum"], "diff": ["--diff", at("sql-v2")], "args": ["--engine-args", "vllm"],
            "args-sglang": ["--engine-args", "sglang", "--max-loras", "2"], "checkpoint": ["--checkpoint", "2"],
            "offline": ["--offline"], "policy": ["--policy", "policy.yaml"], "two": [at("sql-v2"), at("missing")],
        }.get(option, [])  # fmt: skip
        files = {
            "manifest": {"set.yaml": manifest(adapter, "sql-v2")},
            "policy": {"policy.yaml": POLICY + POLICIES["denies"]},
        }.get(option, {})
        who = ["-f", "set.yaml"] if option == "manifest" else [at(adapter)]
        base = ["--base", f"bases/{row['base']}"] if row["base"] else []
        form = [] if row["format"] == "human" else ["--format", row["format"]]
        fetched = [["fetch", at(adapter), "--allow-pickle"]] if row["source"] == "cached" else []
        published = sorted({adapter, "sql-v2"})
        argv = ["inspect", *who, *words, *base, *form]
        yield Case(f"inspect-{number:03}", row["source"], argv, published, files, fetched)


def repair_cases() -> Iterator[Case]:
    """``repair``."""
    dimensions = {
        "source": SOURCES,
        "adapter": ["sql", "chat", "wide", "pattern", "misnamed", "head", "zero", "pickled", "truncated"],
        "engine": ["vllm", "sglang", "peft", "lorax", "nonsense"],
        "base": ["", "llama", "missing"],
        "how": ["to", "check", "dtype", "name", "occupied", "pickle", "offline"],
        "format": ["human", "json"],
    }
    trouble = {"engine": ["nonsense"], "base": ["missing"], "how": ["occupied", "offline"], "adapter": ["truncated"]}
    for number, row in enumerate(rows(dimensions, trouble)):
        words = {
            "to": ["--to", "out"], "check": ["--check"], "dtype": ["--to", "out", "--dtype", "float16"],
            "name": ["--to", "out", "--base-name", "acme/served"], "occupied": ["--to", "bases"],
            "pickle": ["--to", "out", "--allow-pickle"], "offline": ["--to", "out", "--offline"],
        }[row["how"]]  # fmt: skip
        base = ["--base", f"bases/{row['base']}"] if row["base"] else []
        form = ["--format", "json"] if row["format"] == "json" else []
        fetched = [["fetch", at(row["adapter"]), "--allow-pickle"]] if row["source"] == "cached" else []
        argv = ["repair", at(row["adapter"]), "--engine", row["engine"], *words, *base, *form]
        yield Case(f"repair-{number:03}", row["source"], argv, [row["adapter"]], {}, fetched)


def warm_cases() -> Iterator[Case]:
    """``warm --once``: each starts a process, so these are few."""
    dimensions = {
        "source": SOURCES,
        "adapter": ["sql", "dora", "zero", "misnamed"],
        "option": ["", "manifest", "locked", "slots", "policy"],
        "format": ["json"],
    }
    for number, row in enumerate(list(rows(dimensions, {}))[:14]):
        option = row["option"]
        files = {
            "manifest": {"set.yaml": manifest(row["adapter"], "chat", more="base: ./bases/llama\n")},
            "locked": {"set.yaml": manifest(row["adapter"], more="base: ./bases/llama\n")},
            "policy": {"policy.yaml": POLICY + POLICIES["denies"]},
        }.get(option, {})
        who = ["-f", "set.yaml"] if option in {"manifest", "locked"} else [at(row["adapter"]), at("chat"), *BASE]
        words = {"slots": ["--max-loras", "1", "--max-lora-rank", "8"], "policy": ["--policy", "policy.yaml"]}
        before: list[Any] = [["fetch", "-f", "set.yaml"]] if option == "locked" else []
        before += [["fetch", at(row["adapter"])]] if row["source"] == "cached" else []
        argv = ["warm", *who, "--once", *words.get(option, []), "--format", "json"]
        yield Case(f"warm-{number:03}", row["source"], argv, sorted({row["adapter"], "chat"}), files, before)


TRACE = "".join(
    f'{{"t": {index * 0.25}, "adapter": "a{index * index % 7}", "prompt_tokens": 16, "output_tokens": 4}}\n'
    for index in range(60)
)


def bench_cases() -> Iterator[Case]:
    """``serve-bench --simulate``: what needs neither adapters nor a device."""
    dimensions = {
        "eviction": ["lru", "lfu,lru", "gdsf", "adaptive", "opt,fifo", "nonsense"],
        "what": ["trace", "zipf", "plan", "fail-if", "baseline", "save", "bad-trace"],
        "slots": ["2,4", "4,8"],
        "format": ["human", "json", "html"],
    }
    trouble = {"eviction": ["nonsense"], "what": ["baseline", "bad-trace"]}
    for number, row in enumerate(rows(dimensions, trouble)):
        gpu, cpu = row["slots"].split(",")
        words = {
            "trace": ["--trace", "trace.jsonl"],
            "zipf": ["--num-adapters", "20", "--num-prompts", "300"],
            "plan": ["--plan", "hit_ratio>=0.5", "--num-adapters", "20", "--num-prompts", "300"],
            "fail-if": ["--trace", "trace.jsonl", "--fail-if", "hit_ratio<0.9"],
            "baseline": ["--trace", "trace.jsonl", "--baseline", "missing.json"],
            "save": ["--num-adapters", "9", "--num-prompts", "50", "--save-trace", "saved.jsonl"],
            "bad-trace": ["--trace", "bad.jsonl"],
        }[row["what"]]
        form = [] if row["format"] == "human" else ["--format", row["format"]]
        argv = ["serve-bench", "--simulate", "--eviction", row["eviction"], *words]
        argv += [*(["--max-loras", gpu, "--max-cpu-loras", cpu] if row["what"] != "plan" else []), *form]
        yield Case(f"bench-{number:03}", "folder", argv, [], {"trace.jsonl": TRACE, "bad.jsonl": TRACE + "{\n"})


def cache_cases() -> Iterator[Case]:
    """``cache``."""
    dimensions = {
        "command": ["ls", "show", "verify", "repair", "gc", "gc-dry", "gc-all", "rm", "path", "path-one", "path-views"],
        "state": ["none", "one", "set", "blob", "snapshot", "lost", "removed"],
        "format": ["human", "json"],
        "who": ["sql", "missing", "digest"],
    }
    for number, row in enumerate(rows(dimensions, {"who": ["missing"], "state": ["none"]})):
        who = {"digest": "53db58ee7d4a", "missing": at("missing"), "sql": at("sql")}[row["who"]]
        words = {
            "show": ["show", who], "repair": ["verify", "--repair"],
            "gc-dry": ["gc", "--dry-run", "--unused-for", "1h"],
            "gc-all": ["gc", "--max-bytes", "0B"], "rm": ["rm", who], "path-one": ["path", who],
            "path-views": ["path", "adapters"],
        }.get(row["command"], [row["command"]])  # fmt: skip
        form = ["--format", "json"] if row["format"] == "json" and not row["command"].startswith("path") else []
        before: list[Any] = [] if row["state"] == "none" else [["fetch", at("sql")]]
        before += [["fetch", "-f", "set.yaml"]] if row["state"] == "set" else []
        before += [{"damage": row["state"]}] if row["state"] in {"blob", "snapshot", "lost"} else []
        before += [["cache", "rm", at("sql")]] if row["state"] == "removed" else []
        files = {"set.yaml": manifest("sql", "chat")}
        yield Case(f"cache-{number:03}", "hub", ["cache", *words, *form], ["sql", "chat"], files, before)


MISTAKES: Mapping[str, tuple[Sequence[str], Mapping[str, str]]] = {
    "unknown-command": (["fetsh", at("sql")], {}),
    "unknown-option": (["fetch", at("sql"), "--lokced"], {}),
    "no-adapter": (["fetch"], {}),
    "both": (["fetch", at("sql"), "-f", "set.yaml"], {}),
    "bad-size": (["fetch", at("sql"), "--max-bytes", "lots"], {}),
    "bad-jobs": (["fetch", at("sql"), "--jobs", "0"], {}),
    "bad-timeout": (["fetch", at("sql"), "--timeout", "0s"], {}),
    "bad-shard": (["fetch", "-f", "set.yaml", "--shard", "3/2"], {}),
    "bad-format": (["validate", at("sql"), *BASE, "--format", "xml"], {}),
    "bad-engine": (["validate", at("sql"), *BASE, "--engine", "vlm"], {}),
    "bad-version": (["validate", at("sql"), *BASE, "--engine", "vllm@9.9"], {}),
    "bad-select": (["validate", at("sql"), *BASE, "--select", "LC999"], {}),
    "bad-scheme": (["fetch", "ftp://host/x"], {}),
    "oci": (["fetch", "oci://registry/x:1"], {}),
    "bad-ref": (["fetch", "hf://a b/c"], {}),
    "empty-ref": (["fetch", ""], {}),
    "no-manifest": (["fetch", "-f", "missing.yaml"], {}),
    "not-yaml": (["fetch", "-f", "bad.yaml"], {"bad.yaml": "adapters: [\n"}),
    "unknown-key": (["fetch", "-f", "bad.yaml"], {"bad.yaml": manifest("sql", more="adaptors: []\n")}),
    "wrong-type": (["validate", "-f", "bad.yaml"], {"bad.yaml": manifest("sql", more="base: [1]\n")}),
    "twice": (["fetch", "-f", "bad.yaml"], {"bad.yaml": manifest("sql", "sql")}),
    "no-kind": (["fetch", "-f", "bad.yaml"], {"bad.yaml": "adapters: []\n"}),
    "bad-policy": (["fetch", at("sql"), "--policy", "policy.yaml"], {"policy.yaml": POLICY + "max_byte: 1\n"}),
    "no-policy": (["fetch", at("sql"), "--policy", "missing.yaml"], {}),
    "bad-config": (["fetch", at("sql"), "--config", "bad.toml"], {"bad.toml": "jobs = 'many'\n"}),
    "bad-toml": (["fetch", at("sql"), "--config", "bad.toml"], {"bad.toml": "jobs = \n"}),
    "bad-baseline": (["validate", at("sql"), *BASE, "--baseline", "b.json"], {"b.json": "{}"}),
    "no-base": (["validate", at("sql")], {}),
    "to-and-publish": (["fetch", at("sql"), "--to", "a", "--publish", "b"], {}),
    "to-a-file": (["fetch", at("sql"), "--to", "set.yaml"], {}),
    "cache-is-a-file": (["fetch", at("sql"), "--cache-dir", "set.yaml"], {}),
    "no-cache": (["cache", "verify", "--cache-dir", "bases"], {}),
    "bad-rule": (["rules", "LC9"], {}),
    "bad-engine-name": (["engines", "vlm"], {}),
    "no-engine": (["repair", at("sql"), "--to", "out"], {}),
    "warm-no-mode": (["warm", at("sql"), *BASE], {}),
    "warm-dead-endpoint": (
        ["warm", at("sql"), "--endpoint", "http://127.0.0.1:9", "--engine", "vllm", "--wait", "0s"],
        {},
    ),
    "warm-status": (["warm", "--status"], {}),
    "bench-bad-rate": (["serve-bench", "--simulate", "--request-rate", "fast"], {}),
    "bench-dead-url": (["serve-bench", "--url", "http://127.0.0.1:9"], {}),
    "private": (["fetch", at("sql-private")], {}),
    "gated": (["fetch", at("sql-gated")], {}),
    "revision": (["fetch", at("sql"), "--revision", "nowhere"], {}),
    "subfolder": (["fetch", at("sql"), "--subfolder", "nowhere"], {}),
    "two-of-three": (["fetch", at("sql"), at("missing"), at("sql-private"), "--format", "json"], {}),
}


def mistake_cases() -> Iterator[Case]:
    """What is wrong on the command line, in documents, or at the origin."""
    files = {"set.yaml": manifest("sql")}
    published = ["sql", "sql-private", "sql-gated"]
    for name, (argv, more) in MISTAKES.items():
        yield Case(f"mistake-{name}", "hub", argv, published, {**files, **more})
    for name in ("sql-private", "sql-gated"):
        argv = ["fetch", at(name), "--format", "json"]
        yield Case(f"mistake-token-{name}", "hub", argv, published, files, env={"HF_TOKEN": TOKEN})
    dead = {"HF_ENDPOINT": "http://127.0.0.1:9"}
    yield Case("mistake-dead-hub", "hub", ["fetch", at("sql"), "--format", "json"], published, files, env=dead)
    variables = {"LORA_CLI_OFFLINE": "1", "LORA_CLI_JOBS": "2", "LORA_CLI_QUIET": "1"}
    yield Case("variables", "hub", ["fetch", at("sql")], published, files, [["fetch", at("sql")]], variables)


def catalogue_cases() -> Iterator[Case]:
    """``rules``, ``engines`` and the options that end at once."""
    lines = [
        ["rules", "--format", "json"], ["rules", "LC301", "--format", "json"], ["rules", "rank-mismatch"], ["rules"],
        ["engines", "--format", "json"], ["engines", "vllm", "--format", "json"], ["engines", "sglang"], ["engines"],
        ["--help"], ["fetch", "--help"], ["validate", "--help"], ["warm", "--help"], ["cache", "--help"], [],
        ["fetch", "adapters/sql", "--cache-dir", "other"], ["--cache-dir", "other", "fetch", "adapters/sql"],
        ["-f"], ["validate", "-f"],
    ]  # fmt: skip
    for number, argv in enumerate(lines):
        yield Case(f"other-{number:03}", "folder", argv, ["sql"])


def cases() -> Iterator[Case]:
    """All of them."""
    for some in (
        fetch_cases, set_cases, validate_cases, inspect_cases, repair_cases, warm_cases, bench_cases, cache_cases,
        mistake_cases, catalogue_cases, fault_cases, base_cases,
    ):  # fmt: skip
        yield from some()

"""What S-LoRA, Chameleon and LoRAServe published, beside a simulation of what a simulation can speak of.

    python benchmarks/papers.py

S-LoRA's numbers are those of its repository (benchmarks/paper/synthetic/slora/*.jsonl: an A10G, Llama-7B, rank 8), and
its workloads are made as its benchmarks/trace.py makes them: Gamma gaps, adapters by a power, uniform lengths. The two
numbers of the step model are fitted to two of its runs; the others are predictions. docs/benchmarks.md says what the
simulation leaves out.
"""

import sys
from itertools import product

from fetching.servers import ROOT

sys.path.insert(0, str(ROOT))

from lora_cli.bench.engine_steps import StepModel, StepRun, simulate_steps
from lora_cli.bench.generated_traces import STATISTICS, generate_arrivals
from lora_cli.bench.link_model import Link, Links
from lora_cli.bench.placement import Demand, ServerLimits, strategies
from lora_cli.bench.popularity import parse_popularity
from lora_cli.bench.public_traces import join_adapters
from lora_cli.bench.simulator import Fleet, adapter_sizes, parse_ranks
from lora_cli.bench.trace import Trace
from lora_cli.bench.workload import Lengths, SyntheticWorkload, make_requests
from lora_cli.tiers.memory_accounting import Budget

PCIE = Links(Link(0.0, None, "given"), Link(1.0, 25.0, "default"))
"""Adapters are in memory, as S-LoRA keeps them."""
SLORA_BYTES_PER_RANK = 2 * 32 * 4 * 2 * 4096
"""Llama-7B: A and B of four projections of 4096 x 4096 in 32 layers, in two bytes."""
REQUESTS = 4_000
POOL_TOKENS, REQUEST_TOKENS = 14_000, 390
"""The pool that S-LoRA has on an A10G, and what a request holds of it in the mean: its prompt and half its output."""

RATES = {
    1.0: (0.280, 11.488, 0.963),
    1.5: (0.368, 13.505, 1.371),
    2.0: (6.077, 20.888, 1.777),
    2.5: (52.158, 67.559, 1.804),
}
"""synthetic_req_rate_a10g_S1: mean TTFT and latency in seconds, and requests per second, by the requests asked for."""
ADAPTERS = {1: (3.361, 1.831), 20: (4.326, 1.812), 50: (5.362, 1.788), 100: (6.009, 1.781), 200: (6.287, 1.775)}
"""synthetic_num_adapters_a10g_S1, at 2 requests a second: mean TTFT in seconds, and requests per second."""


def slora(adapters: int, rate: float, model: StepModel, cv: float = 1.0) -> tuple[float, float, float]:
    """Mean TTFT and latency in seconds, and requests per second, over five minutes of S-LoRA's workload."""
    names = [f"a{number}" for number in range(adapters)]
    popularity, lengths = parse_popularity("slora-power:1"), Lengths(8, 511)
    requests = int(rate * 300)
    traffic = SyntheticWorkload(
        popularity, requests, request_rate=rate, burstiness=1 / cv**2, input_len=lengths, output_len=lengths
    )
    trace = make_requests(names, traffic)
    sizes = dict.fromkeys(names, 8 * SLORA_BYTES_PER_RANK)
    run = simulate_steps(trace, Fleet(sizes, Budget(adapters), Budget(adapters), PCIE), "lru", "stall", model)
    return run.report.ttft_ms["mean"] / 1e3, run.report.e2el_ms["mean"] / 1e3, requests / _ends_s(trace, run)


def _ends_s(trace: Trace, run: StepRun) -> float:
    """When the last request is done, about: the last arrival, and the mean latency of the last."""
    return trace.times_s[-1] + run.report.e2el_ms["mean"] / 1e3


def fitted() -> StepModel:
    """The step model that is nearest to S-LoRA's latencies at 1 request a second, and to its throughput at 2.5."""
    wanted = (*RATES[1.0][:2], RATES[2.5][2])
    most = POOL_TOKENS // REQUEST_TOKENS

    def distance(model: StepModel) -> float:
        found = (*slora(200, 1.0, model)[:2], slora(200, 2.5, model)[2])
        return sum(abs(one - other) / other for one, other in zip(found, wanted, strict=True))

    models = (StepModel(step, us / 1e3, most) for step, us in product(range(8, 40, 4), range(500, 1100, 100)))
    return min(models, key=distance)


def print_slora() -> None:
    """Each of S-LoRA's runs beside the simulation."""
    model = fitted()
    print(f"S-LoRA: fitted to 1 and 2.5 requests a second: --step {model.step_ms:g},{model.token_ms * 1e3:g}")
    for rate, (ttft, latency, throughput) in RATES.items():
        found = slora(200, rate, model)
        times = f"TTFT {ttft:6.2f} s, simulated {found[0]:6.2f}; latency {latency:5.1f} s, {found[1]:5.1f}"
        print(f"  {rate} req/s: {times}; {throughput:.2f} req/s, {found[2]:.2f}")
    for adapters, (ttft, throughput) in ADAPTERS.items():
        found = slora(adapters, 2.0, model)
        print(
            f"  {adapters:3} adapters: TTFT {ttft:5.2f} s, simulated {found[0]:5.2f}; "
            f"{throughput:.3f} req/s, {found[2]:.3f}"
        )


def print_chameleon() -> None:
    """TTFT where every request loads its adapter, and where none but the first does: the most that a cache can gain."""
    print("Chameleon: P99 TTFT -80.7, -24.6, -14.7 % and P50 -48.1 % at high, medium, low load (cache and scheduler)")
    for load, rate in (("low", 6.0), ("medium", 9.0), ("high", 12.0)):
        arrivals, found = generate_arrivals(STATISTICS["azure-conv"], REQUESTS, 0, rate), []
        for adapters, popularity in ((REQUESTS, "round-robin"), (100, "zipf:1.0")):
            names = [f"a{number}" for number in range(adapters)]
            sizes = adapter_sizes(names, parse_ranks("8,16,32,64,128"), 0, SLORA_BYTES_PER_RANK)
            trace = join_adapters(arrivals, names, SyntheticWorkload(parse_popularity(popularity), 0))
            fleet = Fleet(sizes, Budget(adapters), Budget(adapters), PCIE)
            found.append(simulate_steps(trace, fleet, "lru", "stall", StepModel(20.0, 0.05)).report)
        every, first = found
        p50, p99 = (first.ttft_ms[share] / every.ttft_ms[share] - 1 for share in ("p50", "p99"))
        shown = f"{every.ttft_ms['p99']:.0f} ms, {first.ttft_ms['p99']:.0f} with a cache of all"
        print(f"  {load} ({rate:g} req/s): P99 TTFT {shown}: {p99:+.1%}, P50 {p50:+.1%}; loads {every.load_share:.1%}")


def print_loraserve() -> None:
    """The servers that a set needs where the busiest may have so many tokens times their slots' rank."""
    names = [f"a{number}" for number in range(500)]
    ranks = parse_ranks("8,16,32,64,128").of(names, 0)
    weights = parse_popularity("zipf:0.5").weights(names)
    demands = [Demand(name, ranks[name], one, one) for name, one in zip(names, weights, strict=True)]
    print("LoRAServe: up to 2x throughput and half the GPUs by placing ranks together")
    for servers in (4, 8, 16):
        for name, one in strategies(demands, servers, ServerLimits(32)):
            shown = f"rank padding {one.rank_padding:.2f}, busiest {one.busiest_server:.2f}"
            print(f"  {servers:2} servers, {name:11}: {shown}")


def main() -> None:
    """Prints all three."""
    print_slora()
    print_chameleon()
    print_loraserve()


if __name__ == "__main__":
    main()

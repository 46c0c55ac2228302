"""Several workers with an API that takes as long as over a network."""

from statistics import median

from tests.bench.apply import apply_rate
from tests.bench.servers import ROUNDS, paired_ratio, servers

API_S = 0.15


def main() -> None:
    rates: dict[int, list[float]] = {1: [], 2: [], 4: []}
    with servers() as stack:
        for number in range(ROUNDS):
            for count in rates:
                rates[count].append(apply_rate(stack, count, f"t{count}-{number}", API_S))
    print(f"\nWorkers: an API that takes {API_S * 1000:.0f} ms for every response; medians of {ROUNDS} rounds")
    for count in rates:
        name = f"{count} worker" + ("s" if count > 1 else "")
        print(
            f"  {name:31} {median(rates[count]):6.0f} visits/s   {paired_ratio(rates[count], rates[1]):.2f} x one worker"
        )


if __name__ == "__main__":
    main()

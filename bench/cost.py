#!/usr/bin/env python3
"""What a million orders cost, by what a run measured and by the prices of prices.json; and on paper how it grows to 10^9 orders a day.

    cost.py RESULTS.json [PRICES.json]

CPU and bytes an order are those of the suite `footprint`, or the CPU of `saga` at half of its knee where there is none. A machine is
counted as busy as prices.json assumes, its log as often as Kafka keeps it. Nothing here is measured beyond what is named in its first
table: the growth is arithmetic, and says where the arithmetic would have to be looked at.
"""
import json
import math
import os
import sys

SERVICES = ("order", "inventory", "payment", "email", "analytics")
DAYS = (10 ** 6, 10 ** 7, 10 ** 8, 10 ** 9)
PEAK = 3  # the busiest hour beside the day's mean
DAY_SECONDS, MONTH_SECONDS = 86400, 30 * 86400


def measured(document):
    """CPU µs and bytes an order, and where they are from; only of suites whose books balanced."""
    suites = {name: entry for name, entry in document["suites"].items() if entry["status"] == "ok"}
    for sample in suites.get("footprint", {}).get("samples", []):
        if sample.get("what") == "order":
            return {"from": f"footprint, at {sample['rate']:,} orders/s", "services_us": sum(sample["cpu_us"][name] for name in SERVICES),
                    "kafka_us": sample["cpu_us"]["kafka"], "kafka_bytes": sample["kafka_bytes"] / sample["orders"],
                    "database_bytes": sample["database_bytes"] / sample["orders"],
                    "written_bytes": sum(sample["written_bytes"].values()) / sample["orders"],
                    "network_bytes": sample["network_bytes"] / sample["orders"]}
    for sample in suites.get("saga", {}).get("samples", []):
        used = {name: each["cpu_us_per_order"] or 0 for name, each in sample["half"]["processes"].items()}
        return {"from": f"saga, {sample['database']}, half of its knee", "services_us": sum(used[name] for name in SERVICES),
                "kafka_us": used.get("kafka", 0), "kafka_bytes": 0, "database_bytes": 0, "written_bytes": 0, "network_bytes": 0}
    return None


def million(got, prices, machine):
    """Dollars for a million orders: (services' cores, broker's cores, Kafka's disks)."""
    assumed = prices["assumed"]
    core_second = machine["per_hour"] / 3600 / machine["cores"] / assumed["utilisation"]
    kept = got["kafka_bytes"] * 1e6 * assumed["replication"] / 1e9 * prices["disk_gb_month"]["value"] * assumed["retention_days"] / 30
    return got["services_us"] * core_second, got["kafka_us"] * assumed["replication"] * core_second, kept


def table(columns, rows):
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print()


def growth(got, prices):
    assumed, rows = prices["assumed"], []
    for orders in DAYS:
        peak = orders / DAY_SECONDS * PEAK
        events = peak * assumed["events_an_order"]
        partitions = max(6, math.ceil(events / assumed["partition_events_per_second"]))
        cores = peak * got["services_us"] / 1e6 * assumed["core_headroom"]
        brokers_cores = peak * got["kafka_us"] / 1e6 * assumed["replication"] * assumed["core_headroom"]
        log = orders * got["kafka_bytes"] * assumed["replication"] * assumed["retention_days"] / 1e12
        disks = peak * got["written_bytes"] / 2 ** 20
        network = peak * got["network_bytes"] * 8 / 1e9
        rows.append([f"{orders:,}", f"{peak:,.0f}", f"{events:,.0f}", str(partitions), f"{cores:,.1f}", f"{max(3, math.ceil(brokers_cores / 8)):,}",
                     f"{log:,.2f}", f"{disks:,.1f} ({max(1, math.ceil(disks / assumed['disk_mib_per_second']))})", f"{network:,.2f}"])
    table(["orders a day", f"a second at the peak ({PEAK} × mean)", "events/s", "partitions of a topic, at least", "cores of the services",
           "brokers of 8 cores", f"log, {assumed['retention_days']} days × {assumed['replication']}, TB", "MiB/s written (disks)", "Gbit/s"], rows)


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    with open(sys.argv[1]) as file:
        document = json.load(file)
    path = sys.argv[2] if len(sys.argv) == 3 else os.path.join(os.path.dirname(os.path.abspath(__file__)), "prices.json")
    with open(path) as file:
        prices = json.load(file)
    got = measured(document)
    if not got:
        sys.exit("cost: neither `footprint` nor `saga` is there with balanced books")
    assumed = prices["assumed"]
    print(f"An order ({got['from']}; {document['revision']}, {document['begun_at'][:10]}): {got['services_us']:,.0f} µs of CPU in the services, "
          f"{got['kafka_us']:,.0f} in one broker; {got['kafka_bytes']:,.0f} bytes of log, {got['database_bytes']:,.0f} of databases, "
          f"{got['written_bytes']:,.0f} written, {got['network_bytes']:,.0f} over the network. Machines {100 * assumed['utilisation']:.0f} % busy, "
          f"{assumed['replication']} brokers' copies, kept {assumed['retention_days']} days.\n\nPrices of {prices['dated']}, {prices['currency']}. {prices['note']}\n")
    rows = []
    for machine in prices["machines"]:
        parts = million(got, prices, machine)
        rows.append([f"Weir on {machine['name']}", f"{sum(parts):.2f}", f"services {parts[0]:.2f}, brokers {parts[1]:.2f}, log {parts[2]:.2f}",
                     "yes" if machine["verified"] else "no", machine["source"]])
    for service in prices["services"]:
        deliveries = service["each_event"] * assumed["events_an_order"]
        share = assumed["consumers_an_event"] if "requests" in service["of"] else 1
        cost = service["per_million"] * deliveries * share
        rows.append([service["name"] + ", the messages alone", f"{cost:.2f}",
                     f"{service['per_million']:g} a million {service['of']}, {deliveries * share:g} an order", "yes" if service["verified"] else "no",
                     service["source"]])
    table(["a million orders", "cost", "of which", "verified", "source"], rows)
    print("The queues' prices are for a queue a consumer. What they leave out: the services, their databases, and an effect that happens once.\n")
    growth(got, prices)
    print("On paper: CPU an order is taken as it was measured on one machine, which falls with load and rises with replication. One order id is "
          "one key, so that no partition is hot by itself; a SKU that everybody buys is one row in one database, whatever the partitions. "
          f"A service on PostgreSQL takes {assumed['partition_events_per_second']:,} events/s a partition here, far below what one was measured to do; "
          "past one database's fsyncs, services are given a database each, and inventory is divided by SKU.")


if __name__ == "__main__":
    main()

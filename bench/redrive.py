#!/usr/bin/env python3
"""Dead letters sent back by `weir dlq redrive`: letters a second, CPU, memory, beside their number.

    bench/redrive.py --build DIR --kafka HOST:PORT [--letters N] [--rounds N] [--results FILE]

The topic is filled beforehand with letters as a service writes them. Measured is the whole command, forecast and audit included, at
no rate limit: two passes over the dead letters, one copy and one audit record each, both acknowledged by the broker. A tenth of them
beside it says whether memory grows with their number. Nobody consumes the copies meanwhile. HOST:PORT must be a Kafka of this run's
own: its topics are made here.
"""
import argparse
import json
import os
import random
import statistics
import subprocess
import time

import measure
import books



def bury(kafka, service, letters):
    from confluent_kafka import Producer
    producer = Producer({"bootstrap.servers": kafka, "partitioner": "murmur2_random", "acks": "all", "enable.idempotence": True,
                         "linger.ms": 20, "queue.buffering.max.messages": 1000000, "log_level": 2})
    chance, base, failed = random.Random(1), int(time.time() * 1000) - letters, []

    def report(error, message):
        if error:
            failed.append(error)
    for number in range(letters):
        order, price = measure.uuid7(base + number, chance), chance.randrange(100, 5000)
        data = {"order_id": order, "customer_id": f"c-{chance.randrange(20000)}", "email": f"customer{number}@shop.example",
                "locale": "en", "currency": "EUR", "total_minor": price, "placed_at": (base + number) * 1000,
                "items": [{"sku": f"SKU-{chance.randrange(200):03}", "quantity": 1, "unit_price_minor": price}]}
        headers = [("ce_specversion", "1.0"), ("ce_id", measure.uuid7(base + number, chance)), ("ce_source", "/bench"),
                   ("ce_type", "weir.OrderPlaced"), ("ce_time", "2026-11-21T12:00:00.000000Z"), ("ce_subject", order),
                   ("content-type", "application/avro"),
                   ("traceparent", f"00-{chance.getrandbits(128):032x}-{chance.getrandbits(64):016x}-01"),
                   ("__dlq.errors.topic", "orders"), ("__dlq.errors.partition", str(number % 6)),
                   ("__dlq.errors.offset", str(number)), ("__dlq.errors.group", f"weir-{service}"),
                   ("__dlq.errors.delivery.count", "4"), ("__dlq.errors.message", "the dependency says no"),
                   ("weir_error_class", "RETRY"), ("weir_error_fingerprint", "0123456789abcdef"), ("weir_attempt", "4"),
                   ("weir_first_failed_at", "2026-11-21T12:00:00.000000Z")]
        producer.produce(f"dlq.{service}", books.encode("OrderPlaced", data), order, headers=headers, on_delivery=report)
        if number % 1000 == 0:
            producer.poll(0)
    if producer.flush(120) or failed:
        raise SystemExit(f"the topic could not be filled: {failed[:1]}")


def weir(build, kafka, *words):
    """(stdout, seconds, CPU seconds, peak resident MiB) of one command."""
    begun = time.monotonic()
    process = subprocess.Popen([f"{build}/services/weir/weir", *words], env={**os.environ, "KAFKA_BOOTSTRAP_SERVERS": kafka},
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    out = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"weir {words} ended with {process.returncode}: {out[-500:]}")
    return out, time.monotonic() - begun, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", required=True)
    parser.add_argument("--kafka", required=True)
    parser.add_argument("--letters", type=int, default=100000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--results")
    chosen = parser.parse_args()
    results = measure.Results(chosen.results) if chosen.results else None
    weir(chosen.build, chosen.kafka, "topics", "create")
    print("| letters | letters/s: min, median, max | CPU µs a letter | peak resident MiB |\n|---|---|---|---|")
    # Each size has a service's dead letters of its own; further rounds send the same again (--again).
    for service, letters in (("email", chosen.letters // 10), ("payment", chosen.letters)):
        bury(chosen.kafka, service, letters)
        rates, cpus, peaks = [], [], []
        for number in range(chosen.rounds):
            out, seconds, cpu, peak = weir(chosen.build, chosen.kafka, "dlq", "redrive", "--yes", "--json", "--rate", "0", "--service",
                                           service, *(["--again"] if number else []))
            done = json.loads(out.splitlines()[-1])
            if done["event"] != "done" or done["sent"] != letters:
                raise SystemExit(f"not all were sent: {done}")
            rates.append(letters / seconds)
            cpus.append(cpu / letters * 1e6)
            peaks.append(peak)
            if results:
                results.add(part="redrive", letters=letters, seconds=seconds, cpu_seconds=cpu, peak_mib=peak)
        print(f"| {letters:,} | {min(rates):,.0f}, {statistics.median(rates):,.0f}, {max(rates):,.0f} | "
              f"{min(cpus):.0f}, {statistics.median(cpus):.0f}, {max(cpus):.0f} | {max(peaks):.0f} |", flush=True)


if __name__ == "__main__":
    main()

"""Writes numbered records to every partition of a topic with one idempotent producer, for tests that kill nodes.

Reads commands from standard input, one per line:
  report   prints `report ACKNOWLEDGED:GAP_MS ...`, for each partition: how many records were acknowledged so far, and
           the longest time without an acknowledgement since the last report
  stop     writes nothing more, waits for everything outstanding, prints a last report and ends

Every acknowledgement goes to a file as `PARTITION NUMBER OFFSET`, where it is before the next report. A record that fails for good ends the program.
"""

import os
import selectors
import sys
import time

from confluent_kafka import Producer


class Partition:
    def __init__(self, index):
        self.index = index
        self.next_number = 0
        self.outstanding = 0
        self.count = 0
        self.last = time.monotonic()
        self.longest = 0.0

    def acknowledged(self):
        now = time.monotonic()
        self.longest = max(self.longest, now - self.last)
        self.last = now
        self.count += 1

    def gap_ms(self):
        """The longest gap since the last call; one that still lasts counts as long as it is, and goes on."""
        longest = max(self.longest, time.monotonic() - self.last)
        self.longest = 0.0
        return round(longest * 1000)


def main():
    topic, partition_count, path = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    producer = Producer({
        "bootstrap.servers": os.environ["KAURI_BOOTSTRAP"],
        "acks": "all",
        "enable.idempotence": True,
        "linger.ms": 2,
        "message.timeout.ms": 300_000,
        # What a client adds to an outage should be small beside it.
        "retry.backoff.ms": 20,
        "retry.backoff.max.ms": 100,
        "reconnect.backoff.ms": 20,
        "reconnect.backoff.max.ms": 200,
        "topic.metadata.refresh.fast.interval.ms": 50,
        "log_level": 2,
    })
    partitions = [Partition(index) for index in range(partition_count)]
    acknowledgements = open(path, "w", encoding="ascii")

    def delivered(error, message, partition, number):
        partition.outstanding -= 1
        if error is not None:
            print(f"partition {partition.index} number {number}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
        partition.acknowledged()
        acknowledgements.write(f"{partition.index} {number} {message.offset()}\n")

    def report():
        acknowledgements.flush()
        print("report", *[f"{partition.count}:{partition.gap_ms()}" for partition in partitions], flush=True)

    commands = selectors.DefaultSelector()
    commands.register(sys.stdin, selectors.EVENT_READ)
    os.set_blocking(sys.stdin.fileno(), False)
    stopped = False
    while not stopped:
        for partition in partitions:
            # Enough for several batches in flight, and little enough to notice an outage at once.
            while partition.outstanding < 200:
                number = partition.next_number
                partition.next_number += 1
                partition.outstanding += 1
                value = f"{partition.index} {number} ".encode() + b"x" * (number % 400)
                producer.produce(
                    topic, value=value, partition=partition.index,
                    on_delivery=lambda error, message, p=partition, n=number: delivered(error, message, p, n),
                )
        producer.poll(0.005)
        if commands.select(0):
            for command in sys.stdin.readline().split() or ["stop"]:
                if command == "report":
                    report()
                else:
                    stopped = True
    unsent = producer.flush(120)
    report()
    acknowledgements.close()
    if unsent:
        sys.exit(f"{unsent} records were not delivered")


if __name__ == "__main__":
    main()

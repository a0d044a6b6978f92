"""What every Python client writes, and the comparison of what it reads."""

import os
import time

BOOTSTRAP = os.environ["KAURI_BOOTSTRAP"]
PARTITIONS = 3
RECORDS = 60  # per partition and way of producing
START_MS = 1_700_000_000_000
STEP_MS = 1_000

# (name, compression, acks, idempotent)
WAYS = [
    ("none", "none", "all", False),
    ("gzip", "gzip", "all", False),
    ("snappy", "snappy", "all", False),
    ("lz4", "lz4", "all", False),
    ("zstd", "zstd", "all", False),
    ("acks-0", "none", "0", False),
    ("acks-1", "none", "1", False),
    ("idempotent", "lz4", "all", True),
]


class Record:
    def __init__(self, key, value, headers, timestamp):
        self.key = key
        self.value = value
        self.headers = headers
        self.timestamp = timestamp

    def fields(self):
        return (self.key, self.value, self.headers, self.timestamp)


def topic_name(client):
    return f"{client}-{os.getpid()}-{time.time_ns()}"


def records(way_number, way, partition):
    """The records of one way of producing, in order. Timestamps grow over all ways."""
    result = []
    for number in range(RECORDS):
        # A record without key and value is one that kafka-python does not write.
        key = None if number % 7 == 3 and number % 11 != 5 else f"{way}/{partition}/{number}".encode()
        if number % 11 == 5:
            value = None
        elif number % 11 == 6:
            value = b""
        else:
            value = f"{way} {partition} {number} ".encode() * (1 + number * 5 % 97)
        headers = []
        if number % 3 == 0:
            headers = [("way", way.encode()), ("number", str(number).encode()), ("way", b"again"), ("nothing", b"")]
        timestamp = START_MS + (way_number * RECORDS + number) * STEP_MS
        result.append(Record(key, value, headers, timestamp))
    return result


def expected(partition):
    return [
        record
        for number, (way, _, _, _) in enumerate(WAYS)
        for record in records(number, way, partition)
    ]


def compare(partition, found):
    """`found` are (offset, Record) of a whole partition."""
    wanted = expected(partition)
    check(len(found) == len(wanted), f"partition {partition}: {len(found)} records instead of {len(wanted)}")
    for number, ((offset, record), want) in enumerate(zip(found, wanted)):
        check(offset == number, f"partition {partition}: offset {offset} instead of {number}")
        check(record.fields() == want.fields(), f"partition {partition} offset {offset}: {record.fields()} instead of {want.fields()}")


def check(holds, sentence):
    if not holds:
        raise SystemExit(f"FAILED: {sentence}")


def eventually(what, ask, seconds=30):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if ask():
            return
        time.sleep(0.05)
    check(False, f"{what} did not happen within {seconds} s")

"""The scenario with confluent-kafka."""

import sys

from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition, libversion, version
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic

from scenario import BOOTSTRAP, PARTITIONS, START_MS, STEP_MS, WAYS, Record, check, compare, eventually, expected, records, topic_name


def produce(topic, number, way, compression, acks, idempotent):
    failures = []
    producer = Producer({
        "bootstrap.servers": BOOTSTRAP,
        "compression.type": compression,
        "acks": acks,
        "enable.idempotence": idempotent,
        "linger.ms": 20,
        "batch.num.messages": 25,
    })
    offsets = {}

    def delivered(error, message):
        if error is not None:
            failures.append(f"{way}: {error}")
        else:
            offsets.setdefault(message.partition(), []).append(message.offset())

    for partition in range(PARTITIONS):
        for record in records(number, way, partition):
            producer.produce(
                topic, key=record.key, value=record.value, headers=record.headers, partition=partition,
                timestamp=record.timestamp, on_delivery=delivered,
            )
    check(producer.flush(60) == 0, f"{way}: not everything was delivered")
    check(not failures, failures)
    if acks != "0":
        for partition, found in offsets.items():
            check(found == list(range(found[0], found[0] + len(found))), f"{way}: acknowledged offsets {found}")


def consumer():
    # A group id is demanded by the library; nothing is committed.
    return Consumer({"bootstrap.servers": BOOTSTRAP, "group.id": "unused", "enable.auto.commit": False, "enable.partition.eof": True})


def read(topic, partition, offset):
    reader = consumer()
    reader.assign([TopicPartition(topic, partition, offset)])
    found = []
    while True:
        message = reader.poll(30)
        check(message is not None, f"nothing arrives from partition {partition}")
        error = message.error()
        if error is None:
            found.append((message.offset(), Record(message.key(), message.value(), message.headers() or [], message.timestamp()[1])))
        elif error.name() == "_PARTITION_EOF":
            break
        else:
            # The library looks for the coordinator of the group id that it demands, and passes on the answer once.
            check(error.name() == "GROUP_AUTHORIZATION_FAILED" and "does not support consumer groups" in error.str(), error)
    reader.close()
    return found


def main():
    topic = topic_name("confluent")
    admin = AdminClient({"bootstrap.servers": BOOTSTRAP})
    for future in admin.create_topics([NewTopic(topic, num_partitions=PARTITIONS, replication_factor=3)]).values():
        future.result(30)
    again = admin.create_topics([NewTopic(topic, num_partitions=PARTITIONS, replication_factor=3)])[topic].exception(30)
    check(again is not None and again.args[0].name() == "TOPIC_ALREADY_EXISTS", again)

    for number, (way, compression, acks, idempotent) in enumerate(WAYS):
        produce(topic, number, way, compression, acks, idempotent)

    for partition in range(PARTITIONS):
        found = read(topic, partition, OFFSET_BEGINNING)
        compare(partition, found)
        middle = len(found) // 2 + 3
        check([offset for offset, _ in read(topic, partition, middle)] == list(range(middle, len(found))), "reading from an offset")

    reader = consumer()
    total = len(expected(0))
    for wanted in (0, 1, total // 2, total - 1):
        times = [TopicPartition(topic, partition, START_MS + wanted * STEP_MS - STEP_MS // 2) for partition in range(PARTITIONS)]
        offsets = [found.offset for found in reader.offsets_for_times(times, timeout=30)]
        check(offsets == [wanted] * PARTITIONS, f"offsets for the time of {wanted}: {offsets}")
    low, high = reader.get_watermark_offsets(TopicPartition(topic, 1), timeout=30)
    check((low, high) == (0, total), f"watermarks {low}, {high}")
    reader.close()

    described = admin.list_topics(topic, timeout=30).topics[topic]
    check(sorted(described.partitions) == list(range(PARTITIONS)), described.partitions)
    for partition in described.partitions.values():
        check(sorted(partition.replicas) == [1, 2, 3], partition.replicas)
    for future in admin.describe_configs([ConfigResource(ConfigResource.Type.TOPIC, topic)]).values():
        check("max.message.bytes" in future.result(30), "a topic has configs")
    check(len(admin.describe_cluster(request_timeout=30).result(30).nodes) == 3, "three nodes")
    for future in admin.delete_topics([topic]).values():
        future.result(30)
    eventually("the deletion", lambda: topic not in admin.list_topics(timeout=30).topics)
    print(f"ok confluent-kafka {version()} librdkafka {libversion()[0]}")


if __name__ == "__main__":
    sys.exit(main())

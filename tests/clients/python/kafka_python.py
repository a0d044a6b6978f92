"""The scenario with kafka-python."""

import sys

import kafka
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import NewTopic

from scenario import BOOTSTRAP, PARTITIONS, START_MS, STEP_MS, WAYS, Record, check, compare, eventually, expected, records, topic_name

SERVERS = BOOTSTRAP.split(",")


def produce(topic, number, way, compression, acks, idempotent):
    producer = KafkaProducer(
        bootstrap_servers=SERVERS,
        compression_type=None if compression == "none" else compression,
        acks="all" if acks == "all" else int(acks),
        enable_idempotence=idempotent,
        linger_ms=20,
        # One request at a time keeps the order without idempotence.
        max_in_flight_requests_per_connection=5 if idempotent else 1,
    )
    futures = []
    for partition in range(PARTITIONS):
        for record in records(number, way, partition):
            futures.append(producer.send(
                topic, key=record.key, value=record.value, headers=record.headers, partition=partition, timestamp_ms=record.timestamp,
            ))
    producer.flush(60)
    for future in futures:
        future.get(60)
    producer.close()


def read(topic, partition, position, count):
    reader = KafkaConsumer(bootstrap_servers=SERVERS, group_id=None, consumer_timeout_ms=30_000)
    assigned = TopicPartition(topic, partition)
    reader.assign([assigned])
    if position is None:
        reader.seek_to_beginning(assigned)
    else:
        reader.seek(assigned, position)
    found = []
    for message in reader:
        headers = list(message.headers)
        found.append((message.offset, Record(message.key, message.value, headers, message.timestamp)))
        if len(found) == count:
            break
    reader.close()
    return found


def main():
    topic = topic_name("kafka-python")
    admin = KafkaAdminClient(bootstrap_servers=SERVERS)
    admin.create_topics([NewTopic(name=topic, num_partitions=PARTITIONS, replication_factor=3)])

    for number, (way, compression, acks, idempotent) in enumerate(WAYS):
        produce(topic, number, way, compression, acks, idempotent)

    total = len(expected(0))
    for partition in range(PARTITIONS):
        compare(partition, read(topic, partition, None, total))
        middle = total // 2 + 3
        found = read(topic, partition, middle, total - middle)
        check([offset for offset, _ in found] == list(range(middle, total)), "reading from an offset")

    reader = KafkaConsumer(bootstrap_servers=SERVERS, group_id=None)
    all_partitions = [TopicPartition(topic, partition) for partition in range(PARTITIONS)]
    for wanted in (0, 1, total // 2, total - 1):
        times = {partition: START_MS + wanted * STEP_MS - STEP_MS // 2 for partition in all_partitions}
        offsets = [found.offset for found in reader.offsets_for_times(times).values()]
        check(offsets == [wanted] * PARTITIONS, f"offsets for the time of {wanted}: {offsets}")
    check(set(reader.end_offsets(all_partitions).values()) == {total}, "end offsets")
    check(set(reader.beginning_offsets(all_partitions).values()) == {0}, "beginning offsets")
    reader.close()

    check(topic in admin.list_topics(), "the topic is listed")
    described = admin.describe_topics([topic])[0]
    check(len(described["partitions"]) == PARTITIONS, described)
    admin.delete_topics([topic])
    eventually("the deletion", lambda: topic not in admin.list_topics())
    admin.close()
    print(f"ok kafka-python {kafka.__version__}")


if __name__ == "__main__":
    sys.exit(main())

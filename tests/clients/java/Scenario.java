import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.concurrent.Future;
import java.util.stream.IntStream;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.admin.TopicDescription;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.common.utils.AppInfoParser;

/** The scenario with Kafka's own client. */
public class Scenario {
    static final String BOOTSTRAP = System.getenv("KAURI_BOOTSTRAP");
    static final int PARTITIONS = 3;
    static final int RECORDS = 60;
    static final long START_MS = 1_700_000_000_000L;
    static final long STEP_MS = 1_000;

    record Way(String name, String compression, String acks, boolean idempotent) {}

    static final List<Way> WAYS = List.of(
            new Way("none", "none", "all", false),
            new Way("gzip", "gzip", "all", false),
            new Way("snappy", "snappy", "all", false),
            new Way("lz4", "lz4", "all", false),
            new Way("zstd", "zstd", "all", false),
            new Way("acks-0", "none", "0", false),
            new Way("acks-1", "none", "1", false),
            new Way("idempotent", "lz4", "all", true));

    public static void main(String[] arguments) throws Exception {
        String topic = "java-" + System.nanoTime();
        List<TopicPartition> partitions =
                IntStream.range(0, PARTITIONS).mapToObj(partition -> new TopicPartition(topic, partition)).toList();
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", BOOTSTRAP))) {
            admin.createTopics(List.of(new NewTopic(topic, PARTITIONS, (short) 3))).all().get();
            for (int number = 0; number < WAYS.size(); number++) {
                produce(topic, number);
            }

            long total = (long) RECORDS * WAYS.size();
            Map<TopicPartition, Long> start = new HashMap<>();
            partitions.forEach(partition -> start.put(partition, 0L));
            var found = read(start, total);
            for (TopicPartition partition : partitions) {
                compare(partition, found.get(partition));
            }
            long middle = total / 2 + 3;
            Map<TopicPartition, Long> fromMiddle = new HashMap<>();
            partitions.forEach(partition -> fromMiddle.put(partition, middle));
            read(fromMiddle, total - middle).forEach((partition, records) ->
                    check(records.get(0).offset() == middle, partition + " starts at " + records.get(0).offset()));
            times(partitions, total);

            check(admin.listTopics().names().get().contains(topic), "the topic is not listed");
            TopicDescription described = admin.describeTopics(List.of(topic)).allTopicNames().get().get(topic);
            check(described.partitions().size() == PARTITIONS, "partitions: " + described);
            described.partitions().forEach(partition -> check(partition.replicas().size() == 3, "replicas: " + described));
            var resource = new ConfigResource(ConfigResource.Type.TOPIC, topic);
            check(admin.describeConfigs(List.of(resource)).all().get().get(resource).get("max.message.bytes") != null, "no configs");
            check(admin.describeCluster().nodes().get().size() == 3, "three nodes");
            var ends = admin.listOffsets(Map.of(partitions.get(0), OffsetSpec.latest())).all().get();
            check(ends.get(partitions.get(0)).offset() == total, "ends: " + ends);
            var newest = admin.listOffsets(Map.of(partitions.get(0), OffsetSpec.maxTimestamp())).all().get();
            check(newest.get(partitions.get(0)).offset() == total - 1, "newest: " + newest);
            admin.deleteTopics(List.of(topic)).all().get();
            while (admin.listTopics().names().get().contains(topic)) {
                Thread.sleep(50);
            }
        }
        System.out.println("ok kafka-clients " + AppInfoParser.getVersion());
    }

    static void produce(String topic, int number) throws Exception {
        Way way = WAYS.get(number);
        Map<String, Object> config = Map.of(
                "bootstrap.servers", BOOTSTRAP,
                "key.serializer", ByteArraySerializer.class,
                "value.serializer", ByteArraySerializer.class,
                "compression.type", way.compression,
                "acks", way.acks,
                "enable.idempotence", way.idempotent,
                // One request at a time keeps the order without idempotence.
                "max.in.flight.requests.per.connection", way.idempotent ? 5 : 1,
                "batch.size", 20_000,
                "linger.ms", 20);
        try (KafkaProducer<byte[], byte[]> producer = new KafkaProducer<>(config)) {
            List<Future<RecordMetadata>> sent = new ArrayList<>();
            for (int partition = 0; partition < PARTITIONS; partition++) {
                for (ProducerRecord<byte[], byte[]> record : records(topic, number, partition)) {
                    sent.add(producer.send(record));
                }
            }
            producer.flush();
            for (Future<RecordMetadata> future : sent) {
                future.get();
            }
        }
    }

    static List<ProducerRecord<byte[], byte[]>> records(String topic, int number, int partition) {
        String way = WAYS.get(number).name;
        List<ProducerRecord<byte[], byte[]>> records = new ArrayList<>();
        for (int i = 0; i < RECORDS; i++) {
            byte[] key = i % 7 == 3 ? null : bytes(way + "/" + partition + "/" + i);
            byte[] value = bytes((way + " " + partition + " " + i + " ").repeat(1 + i * 5 % 97));
            if (i % 11 == 5) {
                value = null;
            } else if (i % 11 == 6) {
                value = new byte[0];
            }
            long timestamp = START_MS + ((long) number * RECORDS + i) * STEP_MS;
            var record = new ProducerRecord<>(topic, partition, timestamp, key, value);
            if (i % 3 == 0) {
                record.headers().add("way", bytes(way)).add("number", bytes("" + i)).add("way", bytes("again")).add("nothing", null);
            }
            records.add(record);
        }
        return records;
    }

    static KafkaConsumer<byte[], byte[]> consumer() {
        return new KafkaConsumer<>(Map.of(
                "bootstrap.servers", BOOTSTRAP,
                "key.deserializer", ByteArrayDeserializer.class,
                "value.deserializer", ByteArrayDeserializer.class,
                "max.partition.fetch.bytes", 50_000));
    }

    /** So many records of each partition, from an offset on. */
    static Map<TopicPartition, List<ConsumerRecord<byte[], byte[]>>> read(Map<TopicPartition, Long> from, long count) {
        Map<TopicPartition, List<ConsumerRecord<byte[], byte[]>>> found = new HashMap<>();
        try (var consumer = consumer()) {
            consumer.assign(from.keySet());
            from.forEach((partition, offset) -> {
                if (offset == 0) {
                    consumer.seekToBeginning(List.of(partition));
                } else {
                    consumer.seek(partition, offset);
                }
            });
            long end = System.nanoTime() + 60_000_000_000L;
            for (long left = count * from.size(); left > 0; ) {
                check(System.nanoTime() < end, left + " records do not arrive");
                for (var record : consumer.poll(Duration.ofMillis(500))) {
                    found.computeIfAbsent(new TopicPartition(record.topic(), record.partition()), p -> new ArrayList<>()).add(record);
                    left--;
                }
            }
        }
        return found;
    }

    static void compare(TopicPartition partition, List<ConsumerRecord<byte[], byte[]>> found) {
        int offset = 0;
        for (int number = 0; number < WAYS.size(); number++) {
            for (var want : records(partition.topic(), number, partition.partition())) {
                var record = found.get(offset);
                check(record.offset() == offset, partition + ": offset " + record.offset() + " instead of " + offset);
                boolean same = Arrays.equals(record.key(), want.key()) && Arrays.equals(record.value(), want.value())
                        && record.timestamp() == want.timestamp()
                        && Arrays.equals(headers(record.headers().toArray()), headers(want.headers().toArray()));
                check(same, partition + " offset " + offset + ": " + record + " instead of " + want);
                offset++;
            }
        }
        check(found.size() == offset, partition + ": " + found.size() + " records instead of " + offset);
    }

    static String[] headers(Header[] headers) {
        return Arrays.stream(headers).map(header -> header.key() + "=" + Arrays.toString(header.value())).toArray(String[]::new);
    }

    static void times(List<TopicPartition> partitions, long total) {
        try (var consumer = consumer()) {
            for (long wanted : new long[] {0, 1, total / 2, total - 1}) {
                Map<TopicPartition, Long> times = new HashMap<>();
                partitions.forEach(partition -> times.put(partition, START_MS + wanted * STEP_MS - STEP_MS / 2));
                consumer.offsetsForTimes(times).forEach((partition, found) ->
                        check(found.offset() == wanted, partition + " by time: " + found.offset() + " instead of " + wanted));
            }
            check(Optional.ofNullable(consumer.offsetsForTimes(Map.of(partitions.get(0), START_MS + total * STEP_MS))
                    .get(partitions.get(0))).isEmpty(), "there is nothing after the end");
            consumer.endOffsets(partitions).values().forEach(end -> check(end == total, "end " + end));
            consumer.beginningOffsets(partitions).values().forEach(start -> check(start == 0, "start " + start));
        }
    }

    static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    static void check(boolean holds, String sentence) {
        if (!holds) {
            throw new AssertionError(sentence);
        }
    }
}

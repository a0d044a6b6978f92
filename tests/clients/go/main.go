// The scenario with franz-go.
package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	partitions = 3
	perWay     = 60
	startMs    = 1_700_000_000_000
	stepMs     = 1_000
)

type way struct {
	name    string
	options []kgo.Opt
}

func ways() []way {
	plain := kgo.DisableIdempotentWrite()
	codec := func(codec kgo.CompressionCodec) kgo.Opt { return kgo.ProducerBatchCompression(codec) }
	return []way{
		{"none", []kgo.Opt{plain, codec(kgo.NoCompression())}},
		{"gzip", []kgo.Opt{plain, codec(kgo.GzipCompression())}},
		{"snappy", []kgo.Opt{plain, codec(kgo.SnappyCompression())}},
		{"lz4", []kgo.Opt{plain, codec(kgo.Lz4Compression())}},
		{"zstd", []kgo.Opt{plain, codec(kgo.ZstdCompression())}},
		{"acks-0", []kgo.Opt{plain, kgo.RequiredAcks(kgo.NoAck()), codec(kgo.NoCompression())}},
		{"acks-1", []kgo.Opt{plain, kgo.RequiredAcks(kgo.LeaderAck()), codec(kgo.NoCompression())}},
		{"idempotent", []kgo.Opt{codec(kgo.Lz4Compression())}},
	}
}

func records(topic string, number int, name string, partition int32) []*kgo.Record {
	var all []*kgo.Record
	for i := range perWay {
		record := &kgo.Record{
			Topic:     topic,
			Partition: partition,
			Timestamp: time.UnixMilli(startMs + int64(number*perWay+i)*stepMs),
			Value:     bytes.Repeat([]byte(fmt.Sprintf("%s %d %d ", name, partition, i)), 1+i*5%97),
		}
		if i%7 != 3 {
			record.Key = []byte(fmt.Sprintf("%s/%d/%d", name, partition, i))
		}
		if i%11 == 5 {
			record.Value = nil
		} else if i%11 == 6 {
			record.Value = []byte{}
		}
		if i%3 == 0 {
			record.Headers = []kgo.RecordHeader{
				{Key: "way", Value: []byte(name)}, {Key: "number", Value: []byte(fmt.Sprint(i))},
				{Key: "way", Value: []byte("again")}, {Key: "nothing", Value: nil},
			}
		}
		all = append(all, record)
	}
	return all
}

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Second)
	defer cancel()
	seeds := kgo.SeedBrokers(strings.Split(os.Getenv("KAURI_BOOTSTRAP"), ",")...)
	topic := fmt.Sprintf("franz-go-%d", time.Now().UnixNano())

	client := open(seeds)
	defer client.Close()
	admin := kadm.NewClient(client)
	created, err := admin.CreateTopic(ctx, partitions, 3, nil, topic)
	must(err)
	check(created.ID != kadm.TopicID{}, "the topic has no id")

	expected := make([][]*kgo.Record, partitions)
	for number, way := range ways() {
		options := append(way.options, seeds, kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchMaxBytes(20_000))
		producer := open(options...)
		for partition := range int32(partitions) {
			batch := records(topic, number, way.name, partition)
			must(producer.ProduceSync(ctx, batch...).FirstErr())
			expected[partition] = append(expected[partition], records(topic, number, way.name, partition)...)
		}
		producer.Close()
	}

	total := int64(len(expected[0]))
	found := read(ctx, seeds, topic, kgo.NewOffset().AtStart(), 0, total)
	for partition := range int32(partitions) {
		compare(partition, found[partition], expected[partition])
	}
	middle := total/2 + 3
	for partition, found := range read(ctx, seeds, topic, kgo.NewOffset().At(middle), middle, total) {
		check(found[0].Offset == middle, "partition %d read from %d instead of %d", partition, found[0].Offset, middle)
	}
	afterMilli := kgo.NewOffset().AfterMilli(startMs + middle*stepMs - stepMs/2)
	for partition, found := range read(ctx, seeds, topic, afterMilli, middle, total) {
		check(found[0].Offset == middle, "partition %d read from %d by time instead of %d", partition, found[0].Offset, middle)
	}

	ends, err := admin.ListEndOffsets(ctx, topic)
	must(err)
	ends.Each(func(end kadm.ListedOffset) { must(end.Err); check(end.Offset == total, "end %d", end.Offset) })
	for _, wanted := range []int64{0, 1, total - 1} {
		times, err := admin.ListOffsetsAfterMilli(ctx, startMs+wanted*stepMs, topic)
		must(err)
		times.Each(func(at kadm.ListedOffset) { must(at.Err); check(at.Offset == wanted, "by time %d", at.Offset) })
	}

	topics, err := admin.ListTopics(ctx)
	must(err)
	check(topics.Has(topic), "the topic is not listed")
	check(len(topics[topic].Partitions) == partitions && topics[topic].Partitions.NumReplicas() == 3, "partitions")
	configs, err := admin.DescribeTopicConfigs(ctx, topic)
	must(err)
	check(len(configs[0].Configs) > 0, "the topic has no configs")
	brokers, err := admin.ListBrokers(ctx)
	must(err)
	check(len(brokers) == 3, "%d brokers", len(brokers))
	deleted, err := admin.DeleteTopics(ctx, topic)
	must(err)
	must(deleted.Error())
	for {
		topics, err := admin.ListTopics(ctx)
		must(err)
		if !topics.Has(topic) {
			break
		}
	}
	fmt.Println("ok franz-go")
}

// read reads all partitions by assignment, each from an offset to its end.
func read(ctx context.Context, seeds kgo.Opt, topic string, from kgo.Offset, first, end int64) map[int32][]*kgo.Record {
	assigned := map[int32]kgo.Offset{}
	for partition := range int32(partitions) {
		assigned[partition] = from
	}
	consumer := open(seeds, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: assigned}))
	defer consumer.Close()
	found := map[int32][]*kgo.Record{}
	for count := int64(0); count < partitions*(end-first); {
		fetches := consumer.PollFetches(ctx)
		must(fetches.Err())
		fetches.EachRecord(func(record *kgo.Record) {
			found[record.Partition] = append(found[record.Partition], record)
			count++
		})
	}
	return found
}

func compare(partition int32, found, expected []*kgo.Record) {
	check(len(found) == len(expected), "partition %d: %d records instead of %d", partition, len(found), len(expected))
	for i, record := range found {
		want := expected[i]
		check(record.Offset == int64(i), "partition %d: offset %d instead of %d", partition, record.Offset, i)
		same := bytes.Equal(record.Key, want.Key) && (record.Key == nil) == (want.Key == nil) &&
			bytes.Equal(record.Value, want.Value) && (record.Value == nil) == (want.Value == nil) &&
			record.Timestamp.Equal(want.Timestamp) &&
			slices.EqualFunc(record.Headers, want.Headers, func(a, b kgo.RecordHeader) bool {
				return a.Key == b.Key && bytes.Equal(a.Value, b.Value) && (a.Value == nil) == (b.Value == nil)
			})
		check(same, "partition %d offset %d: %v instead of %v", partition, i, record, want)
	}
}

func open(options ...kgo.Opt) *kgo.Client {
	client, err := kgo.NewClient(options...)
	must(err)
	return client
}

func must(err error) {
	check(err == nil, "%v", err)
}

func check(holds bool, format string, values ...any) {
	if !holds {
		fmt.Printf("FAILED: "+format+"\n", values...)
		os.Exit(1)
	}
}

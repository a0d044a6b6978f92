// The scenario with kafkajs: admin and produce. Its consumer needs a group, so what was written is checked by offsets.
'use strict'

const { CompressionTypes, Kafka, logLevel } = require('kafkajs')

const PARTITIONS = 3
const RECORDS = 60

function check(holds, sentence) {
  if (!holds) throw new Error(sentence)
}

function records(way, partition) {
  return Array.from({ length: RECORDS }, (_, number) => ({
    partition,
    key: number % 7 === 3 ? null : `${way}/${partition}/${number}`,
    value: number % 11 === 5 ? null : `${way} ${partition} ${number} `.repeat(1 + ((number * 5) % 97)),
    headers: number % 3 === 0 ? { way, number: `${number}`, list: ['one', 'two'] } : {},
    timestamp: `${1_700_000_000_000 + number * 1000}`,
  }))
}

async function eventually(ask) {
  const end = Date.now() + 30_000
  while (!(await ask())) check(Date.now() < end, `${ask} does not become true`)
}

async function main() {
  const brokers = process.env.KAURI_BOOTSTRAP.split(',')
  const kafka = new Kafka({ clientId: 'scenario', brokers, logLevel: logLevel.ERROR })
  const topic = `kafkajs-${process.pid}-${Date.now()}`
  const admin = kafka.admin()
  await admin.connect()
  check(await admin.createTopics({ topics: [{ topic, numPartitions: PARTITIONS, replicationFactor: 3 }] }), 'the topic exists')
  check(!(await admin.createTopics({ topics: [{ topic, numPartitions: PARTITIONS }] })), 'the topic is created twice')

  const ways = [
    { way: 'none', acks: -1 },
    { way: 'gzip', acks: -1, compression: CompressionTypes.GZIP },
    { way: 'acks-0', acks: 0 },
    { way: 'acks-1', acks: 1 },
    { way: 'idempotent', acks: -1, idempotent: true },
  ]
  let done = 0
  for (const { way, acks, compression, idempotent } of ways) {
    const producer = kafka.producer({ idempotent: Boolean(idempotent), maxInFlightRequests: 1, retry: { retries: 10 } })
    await producer.connect()
    for (let partition = 0; partition < PARTITIONS; partition++) {
      const sent = await producer.send({ topic, acks, compression, messages: records(way, partition) })
      check(acks === 0 || (sent.length === 1 && sent[0].errorCode === 0), JSON.stringify(sent))
    }
    // What is not acknowledged may be lost with the connection.
    done += RECORDS
    await eventually(async () => (await admin.fetchTopicOffsets(topic)).every(({ high }) => high === `${done}`))
    await producer.disconnect()
  }

  const total = `${RECORDS * ways.length}`
  const offsets = await admin.fetchTopicOffsets(topic)
  check(offsets.length === PARTITIONS, JSON.stringify(offsets))
  check(offsets.every(({ low, high }) => low === '0' && high === total), JSON.stringify(offsets))
  const byTime = await admin.fetchTopicOffsetsByTimestamp(topic, 1_700_000_000_000 + 30 * 1000)
  check(byTime.every(({ offset }) => offset === '30'), JSON.stringify(byTime))

  check((await admin.listTopics()).includes(topic), 'the topic is not listed')
  const { topics } = await admin.fetchTopicMetadata({ topics: [topic] })
  check(topics[0].partitions.length === PARTITIONS, JSON.stringify(topics))
  check(topics[0].partitions.every(({ replicas }) => replicas.length === 3), JSON.stringify(topics))
  await eventually(async () => {
    const { topics } = await admin.fetchTopicMetadata({ topics: [topic] })
    return topics[0].partitions.every(({ isr }) => isr.length === 3)
  })
  const cluster = await admin.describeCluster()
  check(cluster.brokers.length === 3 && cluster.controller !== null, JSON.stringify(cluster))
  const configs = await admin.describeConfigs({ includeSynonyms: false, resources: [{ type: 2, name: topic }] })
  check(configs.resources[0].configEntries.length > 0, JSON.stringify(configs))
  await admin.deleteTopics({ topics: [topic] })
  while ((await admin.listTopics()).includes(topic));
  await admin.disconnect()
  console.log(`ok kafkajs ${require('kafkajs/package.json').version}`)
}

main().catch((error) => {
  console.log(`FAILED: ${error.stack}`)
  process.exit(1)
})

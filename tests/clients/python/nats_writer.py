"""Writes numbered messages to a replicated JetStream stream, for tests that cut the power of its servers.

Arguments: the addresses of all servers, with commas. Creates the stream, then reads commands from standard input, one
per line, and answers each with one line:
  wait COUNT SECONDS  waits until the stream has a leader, all its replicas are current, and so many more messages are
                      acknowledged: `ok ACKNOWLEDGED`, or `stuck WHY` if that takes longer
  verify SECONDS      writes nothing more, and looks for every acknowledged message:
                      `ok acknowledged=N lost=N stored=N` or `stuck WHY`

A message that is not acknowledged is sent again under the same message id until it is.
"""

import asyncio
import sys
import time

import nats
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, StorageType, StreamConfig

STREAM = "cut"
OUTSTANDING = 200
RETRY_SECONDS = 0.05
# How long one request may take before it is sent again.
REQUEST_SECONDS = 5


class Stuck(Exception):
    pass


class Writer:
    def __init__(self, connection):
        self.jetstream = connection.jetstream(timeout=REQUEST_SECONDS)
        self.next_number = 0
        self.acknowledged = {}  # sequence by number
        self.stopped = False
        self.last_error = None

    async def create(self, deadline):
        config = StreamConfig(name=STREAM, subjects=[STREAM], num_replicas=3, storage=StorageType.FILE)
        await self.insist(deadline, lambda: self.jetstream.add_stream(config))

    async def insist(self, deadline, ask):
        """Asks until there is an answer."""
        while True:
            try:
                return await ask()
            except Exception as error:  # Whatever the client raises, the servers may be on their way.
                if time.monotonic() > deadline:
                    raise Stuck(f"{type(error).__name__}: {error}") from error
                self.last_error = error
            await asyncio.sleep(RETRY_SECONDS)

    async def write(self):
        """One of many; has one message outstanding."""
        while not self.stopped:
            number = self.next_number
            self.next_number += 1
            payload = f"{number} ".encode() + b"x" * (number % 400)
            while True:
                try:
                    answer = await self.jetstream.publish(
                        STREAM, payload, timeout=REQUEST_SECONDS, headers={"Nats-Msg-Id": str(number)},
                    )
                    self.acknowledged[number] = answer.seq
                    break
                except Exception as error:
                    self.last_error = error
                    if self.stopped:
                        return
                await asyncio.sleep(RETRY_SECONDS)

    async def healthy(self):
        information = await self.jetstream.stream_info(STREAM)
        cluster = information.cluster
        if cluster is None or not cluster.leader:
            raise Stuck("the stream has no leader")
        replicas = cluster.replicas or []
        if len(replicas) != 2 or not all(replica.current and not replica.offline for replica in replicas):
            raise Stuck("a replica is not current")
        return information

    async def wait(self, count, seconds):
        deadline = time.monotonic() + seconds
        await self.insist(deadline, self.healthy)
        wanted = len(self.acknowledged) + count
        while len(self.acknowledged) < wanted:
            if time.monotonic() > deadline:
                missing = wanted - len(self.acknowledged)
                raise Stuck(f"{missing} of {count} messages are not acknowledged; last error: {self.last_error!r}")
            await asyncio.sleep(0.01)
        return str(len(self.acknowledged))

    async def verify(self, seconds):
        deadline = time.monotonic() + seconds
        information = await self.insist(deadline, self.healthy)
        config = ConsumerConfig(deliver_policy=DeliverPolicy.ALL, ack_policy=AckPolicy.NONE, mem_storage=True)
        reader = await self.insist(deadline, lambda: self.jetstream.pull_subscribe(STREAM, stream=STREAM, config=config))
        stored = set()
        pending = information.state.messages
        while pending:
            messages = await self.insist(deadline, lambda: reader.fetch(1000, timeout=REQUEST_SECONDS))
            stored.update(int(message.data.split(b" ", 1)[0]) for message in messages)
            pending = messages[-1].metadata.num_pending
            deadline = time.monotonic() + seconds
        lost = [number for number in self.acknowledged if number not in stored]
        return f"acknowledged={len(self.acknowledged)} lost={len(lost)} stored={len(stored)}"


async def main():
    connection = await nats.connect(
        sys.argv[1].split(","), max_reconnect_attempts=-1, reconnect_time_wait=0.1, connect_timeout=2,
        error_cb=ignore, ping_interval=2, max_outstanding_pings=2,
    )
    writer = Writer(connection)
    await writer.create(time.monotonic() + 60)
    writers = [asyncio.create_task(writer.write()) for _ in range(OUTSTANDING)]
    commands = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    print("ok", flush=True)
    while line := (await commands.readline()).decode().split():
        try:
            if line[0] == "wait":
                answer = await writer.wait(int(line[1]), float(line[2]))
            else:
                writer.stopped = True
                await asyncio.wait(writers, timeout=float(line[1]))
                answer = await writer.verify(float(line[1]))
            print("ok", answer, flush=True)
        except Stuck as stuck:
            print("stuck", str(stuck).replace("\n", " "), flush=True)


async def ignore(_error):
    """Connections break all the time here."""


if __name__ == "__main__":
    asyncio.run(main())

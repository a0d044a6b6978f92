"""Writes numbered messages to a replicated JetStream stream, for tests that cut the power of its servers.

Arguments: the addresses of all servers, with commas. Creates the stream, says `ok`, then reads commands from standard
input, one per line, and answers each with one line:
  wait COUNT SECONDS  pauses until the stream has a leader and all its replicas are current, and goes on until so many
                      more messages are acknowledged: `ok`, or `stuck WHY` if either takes longer
  verify SECONDS      writes nothing more, and looks for every acknowledged message: `ok ACKNOWLEDGED LOST`, or
                      `stuck ACKNOWLEDGED WHY` if the stream cannot be read

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
        self.running = asyncio.Event()
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
            # A replica that comes back catches up more easily while nothing is written.
            await self.running.wait()
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

    async def led(self):
        information = await self.jetstream.stream_info(STREAM)
        if information.cluster is None or not information.cluster.leader:
            raise Stuck("the stream has no leader")
        return information

    async def whole(self):
        replicas = (await self.led()).cluster.replicas or []
        behind = [f"{r.name} (offline {r.offline}, lag {r.lag})" for r in replicas if r.offline or not r.current]
        if behind or len(replicas) != 2:
            raise Stuck(f"replicas are not current: {', '.join(behind)}")

    async def wait(self, count, seconds):
        self.running.clear()
        await self.insist(time.monotonic() + seconds, self.whole)
        self.running.set()
        deadline = time.monotonic() + seconds
        wanted = len(self.acknowledged) + count
        while len(self.acknowledged) < wanted:
            if time.monotonic() > deadline:
                missing = wanted - len(self.acknowledged)
                raise Stuck(f"{missing} of {count} messages are not acknowledged; last error: {self.last_error!r}")
            await asyncio.sleep(0.01)

    async def verify(self, seconds):
        deadline = time.monotonic() + seconds
        information = await self.insist(deadline, self.led)
        config = ConsumerConfig(deliver_policy=DeliverPolicy.ALL, ack_policy=AckPolicy.NONE, mem_storage=True)
        reader = await self.insist(deadline, lambda: self.jetstream.pull_subscribe(STREAM, stream=STREAM, config=config))
        stored = set()
        pending = information.state.messages
        while pending:
            messages = await self.insist(deadline, lambda: reader.fetch(1000, timeout=REQUEST_SECONDS))
            stored.update(int(message.data.split(b" ", 1)[0]) for message in messages)
            pending = messages[-1].metadata.num_pending
            deadline = time.monotonic() + seconds
        return sum(number not in stored for number in self.acknowledged)


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
        count, seconds = int(line[-2]) if line[0] == "wait" else 0, float(line[-1])
        try:
            if line[0] == "wait":
                await writer.wait(count, seconds)
                print("ok", flush=True)
            else:
                writer.stopped = True
                writer.running.set()
                await asyncio.wait(writers, timeout=seconds)
                print("ok", len(writer.acknowledged), await writer.verify(seconds), flush=True)
        except Stuck as stuck:
            why = str(stuck).replace("\n", " ")
            print("stuck", *([] if line[0] == "wait" else [len(writer.acknowledged)]), why, flush=True)


async def ignore(_error):
    """Connections break all the time here."""


if __name__ == "__main__":
    asyncio.run(main())

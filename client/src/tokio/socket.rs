//! Connections: one task each, which connects, reads frames and writes frames.
//!
//! Invariant: frames are written in the order in which they were handed over, whole or not at all unless the connection
//! ends; a connection ends with one [`Input::Closed`] or [`Input::Unreachable`], unless it is closed from this side.

use std::{
    collections::BTreeMap,
    io::{self, IoSlice},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use ::tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Notify, mpsc},
    task::JoinHandle,
};
use bytes::{Buf, Bytes};
use kauri_protocol::frame::{FrameLimits, FrameSplitter};

use crate::io::{ConnectionId, Dial, Effects, Input, Send};

/// The longest answer that is read. A fetch is asked for less, but its first batch comes whole.
const FRAME_BYTES_MAX: usize = 256 << 20;
/// How many frames may wait for the state machine.
pub(super) const INPUTS_MAX: usize = 64;
/// While more than this is not written yet, the state machine is not asked for more.
const UNSENT_BYTES_MAX: usize = 16 << 20;
/// How long the last bytes may take.
const FINISH_MAX: Duration = Duration::from_secs(5);
/// Slices per write; more are of no use to most systems.
const SLICES_MAX: usize = 64;

/// Bytes handed over and not written yet, over all connections.
#[derive(Debug, Default)]
struct Unsent {
    bytes: AtomicUsize,
}

#[derive(Debug)]
struct Socket {
    frames: mpsc::UnboundedSender<Vec<Bytes>>,
    task: JoinHandle<()>,
    /// Handed over and not written yet.
    unsent: Arc<AtomicUsize>,
}

#[derive(Debug)]
pub(super) struct Sockets {
    sockets: BTreeMap<ConnectionId, Socket>,
    inputs: mpsc::Sender<Input>,
    unsent: Arc<Unsent>,
    /// Told when there is room for more to send.
    wake: Arc<Notify>,
}

impl Sockets {
    pub(super) fn new(inputs: mpsc::Sender<Input>, wake: Arc<Notify>) -> Self {
        Self { sockets: BTreeMap::new(), inputs, unsent: Arc::default(), wake }
    }

    /// Whether more should be sent.
    pub(super) fn have_room(&self) -> bool {
        self.unsent.bytes.load(Ordering::Acquire) < UNSENT_BYTES_MAX
    }

    pub(super) fn apply(&mut self, effects: &mut Effects) {
        for dial in effects.dials.drain(..) {
            self.dial(dial);
        }
        for Send { connection, slices } in effects.sends.drain(..) {
            // Not there if it ended meanwhile, which the state machine learns by its own input.
            if let Some(socket) = self.sockets.get(&connection) {
                let bytes = slices.iter().map(Bytes::len).sum();
                // First to the sum, so that it is never below what its parts say.
                self.unsent.bytes.fetch_add(bytes, Ordering::AcqRel);
                socket.unsent.fetch_add(bytes, Ordering::AcqRel);
                if socket.frames.send(slices).is_err() {
                    let never_written = socket.unsent.swap(0, Ordering::AcqRel);
                    self.unsent.bytes.fetch_sub(never_written, Ordering::AcqRel);
                    self.forget(connection);
                }
            }
        }
        for connection in effects.closes.drain(..) {
            self.forget(connection);
        }
    }

    /// The connection has ended or is to end now.
    pub(super) fn forget(&mut self, connection: ConnectionId) {
        if let Some(socket) = self.sockets.remove(&connection) {
            socket.task.abort();
        }
    }

    fn dial(&mut self, dial: Dial) {
        let (frames, to_write) = mpsc::unbounded_channel();
        let unsent = Arc::new(AtomicUsize::new(0));
        let account =
            Account { socket: Arc::clone(&unsent), all: Arc::clone(&self.unsent), wake: Arc::clone(&self.wake) };
        let connection = dial.connection;
        let task = ::tokio::spawn(run(dial, self.inputs.clone(), account, to_write));
        self.sockets.insert(connection, Socket { frames, task, unsent });
    }

    /// Ends all connections, after what was handed over is written.
    pub(super) async fn finish(mut self) {
        let sockets = std::mem::take(&mut self.sockets);
        let unfinished = sockets.into_values().filter_map(|socket| {
            if socket.unsent.load(Ordering::Acquire) == 0 {
                socket.task.abort();
                return None;
            }
            // Without a sender the writer ends after the last frame.
            Some(socket.task)
        });
        let all = async {
            for task in unfinished.collect::<Vec<_>>() {
                // A task that fails has nothing more to write.
                let _ = task.await;
            }
        };
        // A broker that does not read does not get it.
        let _ = ::tokio::time::timeout(FINISH_MAX, all).await;
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        for socket in self.sockets.values() {
            socket.task.abort();
        }
    }
}

/// Keeps count of what one connection has not written. What it never writes is taken off when it ends.
#[derive(Debug)]
struct Account {
    socket: Arc<AtomicUsize>,
    all: Arc<Unsent>,
    wake: Arc<Notify>,
}

impl Account {
    fn written(&self, bytes: usize) {
        self.socket.fetch_sub(bytes, Ordering::AcqRel);
        self.take_off(bytes);
    }

    fn take_off(&self, bytes: usize) {
        let before = self.all.bytes.fetch_sub(bytes, Ordering::AcqRel);
        if before >= UNSENT_BYTES_MAX && before - bytes < UNSENT_BYTES_MAX {
            self.wake.notify_one();
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.take_off(self.socket.swap(0, Ordering::AcqRel));
    }
}

/// The account is dropped after the frames, so that it covers every frame that was ever taken.
async fn run(dial: Dial, inputs: mpsc::Sender<Input>, account: Account, frames: mpsc::UnboundedReceiver<Vec<Bytes>>) {
    let connection = dial.connection;
    let stream = match TcpStream::connect((dial.host.as_str(), dial.port)).await {
        Ok(stream) => stream,
        Err(error) => {
            // As at the end.
            let _ = inputs.send(Input::Unreachable(connection, error.to_string())).await;
            return;
        }
    };
    if stream.set_nodelay(true).is_ok() && inputs.send(Input::Connected(connection)).await.is_ok() {
        let (reader, writer) = stream.into_split();
        // Whichever ends first ends the connection; why is of no use to the state machine.
        ::tokio::select! {
            _ = read(connection, reader, &inputs) => {}
            _ = write(writer, frames, &account) => {}
        }
    }
    // Nobody listens any more if the client is gone.
    let _ = inputs.send(Input::Closed(connection)).await;
}

async fn read(connection: ConnectionId, mut reader: OwnedReadHalf, inputs: &mpsc::Sender<Input>) -> io::Result<()> {
    let mut splitter = FrameSplitter::new(FrameLimits::Fixed { bytes_max: FRAME_BYTES_MAX });
    loop {
        let count = reader.read(splitter.spare()).await?;
        if count == 0 {
            return Ok(());
        }
        splitter.commit(count);
        while let Some(frame) = splitter.next_frame().map_err(io::Error::other)? {
            if inputs.send(Input::Frame(connection, frame)).await.is_err() {
                return Ok(());
            }
        }
    }
}

async fn write(
    mut writer: OwnedWriteHalf,
    mut frames: mpsc::UnboundedReceiver<Vec<Bytes>>,
    account: &Account,
) -> io::Result<()> {
    let mut waiting: Vec<Bytes> = Vec::new();
    while let Some(slices) = frames.recv().await {
        waiting.extend(slices);
        while waiting.len() < SLICES_MAX
            && let Ok(slices) = frames.try_recv()
        {
            waiting.extend(slices);
        }
        let mut first = 0;
        while first < waiting.len() {
            let slices: Vec<IoSlice<'_>> =
                waiting[first..].iter().take(SLICES_MAX).map(|slice| IoSlice::new(slice)).collect();
            let written = writer.write_vectored(&slices).await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            account.written(written);
            let mut left = written;
            while first < waiting.len() && left >= waiting[first].len() {
                left -= waiting[first].len();
                first += 1;
            }
            if left > 0 {
                waiting[first].advance(left);
            }
        }
        waiting.clear();
    }
    Ok(())
}

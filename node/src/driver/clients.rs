//! Client connections: accepts them, cuts their bytes into frames, writes what the core answers.
//!
//! Invariant: a socket is read only while its window has credit and the node's budget has room, so what clients send
//! never occupies more memory than the node granted; and a connection that the core closes ends after everything sent
//! before was written, and one that it aborts at once. When memory is scarce, whoever holds it without making use of it
//! is closed, and not whoever waits for it.
//!
//! Does not look into frames, except that the splitter allows large ones to those that carry records.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use kauri_core::{ids::ConnectionId, io::Input, limits};
use kauri_protocol::frame::{FrameError, FrameLimits, FrameSplitter};
use slog::{Logger, debug, info, o, warn};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp::ReadHalf},
    sync::{Notify, Semaphore, mpsc, watch},
    time::{Instant, sleep, timeout, timeout_at},
};

use super::{
    event::{Event, Events, Farewell, tell},
    socket,
    window::{ALLOWANCE_BYTES, BUDGET_BYTES, Budget, Window},
};

/// Connections of one node at a time; further ones wait in the listener's queue.
const CONNECTIONS_MAX: u32 = 4096;
/// A connection on which nothing arrives for this long, and nothing is answered, is closed (Kafka's
/// connections.max.idle.ms).
const IDLE: Duration = Duration::from_secs(600);
/// A frame that has begun must go on within this time.
const FRAME_PAUSE_MAX: Duration = Duration::from_secs(30);
/// A frame beyond the window's allowance must go on at this pace. What arrives faster buys time, but never more than
/// [`FRAME_PAUSE_MAX`].
const FRAME_BYTES_PER_MILLISECOND_MIN: usize = 64;
/// The same while other connections wait for memory.
const SCARCE_PAUSE_MAX: Duration = Duration::from_secs(5);
/// Then the pace grows with what the frame occupies: so many milliseconds must suffice for as much again. Frames below
/// 1 MiB need not be faster than ever.
const SCARCE_DOUBLING_MILLISECONDS: usize = 16 << 10;
/// How long a connection waits for memory, as the last resort: two that hold parts of large frames may wait for each
/// other.
const STARVED_AFTER: Duration = Duration::from_secs(30);
/// How long a connection keeps its read buffer between frames.
const BUFFER_KEPT: Duration = Duration::from_secs(1);
/// How long an ended connection is still read, so that the client sees our last bytes and not a reset.
const LINGER: Duration = Duration::from_secs(1);
/// What is read meanwhile at most.
const LINGER_BYTES_MAX: usize = 1 << 20;
/// How long the listener rests when the system refuses to accept, as it does without free descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the core's thread holds of a connection. Dropping it ends the connection once everything sent was written.
pub(crate) struct Client {
    /// Gone when the core wants the end.
    sends: Option<mpsc::UnboundedSender<Vec<Bytes>>>,
    window: Arc<Window>,
    aborted: Arc<Notify>,
}

impl Client {
    pub(crate) fn send(&self, slices: Vec<Bytes>) {
        if let Some(sends) = &self.sends {
            // The other end is gone when the connection is; its farewell is under way.
            drop(sends.send(slices));
        }
    }

    pub(crate) fn credit(&self, bytes: usize) {
        self.window.credit(bytes);
    }

    /// Ends the connection once everything sent was written.
    pub(crate) fn close(&mut self) {
        self.sends = None;
    }

    /// Ends the connection at once. What was sent and not written is dropped.
    pub(crate) fn abort(&self) {
        self.aborted.notify_one();
    }
}

/// Why a connection ended. Said at debug level: clients come and go.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("the client closed the connection")]
    Closed,
    #[error("everything was answered and the core closed the connection")]
    Answered,
    #[error("the core aborted the connection")]
    Aborted,
    #[error("nothing arrived for {} s", IDLE.as_secs())]
    Idle,
    #[error("a frame stopped arriving, or arrived too slowly")]
    Stalled,
    #[error("no memory became free for a frame")]
    Starved,
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("{0}")]
    Socket(#[from] io::Error),
}

/// Places for connections: one is taken while a connection lives.
#[derive(Clone)]
pub(crate) struct Places(Arc<Semaphore>);

impl Places {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Semaphore::new(CONNECTIONS_MAX as usize)))
    }

    /// Waits until no connection is left, for as long as `patience` lasts.
    pub(crate) async fn all_left(&self, patience: Duration) {
        // Either way the caller goes on.
        drop(timeout(patience, self.0.acquire_many(CONNECTIONS_MAX)).await);
    }
}

/// Accepts connections until it is aborted.
pub(crate) async fn accept(listener: TcpListener, places: Places, events: Events, logger: Logger) {
    let budget = Arc::new(Budget::new(BUDGET_BYTES));
    let mut connection = ConnectionId(0);
    loop {
        let place = Arc::clone(&places.0).acquire_owned().await.expect("the places are never closed");
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(logger, "a client could not be accepted"; "error" => %error);
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        connection = ConnectionId(connection.0 + 1);
        let logger = logger.new(o!("connection" => connection.0, "client" => address.to_string()));
        let (events, budget) = (events.clone(), Arc::clone(&budget));
        tokio::spawn(async move {
            let _place = place;
            serve(stream, connection, &events, budget, &logger).await;
        });
    }
}

async fn serve(mut stream: TcpStream, connection: ConnectionId, events: &Events, budget: Arc<Budget>, logger: &Logger) {
    let window = Arc::new(Window::new(budget));
    let (sends, mut outgoing) = mpsc::unbounded_channel();
    let aborted = Arc::new(Notify::new());
    let client = Client { sends: Some(sends), window: Arc::clone(&window), aborted: Arc::clone(&aborted) };
    drop(events.send(Event::ClientConnected { connection, client }));
    let _farewell = Farewell::new(events.clone(), Input::ClientClosed { connection });
    if let Err(error) = stream.set_nodelay(true) {
        debug!(logger, "closed"; "reason" => %error);
        return;
    }
    let (mut reader, mut writer) = stream.split();
    let write = socket::write_all(&mut writer, &mut outgoing, IDLE, |bytes| {
        tell(events, Input::ClientWritten { connection, bytes });
    });
    let end = tokio::select! {
        end = read(&mut reader, connection, events, &window) => end,
        written = write => written.map_or_else(End::Socket, |()| End::Answered),
        () = aborted.notified() => End::Aborted,
    };
    match end {
        // The core has said why.
        End::Closed | End::Answered | End::Aborted | End::Idle | End::Socket(_) => {
            debug!(logger, "closed"; "reason" => %end);
        }
        End::Stalled | End::Starved | End::Frame(_) => {
            info!(logger, "a client's connection is closed"; "reason" => %end);
        }
    }
    match end {
        End::Answered => linger(&mut stream).await,
        // What the system holds for a client that does not read is dropped as well.
        End::Aborted => drop(stream.set_zero_linger()),
        End::Closed | End::Idle | End::Stalled | End::Starved | End::Frame(_) | End::Socket(_) => {}
    }
}

/// Reads frames until there is a reason not to.
async fn read(socket: &mut ReadHalf<'_>, connection: ConnectionId, events: &Events, window: &Window) -> End {
    let frames = FrameSplitter::new(FrameLimits::ByApi {
        produce_bytes_max: limits::PRODUCE_FRAME_BYTES_MAX,
        other_bytes_max: limits::SMALL_FRAME_BYTES_MAX,
    });
    match read_frames(socket, frames, connection, events, window).await {
        Ok(()) => End::Closed,
        Err(end) => end,
    }
}

async fn read_frames(
    socket: &mut ReadHalf<'_>,
    mut frames: FrameSplitter,
    connection: ConnectionId,
    events: &Events,
    window: &Window,
) -> Result<(), End> {
    let mut pace = Pace::new();
    let mut scarcity = window.scarcity();
    loop {
        loop {
            window.open().await;
            let Some(frame) = frames.next_frame()? else { break };
            window.deliver(frame.len());
            tell(events, Input::ClientFrame { connection, frame });
            pace = Pace::new();
        }
        let idle = frames.is_idle();
        if idle {
            wait_for_first_byte(socket, &mut frames).await?;
        }
        let spare = frames.spare();
        let waiting = Instant::now();
        let room = timeout(STARVED_AFTER, window.room(spare.len())).await.map_err(|_elapsed| End::Starved)?;
        pace.paused(waiting.elapsed());
        let count = if idle {
            // A socket may call itself readable and have nothing: between frames that is no stall.
            timeout(IDLE, socket.read(&mut spare[..room])).await.map_err(|_elapsed| End::Idle)??
        } else {
            read_on(socket, &mut spare[..room], &mut pace, &mut scarcity).await?
        };
        if count == 0 {
            return Ok(());
        }
        window.hold(count);
        if idle {
            pace = Pace::new();
        }
        pace.received(count, is_scarce(&scarcity));
        frames.commit(count);
    }
}

fn is_scarce(scarcity: &watch::Receiver<usize>) -> bool {
    *scarcity.borrow() > 0
}

/// Reads more of a frame, as long as its pace allows to wait for that. Memory may become scarce meanwhile.
async fn read_on(
    socket: &mut (impl AsyncRead + Unpin),
    spare: &mut [u8],
    pace: &mut Pace,
    scarcity: &mut watch::Receiver<usize>,
) -> Result<usize, End> {
    loop {
        if *scarcity.borrow_and_update() > 0 {
            pace.hurry();
        }
        tokio::select! {
            // Bytes that are there already count, however late it is.
            biased;
            read = timeout_at(pace.deadline(), socket.read(spare)) => return Ok(read.map_err(|_elapsed| End::Stalled)??),
            changed = scarcity.changed(), if pace.is_large() => {
                changed.expect("the window holds the budget, which announces changes");
            }
        }
    }
}

/// Between frames a connection may be idle for long, and many are: the read buffer is given back meanwhile.
async fn wait_for_first_byte(socket: &ReadHalf<'_>, frames: &mut FrameSplitter) -> Result<(), End> {
    match timeout(BUFFER_KEPT, socket.readable()).await {
        Ok(ready) => Ok(ready?),
        Err(_elapsed) => {
            frames.release_if_idle();
            Ok(timeout(IDLE, socket.readable()).await.map_err(|_elapsed| End::Idle)??)
        }
    }
}

/// Closes our side and, if the client is still sending, reads on for a while: closing a socket with unread bytes
/// resets the connection, and a reset overtakes the answer that says what was wrong.
async fn linger(stream: &mut TcpStream) {
    let mut sink = [0; 1024];
    let drain = async {
        stream.shutdown().await?;
        let mut drained = match stream.try_read(&mut sink) {
            Ok(count) if count > 0 => count,
            Ok(_) | Err(_) => return Ok(()),
        };
        while drained < LINGER_BYTES_MAX {
            match stream.read(&mut sink).await? {
                0 => break,
                count => drained += count,
            }
        }
        io::Result::Ok(())
    };
    // Whether it worked or not, the connection is over.
    drop(timeout(LINGER, drain).await);
}

/// How fast the frame that has begun must go on arriving.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// When the next bytes must have arrived.
    due: Instant,
    bytes: usize,
}

impl Pace {
    fn new() -> Self {
        Self { due: Instant::now() + FRAME_PAUSE_MAX, bytes: 0 }
    }

    /// Whether the frame occupies memory that others may wait for. Below that a slow connection costs next to nothing,
    /// and only has to go on.
    fn is_large(&self) -> bool {
        self.bytes > ALLOWANCE_BYTES
    }

    /// Bytes buy time, but it cannot be saved up: a fast head pays for no slow rest.
    fn received(&mut self, bytes: usize, scarce: bool) {
        let now = Instant::now();
        self.bytes += bytes;
        if !self.is_large() {
            self.due = now + FRAME_PAUSE_MAX;
            return;
        }
        let (pause_max, bytes_per_millisecond) = if scarce {
            (SCARCE_PAUSE_MAX, FRAME_BYTES_PER_MILLISECOND_MIN.max(self.bytes / SCARCE_DOUBLING_MILLISECONDS))
        } else {
            (FRAME_PAUSE_MAX, FRAME_BYTES_PER_MILLISECOND_MIN)
        };
        let bought = Duration::from_nanos((bytes * 1_000_000 / bytes_per_millisecond) as u64);
        self.due = (self.due + bought).min(now + pause_max);
    }

    /// Others wait for memory.
    fn hurry(&mut self) {
        if self.is_large() {
            self.due = self.due.min(Instant::now() + SCARCE_PAUSE_MAX);
        }
    }

    /// We did not read for so long; that is not the client's fault.
    fn paused(&mut self, pause: Duration) {
        self.due += pause;
    }

    fn deadline(&self) -> Instant {
        self.due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long a frame may pause now.
    fn patience(pace: &Pace) -> Duration {
        pace.deadline().saturating_duration_since(Instant::now())
    }

    #[tokio::test(start_paused = true)]
    async fn a_frame_must_go_on_arriving_and_a_large_one_at_some_pace() {
        let mut pace = Pace::new();
        assert_eq!(patience(&pace), FRAME_PAUSE_MAX);
        tokio::time::advance(Duration::from_secs(29)).await;
        pace.received(ALLOWANCE_BYTES, false);
        assert_eq!(patience(&pace), FRAME_PAUSE_MAX, "a byte now and then is enough for small frames");
        tokio::time::advance(Duration::from_secs(20)).await;
        pace.received(640_000, false);
        assert_eq!(patience(&pace), Duration::from_secs(20), "640 kB are worth 10 s");
        pace.paused(Duration::from_secs(5));
        assert_eq!(patience(&pace), Duration::from_secs(25), "waiting for us does not count");
    }

    #[tokio::test(start_paused = true)]
    async fn a_fast_head_buys_no_time_for_a_slow_rest() {
        let mut pace = Pace::new();
        pace.received(60_000_000, false);
        assert_eq!(patience(&pace), FRAME_PAUSE_MAX);
        for _ in 0..2 {
            tokio::time::advance(Duration::from_secs(10)).await;
            pace.received(1, false);
        }
        let left = patience(&pace);
        assert!(left < Duration::from_millis(10_001), "single bytes bought {left:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_holds_much_must_be_fast_while_others_wait() {
        let mut pace = Pace::new();
        pace.received(ALLOWANCE_BYTES, true);
        pace.hurry();
        assert_eq!(patience(&pace), FRAME_PAUSE_MAX, "the allowance is nobody else's");
        pace.received(900_000, false);
        pace.hurry();
        assert_eq!(patience(&pace), SCARCE_PAUSE_MAX);
        tokio::time::advance(Duration::from_secs(1)).await;
        pace.received(64_000, true);
        assert_eq!(patience(&pace), SCARCE_PAUSE_MAX, "64 kB/s are fast enough below 1 MiB");
        pace.received(64 << 20, true);
        for _ in 0..6 {
            tokio::time::advance(Duration::from_secs(1)).await;
            pace.received(64_000, true);
        }
        assert_eq!(patience(&pace), Duration::ZERO, "64 kB/s are slow for 64 MiB");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_holder_is_closed_before_whoever_waits_for_its_memory() {
        let budget = Arc::new(Budget::new(1000));
        let (holder, waiter) = (Window::new(Arc::clone(&budget)), Window::new(budget));
        for window in [&holder, &waiter] {
            assert!(window.room(ALLOWANCE_BYTES).await >= ALLOWANCE_BYTES);
            window.hold(ALLOWANCE_BYTES);
        }
        assert_eq!(holder.room(1000).await, 1000);
        holder.hold(1000);
        let mut pace = Pace::new();
        pace.received(ALLOWANCE_BYTES + 1000, false);

        let (mut socket, client) = tokio::io::duplex(64);
        let begun = Instant::now();
        let hold = async {
            let mut spare = [0; 64];
            let end = read_on(&mut socket, &mut spare, &mut pace, &mut holder.scarcity()).await;
            assert!(matches!(end, Err(End::Stalled)));
            drop(holder);
            begun.elapsed()
        };
        let wait = async {
            // It sits in its read already when memory becomes scarce.
            tokio::time::advance(Duration::from_secs(10)).await;
            timeout(STARVED_AFTER, waiter.room(500)).await.expect("whoever waits gets the memory")
        };
        let (held_for, room) = tokio::join!(hold, wait);
        assert_eq!(held_for, Duration::from_secs(10) + SCARCE_PAUSE_MAX);
        assert_eq!(room, 500);
        drop(client);
    }
}

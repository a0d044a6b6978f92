//! Client connections: accepts them, cuts their bytes into frames, writes what the core answers.
//!
//! Invariant: a socket is read only while its window has credit and the node's budget has room, so what clients send
//! never occupies more memory than the node granted; and a connection that the core closes ends after everything sent
//! before was written, and one that it aborts at once.
//!
//! Does not look into frames, except that the splitter allows large ones to those that carry records.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use kauri_core::{ids::ConnectionId, io::Input, limits};
use kauri_protocol::frame::{FrameError, FrameLimits, FrameSplitter};
use slog::{Logger, debug, info, o, warn};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp::ReadHalf},
    sync::{Notify, Semaphore, mpsc},
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
/// A frame beyond the window's allowance must arrive at this pace on the whole.
const FRAME_BYTES_PER_MILLISECOND_MIN: usize = 64;
/// How long a connection waits for memory. Two that hold parts of large frames may wait for each other.
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
        // A socket may call itself readable and have nothing: between frames that is no stall.
        let (deadline, late) = if idle { (Instant::now() + IDLE, End::Idle) } else { (pace.deadline(), End::Stalled) };
        let count = timeout_at(deadline, socket.read(&mut spare[..room])).await.map_err(|_elapsed| late)??;
        if count == 0 {
            return Ok(());
        }
        window.hold(count);
        if idle {
            pace = Pace::new();
        }
        pace.received(count);
        frames.commit(count);
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
    begun: Instant,
    last: Instant,
    bytes: usize,
}

impl Pace {
    fn new() -> Self {
        let now = Instant::now();
        Self { begun: now, last: now, bytes: 0 }
    }

    fn received(&mut self, bytes: usize) {
        self.bytes += bytes;
        self.last = Instant::now();
    }

    /// We did not read for so long; that is not the client's fault.
    fn paused(&mut self, pause: Duration) {
        self.begun += pause;
        self.last += pause;
    }

    /// When the next bytes must have arrived. The pace on the whole counts only beyond the allowance: below it, a slow
    /// connection costs next to nothing.
    fn deadline(&self) -> Instant {
        let pause = self.last + FRAME_PAUSE_MAX;
        if self.bytes <= ALLOWANCE_BYTES {
            return pause;
        }
        let due = Duration::from_millis((self.bytes / FRAME_BYTES_PER_MILLISECOND_MIN) as u64);
        pause.min(self.begun + FRAME_PAUSE_MAX + due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_frame_must_go_on_arriving_and_a_large_one_at_some_pace() {
        let mut pace = Pace::new();
        let begun = Instant::now();
        assert_eq!(pace.deadline(), begun + FRAME_PAUSE_MAX);
        tokio::time::advance(Duration::from_secs(29)).await;
        pace.received(ALLOWANCE_BYTES);
        assert_eq!(pace.deadline(), Instant::now() + FRAME_PAUSE_MAX, "a byte now and then is enough for small frames");
        pace.received(1 << 20);
        let seconds = pace.deadline().duration_since(begun).as_secs();
        assert!((40..60).contains(&seconds), "a large frame has {seconds} s for its first MiB");
        pace.paused(Duration::from_secs(5));
        assert_eq!(pace.deadline().duration_since(begun).as_secs(), seconds + 5, "waiting for us does not count");
    }
}

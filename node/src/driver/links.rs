//! Links between nodes: dials and accepts them, cuts their bytes into frames, writes what the core sends.
//!
//! Invariant: a link is always read, whatever the node is busy with; how much a peer may send is the business of the
//! windows in the core. Only a peer that ignores those meets [`QUEUED_BYTES_MAX`], and then its socket is not read until
//! the core has caught up.
//!
//! Does not look into frames. Who may open a link is decided in the core, by the first frame; before it was cut, an
//! accepted link has no more memory than a hello takes.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use kauri_core::{
    ids::LinkId,
    io::{Input, PeerDial},
    limits,
};
use kauri_protocol::frame::{FrameError, FrameLimits, FrameSplitter};
use slog::{Logger, debug, o, warn};
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream, tcp::ReadHalf},
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    task::AbortHandle,
    time::{sleep, timeout},
};

use super::{
    event::{Event, Events, Farewell, tell},
    socket,
};

/// Accepted links at a time. Far more than a cluster has nodes; whoever opens so many is no peer.
const ACCEPTED_MAX: usize = 256;
/// How long a dial may take. The core dials again when it wants to.
const DIAL_PATIENCE: Duration = Duration::from_secs(2);
/// How long a socket may take nothing. The core closes links that do not answer much earlier.
const WRITE_PATIENCE: Duration = Duration::from_secs(60);
/// How long the listener rests when the system refuses to accept, as it does without free descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Bytes of one link that wait for the core's thread.
const QUEUED_BYTES_MAX: usize = 2 * limits::PEER_FRAME_BYTES_MAX;

const _: () = assert!(QUEUED_BYTES_MAX > limits::PEER_FRAME_BYTES_MAX + limits::PEER_WINDOW_BYTES);

/// What the core's thread holds of a link. Dropping it closes the link at once.
pub(crate) struct Link {
    sends: mpsc::UnboundedSender<Vec<Bytes>>,
    task: AbortHandle,
}

impl Link {
    pub(crate) fn send(&self, slices: Vec<Bytes>) {
        // The other end is gone when the link is; its farewell is under way.
        drop(self.sends.send(slices));
    }

    /// Starts to dial. The core learns the outcome as `LinkUp` or `LinkDown`.
    pub(crate) fn dial(dial: PeerDial, events: Events, runtime: &Handle, logger: &Logger) -> Self {
        let id = dial.link;
        let logger = logger.new(o!("link" => id.0, "peer" => dial.node.0, "address" => dial.address.clone()));
        let (sends, outgoing) = mpsc::unbounded_channel();
        // Made outside the task: it must also be said when the task is aborted before it ran for the first time.
        let farewell = Farewell::new(events.clone(), Input::LinkDown { link: id });
        let task = runtime.spawn(async move {
            let _farewell = farewell;
            let connect = timeout(DIAL_PATIENCE, TcpStream::connect(dial.address)).await;
            match connect.unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into())) {
                Ok(stream) => {
                    tell(&events, Input::LinkUp { link: id });
                    serve(stream, id, outgoing, &events, &logger).await;
                }
                Err(error) => debug!(logger, "could not be dialled"; "error" => %error),
            }
        });
        Self { sends, task: task.abort_handle() }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A frame on its way to the core, with the part of the link's queue it occupies.
pub(crate) struct LinkFrame {
    pub(crate) link: LinkId,
    pub(crate) frame: Bytes,
    pub(crate) _room: OwnedSemaphorePermit,
}

#[derive(Debug, thiserror::Error)]
enum End {
    #[error("the peer closed the link")]
    Closed,
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("{0}")]
    Socket(#[from] io::Error),
}

/// Accepts links until the runtime ends.
pub(crate) async fn accept(listener: TcpListener, events: Events, logger: Logger) {
    let slots = Arc::new(Semaphore::new(ACCEPTED_MAX));
    let mut id = LinkId::FIRST_ACCEPTED;
    loop {
        let slot = Arc::clone(&slots).acquire_owned().await.expect("the slots are never closed");
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(logger, "a peer could not be accepted"; "error" => %error);
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let logger = logger.new(o!("link" => id.0, "address" => address.to_string()));
        let (sends, outgoing) = mpsc::unbounded_channel();
        let (known, is_known) = oneshot::channel::<Farewell>();
        let task = tokio::spawn({
            let events = events.clone();
            async move {
                let _slot = slot;
                // The core must hear of the link before it hears from it.
                let Ok(_farewell) = is_known.await else { return };
                serve(stream, id, outgoing, &events, &logger).await;
            }
        });
        let link = Link { sends, task: task.abort_handle() };
        drop(events.send(Event::LinkAccepted { id, link }));
        drop(known.send(Farewell::new(events.clone(), Input::LinkDown { link: id })));
        id = LinkId(id.0 + 1);
    }
}

async fn serve(
    mut stream: TcpStream,
    id: LinkId,
    mut outgoing: mpsc::UnboundedReceiver<Vec<Bytes>>,
    events: &Events,
    logger: &Logger,
) {
    if let Err(error) = stream.set_nodelay(true) {
        debug!(logger, "closed"; "reason" => %error);
        return;
    }
    let (mut reader, mut writer) = stream.split();
    let write = socket::write_all(&mut writer, &mut outgoing, WRITE_PATIENCE, |bytes| {
        tell(events, Input::LinkWritten { link: id, bytes });
    });
    let end = tokio::select! {
        read = read_frames(&mut reader, id, events) => read.err().unwrap_or(End::Closed),
        // The sender lives as long as the link, and ends this task when it goes.
        written = write => written.map_or_else(End::Socket, |()| End::Closed),
    };
    debug!(logger, "closed"; "reason" => %end);
}

async fn read_frames(socket: &mut ReadHalf<'_>, link: LinkId, events: &Events) -> Result<(), End> {
    const PEER: FrameLimits = FrameLimits::Fixed { bytes_max: limits::PEER_FRAME_BYTES_MAX };
    const STRANGER: FrameLimits = FrameLimits::Fixed { bytes_max: limits::PEER_HELLO_BYTES_MAX };
    // The same holds for links that we dialled: what comes there the wrong way is no frame that anybody needs.
    let mut frames = FrameSplitter::new(STRANGER);
    let queue = Arc::new(Semaphore::new(QUEUED_BYTES_MAX));
    loop {
        while let Some(frame) = frames.next_frame()? {
            let bytes = u32::try_from(frame.len()).expect("a frame is below its limit");
            let room = Arc::clone(&queue).acquire_many_owned(bytes).await.expect("the queue is never closed");
            drop(events.send(Event::LinkFrame(LinkFrame { link, frame, _room: room })));
            frames.set_limits(PEER);
        }
        let count = socket.read(frames.spare()).await?;
        if count == 0 {
            return Ok(());
        }
        frames.commit(count);
    }
}

//! A running node: starts the threads, tells what became of it, and ends it.
//!
//! Invariant: a node ends for one reason, told once in [`NodeState::end`]; after [`Node::join`] no thread, socket or
//! file of it is left, so that its data directory may be opened again.

use std::{
    collections::BTreeMap,
    io,
    net::TcpListener,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::Ordering::Relaxed, mpsc},
    thread::JoinHandle,
    time::Duration,
};

use kauri_core::io::{Exit, Input};
use slog::{Logger, info};
use tokio::{
    runtime::{Builder, Runtime},
    sync::watch,
};

use super::{
    clients::{self, Places},
    core::Core,
    core_thread::{self, AbortOnDrop, World},
    data_directory::DataDirectory,
    disk::Disk,
    disk_threads::{self, Counts, Started},
    event::{Event, Events, tell},
    links, thread,
};

/// Threads for sockets: the work on them is copying bytes to and from the kernel.
const SOCKET_THREADS: usize = 2;
/// Threads for looking up host names.
const NAME_THREADS: usize = 2;
/// How long clients of a node that ended get to receive what was answered.
const FLUSH_PATIENCE: Duration = Duration::from_millis(1500);

/// What a node needs from the world. All of it was opened before, so that whoever did can say what is wrong with it.
pub struct NodeSetup {
    /// Names the threads.
    pub name: String,
    pub data_directory: DataDirectory,
    pub client_listener: TcpListener,
    pub peer_listener: TcpListener,
    pub logger: Logger,
}

/// What became of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeState {
    /// Peers and clients are talked to.
    pub recovered: bool,
    /// Clients are served.
    pub serving: bool,
    pub end: Option<NodeEnd>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeEnd {
    #[error("{0}")]
    Exit(Exit),
    #[error("thread {thread} panicked; what it said is above")]
    Panicked { thread: String },
    #[error("the end was not waited for")]
    Abandoned,
}

pub struct Node {
    events: Events,
    state: watch::Receiver<NodeState>,
    runtime: Runtime,
    places: Places,
    threads: Vec<JoinHandle<()>>,
    disk: Arc<Counts>,
    logger: Logger,
}

impl Node {
    /// Starts a node around the core that `new_core` makes. Errors are the system's, out of threads or descriptors.
    pub fn start<C: Core>(setup: NodeSetup, new_core: impl FnOnce() -> C + Send + 'static) -> io::Result<Self> {
        let NodeSetup { name, data_directory, client_listener, peer_listener, logger } = setup;
        let (events, queue) = mpsc::channel();
        let (state, watched) = watch::channel(NodeState::default());
        let disk = Arc::new(Disk::new(data_directory)?);
        let Started { queues: disk, mut threads, counts } = disk_threads::start(&name, &disk, &events)?;
        let runtime = Builder::new_multi_thread()
            .worker_threads(SOCKET_THREADS)
            .max_blocking_threads(NAME_THREADS)
            .thread_name(format!("{name}-sockets"))
            .enable_io()
            .enable_time()
            .build()?;
        let places = Places::new();
        let listeners = {
            let _entered = runtime.enter();
            let clients = clients::accept(listen(client_listener)?, places.clone(), events.clone(), logger.clone());
            let peers = links::accept(listen(peer_listener)?, events.clone(), logger.clone());
            [runtime.spawn(clients), runtime.spawn(peers)].map(|task| AbortOnDrop(task.abort_handle()))
        };
        let world = World {
            events: events.clone(),
            disk,
            runtime: runtime.handle().clone(),
            state: state.clone(),
            clients: BTreeMap::new(),
            links: BTreeMap::new(),
            logger: logger.clone(),
            _listeners: listeners,
        };
        let thread_name = format!("{name}-core");
        threads.push(thread::spawn(thread_name.clone(), events.clone(), move || {
            let run = AssertUnwindSafe(|| core_thread::run(new_core(), &queue, world));
            let end = catch_unwind(run).unwrap_or(NodeEnd::Panicked { thread: thread_name });
            state.send_modify(|state| state.end = Some(end));
        })?);
        Ok(Self { events, state: watched, runtime, places, threads, disk: counts, logger })
    }

    /// What became of the node so far; can be waited on.
    pub fn state(&self) -> watch::Receiver<NodeState> {
        self.state.clone()
    }

    /// Asks for a clean end. [`NodeState::end`] tells when it has come.
    pub fn shut_down(&self) {
        tell(&self.events, Input::Shutdown);
    }

    /// Ends the node without asking the core. To its peers and its disk this is a crash.
    pub fn abandon(&self) {
        drop(self.events.send(Event::Abandon));
    }

    /// Waits until nothing of the node is left. To be called after the end, and outside asynchronous code.
    pub fn join(self) {
        self.runtime.block_on(self.places.all_left(FLUSH_PATIENCE));
        self.runtime.shutdown_timeout(FLUSH_PATIENCE);
        for thread in self.threads {
            // A panic was reported when it happened.
            drop(thread.join());
        }
        let Counts { wal_writes, wal_syncs, other_syncs } = &*self.disk;
        info!(self.logger, "the disk was used"; "wal_writes" => wal_writes.load(Relaxed),
            "wal_syncs" => wal_syncs.load(Relaxed), "other_syncs" => other_syncs.load(Relaxed));
    }
}

/// To be called within the runtime that is to watch the socket.
fn listen(listener: TcpListener) -> io::Result<tokio::net::TcpListener> {
    listener.set_nonblocking(true)?;
    tokio::net::TcpListener::from_std(listener)
}

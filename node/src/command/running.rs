//! Nodes that run in this process until they are asked to stop.
//!
//! Invariant: however it goes, the process ends: a node that does not stop is given up after a bounded time, and
//! another signal shortens even that. What signals a process and its group signals it twice; that is one request.

use std::{io, net::TcpListener, sync::mpsc, thread::Builder, time::Duration};

use kauri_core::{
    config::{Endpoint, NodeConfig},
    ids::NodeId,
    io::Exit,
};
use rustix::{
    process::{Resource, Rlimit, getrlimit, setrlimit},
    rand::{GetRandomFlags, getrandom},
};
use slog::{Logger, error, info};
use tokio::{
    runtime,
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    task::JoinSet,
    time::{Instant, timeout},
};

use super::failure::Failure;
use crate::driver::{Core, Node, NodeEnd, NodeSetup, NodeState};

/// How long nodes get for a clean end.
const STOP_PATIENCE: Duration = Duration::from_secs(10);
/// A signal that follows another within this time is the same request.
const SAME_REQUEST: Duration = Duration::from_secs(1);
/// How long their threads get to end after that. One may hang in the disk.
const JOIN_PATIENCE: Duration = Duration::from_secs(5);

pub(crate) struct Running {
    nodes: Vec<(NodeId, Node)>,
    logger: Logger,
    /// Whether sentences say which node they are about.
    named: bool,
}

enum Event {
    Signal,
    Ended(NodeId, NodeEnd),
}

impl Running {
    pub(crate) fn new(logger: Logger) -> Self {
        allow_many_files(&logger);
        Self { nodes: Vec::new(), logger, named: false }
    }

    /// Starts a node.
    pub(crate) fn start<C: Core>(
        &mut self,
        config: NodeConfig,
        setup: NodeSetup,
        new_core: impl FnOnce(NodeConfig, Logger) -> C + Send + 'static,
    ) -> Result<(), Failure> {
        let node = config.node;
        let logger = setup.logger.clone();
        let started = Node::start(setup, move || new_core(config, logger)).map_err(Failure::System)?;
        self.nodes.push((node, started));
        self.named = self.nodes.len() > 1;
        Ok(())
    }

    /// Runs until a signal comes or a node ends, then ends all nodes. `when_serving` is called once all nodes serve,
    /// `when_slow` if that takes long.
    pub(crate) fn run(
        self,
        when_serving: impl FnOnce() -> Result<(), Failure>,
        when_slow: impl FnOnce(&[NodeId]),
    ) -> Result<(), Failure> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::System)?;
        let result = runtime.block_on(async {
            let mut signals = Signals::new().map_err(Failure::System)?;
            let watched = self.until_asked_to_stop(&mut signals, when_serving, when_slow).await;
            let stopped = self.stop(&mut signals).await;
            watched.and(stopped)
        });
        // The runtime only watched; nothing of it is waited for.
        runtime.shutdown_background();
        match &result {
            // Whoever asks twice wants no more waiting, and the end of the process ends the threads.
            Err(Failure::Hurried) => {}
            Ok(()) | Err(_) => self.join(),
        }
        result
    }

    async fn until_asked_to_stop(
        &self,
        signals: &mut Signals,
        when_serving: impl FnOnce() -> Result<(), Failure>,
        when_slow: impl FnOnce(&[NodeId]),
    ) -> Result<(), Failure> {
        const SLOW: Duration = Duration::from_secs(10);
        let mut ends = self.ends();
        let all_serve = async {
            for (_, node) in &self.nodes {
                // A node that ends instead is the other branch's.
                drop(node.state().wait_for(|state| state.serving).await);
            }
        };
        let mut all_serve = std::pin::pin!(all_serve);
        let mut when_slow = Some(when_slow);
        let event = loop {
            tokio::select! {
                biased;
                event = next_event(signals, &mut ends) => break Some(event),
                () = &mut all_serve => break None,
                () = tokio::time::sleep(SLOW), if when_slow.is_some() => {
                    let waited_for: Vec<NodeId> = self.nodes.iter()
                        .filter(|(_, node)| !node.state().borrow().serving)
                        .map(|(id, _)| *id)
                        .collect();
                    if let Some(when_slow) = when_slow.take() {
                        when_slow(&waited_for);
                    }
                }
            }
        };
        let event = match event {
            Some(event) => event,
            None => {
                when_serving()?;
                next_event(signals, &mut ends).await
            }
        };
        match event {
            Event::Signal => {
                info!(self.logger, "asked to stop");
                Ok(())
            }
            Event::Ended(node, end) => {
                error!(self.logger, "a node ended"; "node" => node.0, "reason" => %end);
                Err(self.failure(node, end))
            }
        }
    }

    /// Ends all nodes that did not end by themselves.
    async fn stop(&self, signals: &mut Signals) -> Result<(), Failure> {
        self.nodes.iter().for_each(|(_, node)| node.shut_down());
        let mut ends = self.ends();
        let all_ended = async {
            let mut result = Ok(());
            while let Some(ended) = ends.join_next().await {
                let (node, end) = ended.expect("watching a node does not panic");
                if end != NodeEnd::Exit(Exit::Stopped) {
                    result = result.and(Err(self.failure(node, end)));
                }
            }
            result
        };
        let given_up = tokio::select! {
            result = timeout(STOP_PATIENCE, all_ended) => match result {
                Ok(result) => return result,
                Err(_elapsed) => Failure::NotStopped { seconds: STOP_PATIENCE.as_secs() },
            },
            () = another_request(async || signals.next().await) => Failure::Hurried,
        };
        self.nodes.iter().for_each(|(_, node)| node.abandon());
        Err(given_up)
    }

    fn ends(&self) -> JoinSet<(NodeId, NodeEnd)> {
        let watch = |(id, node): &(NodeId, Node)| end_of(*id, node.state());
        self.nodes.iter().map(watch).collect()
    }

    fn failure(&self, node: NodeId, end: NodeEnd) -> Failure {
        Failure::NodeEnded { node: self.named.then_some(node.0), end }
    }

    /// Waits for what the nodes' threads still do, within reason.
    fn join(self) {
        let (done, is_done) = mpsc::channel();
        let join = move || {
            self.nodes.into_iter().for_each(|(_, node)| node.join());
            let _ = done.send(());
        };
        if Builder::new().name("join".to_owned()).spawn(join).is_ok() {
            let _ = is_done.recv_timeout(JOIN_PATIENCE);
        }
    }
}

async fn end_of(node: NodeId, mut state: watch::Receiver<NodeState>) -> (NodeId, NodeEnd) {
    let end = match state.wait_for(|state| state.end.is_some()).await {
        Ok(state) => state.end.clone(),
        Err(_) => None,
    };
    (node, end.unwrap_or(NodeEnd::Abandoned))
}

/// Waits for a signal that is not the same request as the one before the call.
async fn another_request(mut next: impl AsyncFnMut()) {
    let before = Instant::now();
    loop {
        next().await;
        if before.elapsed() >= SAME_REQUEST {
            return;
        }
    }
}

async fn next_event(signals: &mut Signals, ends: &mut JoinSet<(NodeId, NodeEnd)>) -> Event {
    tokio::select! {
        () = signals.next() => Event::Signal,
        Some(ended) = ends.join_next() => {
            let (node, end) = ended.expect("watching a node does not panic");
            Event::Ended(node, end)
        }
    }
}

/// Ctrl-C and SIGTERM.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Binds a listener, or says which flag to change.
pub(crate) fn listen(flag: &'static str, endpoint: &Endpoint) -> Result<TcpListener, Failure> {
    TcpListener::bind((endpoint.host.as_str(), endpoint.port)).map_err(|error| Failure::Listen {
        flag,
        endpoint: endpoint.clone(),
        error,
    })
}

/// A seed for a node's randomness, from the system.
pub(crate) fn seed() -> Result<u64, Failure> {
    let mut seed = [0; 8];
    let count = getrandom(&mut seed, GetRandomFlags::empty()).map_err(|error| Failure::System(error.into()))?;
    assert_eq!(count, seed.len(), "getrandom delivers up to 256 bytes at once");
    Ok(u64::from_ne_bytes(seed))
}

/// Connections and segments need more descriptors than the usual limit allows; the hard limit is ours to use.
fn allow_many_files(logger: &Logger) {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        info!(logger, "the limit of open files stays as it is"; "limit" => limit.current.unwrap_or(u64::MAX), "error" => %error);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{future::pending, task::Poll};

    #[tokio::test(start_paused = true)]
    async fn a_signal_right_behind_another_is_the_same_request_and_a_later_one_is_not() {
        let (sender, mut signals) = tokio::sync::mpsc::unbounded_channel();
        let next = async || match signals.recv().await {
            Some(()) => {}
            None => pending().await,
        };
        let mut another = std::pin::pin!(another_request(next));
        sender.send(()).unwrap();
        assert_eq!(look(another.as_mut()).await, Poll::Pending);
        tokio::time::advance(Duration::from_millis(5)).await;
        sender.send(()).unwrap();
        assert_eq!(look(another.as_mut()).await, Poll::Pending, "a process and its group were signalled");
        tokio::time::advance(SAME_REQUEST).await;
        assert_eq!(look(another.as_mut()).await, Poll::Pending, "time alone is no signal");
        sender.send(()).unwrap();
        assert_eq!(look(another.as_mut()).await, Poll::Ready(()));
    }

    /// One look at a future.
    async fn look<T>(mut future: std::pin::Pin<&mut impl Future<Output = T>>) -> Poll<T> {
        std::future::poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await
    }
}

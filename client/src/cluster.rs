//! Calls to a cluster: which broker a request goes to, over which connection, and what becomes of it.
//!
//! Owns the connections (one per broker, dialled when first needed and again with growing pauses), the metadata and
//! its refreshes, and the time a call may take. Invariant: every call is answered exactly once. A call that was sent
//! and not answered ends as [`CallError::Disconnected`] or [`CallError::TimedOut`]: whether the broker acted on it is
//! unknown. Does not repeat calls: whoever made one knows whether that is safe.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use kauri_protocol::{
    messages::{
        MetadataRequest, Request, Response,
        leader::{LeaderIdAndEpoch, NodeEndpoint},
        metadata::MetadataRequestTopic,
    },
    wire::Str,
};

use crate::{
    connection::{Connection, Received, SendError},
    io::{ConnectionId, Dial, Effects, Input, Monotonic, Now, Send},
    metadata::Metadata,
};

/// A call in progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub u64);

/// Who shall answer a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// Any broker that answers.
    Any,
    Node(i32),
}

/// Why a call has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The connection broke after the request was sent: it may or may not have been carried out.
    #[error("the connection to the broker was lost before it answered")]
    Disconnected,
    /// As `Disconnected` if it was sent; nobody knows.
    #[error("the broker did not answer in time")]
    TimedOut,
    /// Nothing was sent.
    #[error("no broker could be reached: {0}")]
    Unreachable(String),
    /// Nothing was sent.
    #[error(transparent)]
    Send(#[from] SendError),
}

#[derive(Clone, Debug)]
pub struct ClusterConfig {
    /// Where to start, host and port each.
    pub bootstrap: Vec<(String, u16)>,
    pub client_id: Str,
    /// How long a call may take, including finding a connection.
    pub request_timeout: Duration,
    /// How long one attempt to connect may take.
    pub connect_timeout: Duration,
    /// Pause after a failed attempt to connect; doubles up to `reconnect_pause_max`.
    pub reconnect_pause: Duration,
    pub reconnect_pause_max: Duration,
    /// Age at which metadata is refreshed although nothing seems wrong.
    pub metadata_age_max: Duration,
    /// Shortest time between two refreshes.
    pub metadata_pause: Duration,
    /// Whether asking for a topic may create it, if the broker allows that too.
    pub create_topics: bool,
}

impl ClusterConfig {
    pub fn new(bootstrap: Vec<(String, u16)>, client_id: &str) -> Self {
        Self {
            bootstrap,
            client_id: Str::from(client_id),
            request_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(5),
            reconnect_pause: Duration::from_millis(20),
            reconnect_pause_max: Duration::from_secs(1),
            metadata_age_max: Duration::from_secs(300),
            metadata_pause: Duration::from_millis(50),
            create_topics: false,
        }
    }
}

/// An endpoint that can be dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Bootstrap(usize),
    Node(i32),
}

#[derive(Debug)]
struct Link {
    place: Place,
    host: String,
    port: u16,
    connection: Connection,
    /// No new calls go here, because the broker is reached elsewhere now or is gone; closed with its last answer.
    retired: bool,
    /// When the attempt to connect, handshake included, is given up; `None` once requests can be sent.
    give_up: Option<Monotonic>,
}

#[derive(Debug, Default)]
struct Retry {
    pause: Duration,
    not_before: Monotonic,
}

#[derive(Debug)]
struct Call {
    deadline: Monotonic,
    state: CallState,
}

#[derive(Debug)]
enum CallState {
    Queued { route: Route, request: Request, expects_answer: bool },
    Sent(ConnectionId),
}

#[derive(Clone, Copy, Debug)]
enum Route {
    Any,
    To(Place),
}

/// See the module head.
#[derive(Debug)]
pub struct Cluster {
    config: ClusterConfig,
    metadata: Metadata,
    links: BTreeMap<ConnectionId, Link>,
    by_place: BTreeMap<Place, ConnectionId>,
    retries: BTreeMap<Place, Retry>,
    /// Brokers that someone is about to call, see [`Cluster::prepare`].
    wanted: BTreeSet<i32>,
    /// Whether there were such brokers at the last `poll`.
    reaches_out: bool,
    /// Advances with every refresh and every dial to just any broker, so that no broker is asked forever.
    rotation: usize,
    next_connection: u64,
    calls: BTreeMap<CallId, Call>,
    /// Calls that wait for a connection, in the order in which they were made.
    queued: VecDeque<CallId>,
    deadlines: BTreeSet<(Monotonic, CallId)>,
    next_call: u64,
    answers: VecDeque<(CallId, Result<Response, CallError>)>,
    topics: BTreeSet<Str>,
    refresh: Refresh,
    closes: Vec<ConnectionId>,
    greetings: Vec<(ConnectionId, Vec<bytes::Bytes>)>,
    last_failure: String,
    /// When `poll` was called last: what was due then is done or waits for something else.
    polled: Monotonic,
}

#[derive(Debug, Default)]
struct Refresh {
    wanted: bool,
    call: Option<CallId>,
    not_before: Monotonic,
    done_at: Option<Monotonic>,
    /// Counts answers, so that whoever waits for news can tell.
    generation: u64,
}

impl Cluster {
    pub fn new(config: ClusterConfig) -> Self {
        Self {
            config,
            metadata: Metadata::default(),
            links: BTreeMap::new(),
            by_place: BTreeMap::new(),
            retries: BTreeMap::new(),
            wanted: BTreeSet::new(),
            reaches_out: false,
            rotation: 0,
            next_connection: 1,
            calls: BTreeMap::new(),
            queued: VecDeque::new(),
            deadlines: BTreeSet::new(),
            next_call: 1,
            answers: VecDeque::new(),
            topics: BTreeSet::new(),
            refresh: Refresh { wanted: true, ..Refresh::default() },
            closes: Vec::new(),
            greetings: Vec::new(),
            last_failure: "nothing was tried yet".to_owned(),
            polled: Monotonic::default(),
        }
    }

    pub fn config(&self) -> &ClusterConfig {
        &self.config
    }

    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// How many answers to metadata requests there were.
    pub fn metadata_generation(&self) -> u64 {
        self.refresh.generation
    }

    /// Keeps metadata of the topic from now on.
    pub fn want_topic(&mut self, topic: &Str) {
        if !self.topics.contains(topic) {
            self.topics.insert(topic.clone());
            self.refresh.wanted = true;
        }
    }

    /// Metadata is believed to be outdated.
    pub fn refresh_metadata(&mut self) {
        self.refresh.wanted = true;
    }

    /// An error named the current leader (KIP-951) and where brokers are. Returns whether that was news.
    pub fn learn_leader(
        &mut self,
        topic: &str,
        partition: i32,
        leader: &LeaderIdAndEpoch,
        endpoints: &[NodeEndpoint],
    ) -> bool {
        self.metadata.learn_nodes(endpoints);
        self.metadata.learn_leader(topic, partition, leader.leader_id, leader.leader_epoch)
    }

    /// Whether a call to the broker would be sent by the next `poll`. If not, that one `poll` tries to connect.
    pub fn prepare(&mut self, node: i32) -> bool {
        let ready = self.by_place.get(&Place::Node(node)).is_some_and(|id| self.links[id].give_up.is_none());
        if !ready {
            self.wanted.insert(node);
        }
        ready
    }

    /// Where and why the last attempt to reach a broker failed, for people.
    pub fn last_failure(&self) -> &str {
        &self.last_failure
    }

    /// Makes a call with the configured timeout.
    pub fn call(&mut self, now: Now, target: Target, request: impl Into<Request>) -> CallId {
        self.call_within(now, target, request, self.config.request_timeout)
    }

    pub fn call_within(&mut self, now: Now, target: Target, request: impl Into<Request>, timeout: Duration) -> CallId {
        let route = match target {
            Target::Any => Route::Any,
            Target::Node(node) => Route::To(Place::Node(node)),
        };
        self.enqueue(now, route, request.into(), timeout)
    }

    fn enqueue(&mut self, now: Now, route: Route, request: Request, timeout: Duration) -> CallId {
        let expects_answer = !matches!(&request, Request::Produce(produce) if produce.acks == 0);
        let id = CallId(self.next_call);
        self.next_call += 1;
        let deadline = now.monotonic + timeout;
        self.calls.insert(id, Call { deadline, state: CallState::Queued { route, request, expects_answer } });
        self.deadlines.insert((deadline, id));
        self.queued.push_back(id);
        id
    }

    /// A call that ended, in the order in which they ended. Calls without an answer end when they were sent, without
    /// appearing here.
    pub fn next_answer(&mut self) -> Option<(CallId, Result<Response, CallError>)> {
        self.answers.pop_front()
    }

    pub fn handle(&mut self, now: Now, input: Input) {
        match input {
            Input::Connected(id) => {
                if let Some(link) = self.links.get_mut(&id) {
                    let hello = link.connection.hello();
                    self.greetings.push((id, hello));
                }
            }
            Input::Frame(id, frame) => self.receive(now, id, frame),
            Input::Closed(id) => self.lose(now, id, "the connection was closed or refused"),
            Input::Unreachable(id, reason) => self.lose(now, id, &reason),
        }
    }

    /// To be called after every other call that changes something, and at [`Cluster::next_deadline`].
    pub fn poll(&mut self, now: Now, effects: &mut Effects) {
        self.polled = now.monotonic;
        self.expire(now);
        self.refresh_if_due(now);
        for (connection, slices) in self.greetings.drain(..) {
            effects.sends.push(Send { connection, slices });
        }
        self.send_queued(now, effects);
        let wanted = std::mem::take(&mut self.wanted);
        self.reaches_out = !wanted.is_empty();
        for node in wanted {
            if self.metadata.nodes.contains_key(&node) {
                self.reach(now, Place::Node(node), effects);
            } else {
                self.refresh.wanted = true;
            }
        }
        effects.closes.append(&mut self.closes);
    }

    pub fn next_deadline(&self) -> Option<Monotonic> {
        let calls = self.deadlines.first().map(|&(at, _)| at);
        let connects = self.links.values().filter_map(|link| link.give_up).min();
        let waiting = !self.queued.is_empty() || self.reaches_out || self.refresh.wanted;
        // A pause that is over was made use of, or nobody needs that place.
        let retries =
            self.retries.values().map(|retry| retry.not_before).filter(|at| waiting && *at > self.polled).min();
        let refresh = match (self.refresh.call, self.refresh.wanted) {
            (Some(_), _) => None,
            // Once that has passed, only a pause between two attempts to connect is in the way.
            (None, true) => Some(self.refresh.not_before).filter(|at| *at > self.polled),
            (None, false) => self.refresh.done_at.map(|at| at + self.config.metadata_age_max),
        };
        [calls, connects, retries, refresh].into_iter().flatten().min()
    }

    fn receive(&mut self, now: Now, id: ConnectionId, frame: bytes::Bytes) {
        let Some(link) = self.links.get_mut(&id) else { return };
        match link.connection.receive(frame) {
            Ok(Received::Ready) => {
                link.give_up = None;
                self.retries.remove(&link.place);
            }
            Ok(Received::Again(hello)) => self.greetings.push((id, hello)),
            Ok(Received::Answer(call, response)) => {
                if link.retired && link.connection.in_flight() == 0 {
                    self.links.remove(&id);
                    self.closes.push(id);
                }
                self.answer(now, call, Ok(response));
            }
            Err(error) => {
                let reason = error.to_string();
                self.closes.push(id);
                self.lose(now, id, &reason);
            }
        }
    }

    fn answer(&mut self, now: Now, id: CallId, outcome: Result<Response, CallError>) {
        // A call that timed out is not there any more; its late answer is of no use.
        let Some(call) = self.calls.remove(&id) else { return };
        self.deadlines.remove(&(call.deadline, id));
        if self.refresh.call == Some(id) {
            self.refresh.call = None;
            self.refresh.not_before = now.monotonic + self.config.metadata_pause;
            match outcome {
                Ok(Response::Metadata(response)) => {
                    self.metadata.update(response);
                    self.refresh.generation += 1;
                    self.refresh.done_at = Some(now.monotonic);
                    self.forget_moved_nodes();
                }
                Ok(_) => unreachable!("a response is decoded as its request's API"),
                Err(_) => self.refresh.wanted = true,
            }
            return;
        }
        self.answers.push_back((id, outcome));
    }

    /// A broker whose address changed is dialled anew. What was sent to the old address is still waited for.
    fn forget_moved_nodes(&mut self) {
        let nodes = &self.metadata.nodes;
        let has_moved = |place: &Place, link: &Link| match place {
            Place::Bootstrap(_) => false,
            Place::Node(id) => nodes.get(id).is_none_or(|node| node.host != link.host || node.port != link.port),
        };
        let moved: Vec<(Place, ConnectionId)> = self
            .by_place
            .iter()
            .filter(|(place, id)| has_moved(place, &self.links[id]))
            .map(|(p, id)| (*p, *id))
            .collect();
        for (place, id) in moved {
            self.by_place.remove(&place);
            self.retries.remove(&place);
            let link = self.links.get_mut(&id).expect("places belong to links");
            link.retired = true;
            if link.connection.in_flight() == 0 {
                self.links.remove(&id);
                self.closes.push(id);
            }
        }
        self.retries.retain(|place, _| match place {
            Place::Bootstrap(_) => true,
            Place::Node(id) => nodes.contains_key(id),
        });
    }

    fn lose(&mut self, now: Now, id: ConnectionId, reason: &str) {
        let Some(mut link) = self.links.remove(&id) else { return };
        if self.by_place.get(&link.place) == Some(&id) {
            self.by_place.remove(&link.place);
        }
        // An IPv6 address has colons of its own.
        let brackets = if link.host.contains(':') { ("[", "]") } else { ("", "") };
        self.last_failure = format!("{}{}{}:{}: {reason}", brackets.0, link.host, brackets.1, link.port);
        let established = link.give_up.is_none();
        let retry = self.retries.entry(link.place).or_default();
        retry.pause = if established || retry.pause.is_zero() {
            self.config.reconnect_pause
        } else {
            (retry.pause * 2).min(self.config.reconnect_pause_max)
        };
        retry.not_before = now.monotonic + retry.pause;
        let calls: Vec<CallId> = link.connection.abandon().collect();
        for call in calls {
            self.answer(now, call, Err(CallError::Disconnected));
        }
        if let Some(call) = self.refresh.call
            && let CallState::Queued { route: Route::To(place), .. } = self.calls[&call].state
            && place == link.place
        {
            // Another broker is asked instead of waiting for this one.
            self.queued.retain(|queued| *queued != call);
            self.answer(now, call, Err(CallError::Unreachable(self.last_failure.clone())));
        }
        // A broker that is gone probably leads nothing any more.
        self.refresh.wanted = true;
    }

    fn expire(&mut self, now: Now) {
        while let Some(&(at, id)) = self.deadlines.first()
            && at <= now.monotonic
        {
            match self.calls[&id].state {
                CallState::Queued { .. } => {
                    self.queued.retain(|queued| *queued != id);
                    self.answer(now, id, Err(CallError::Unreachable(self.last_failure.clone())));
                }
                CallState::Sent(connection) => {
                    // A refresh has little time, and whatever is ahead of it on the connection may have more.
                    let link = &self.links[&connection];
                    let stuck = self.refresh.call != Some(id) || link.connection.oldest() == Some(id);
                    self.answer(now, id, Err(CallError::TimedOut));
                    if stuck {
                        self.closes.push(connection);
                        self.lose(now, connection, "the broker did not answer a request in time");
                    }
                }
            }
        }
        let late: Vec<ConnectionId> = self
            .links
            .iter()
            .filter(|(_, link)| link.give_up.is_some_and(|at| at <= now.monotonic))
            .map(|(id, _)| *id)
            .collect();
        for id in late {
            self.closes.push(id);
            self.lose(now, id, "the broker did not answer the connection attempt in time");
        }
    }

    fn refresh_if_due(&mut self, now: Now) {
        let old = self.refresh.done_at.is_some_and(|at| now.monotonic.since(at) >= self.config.metadata_age_max);
        if self.refresh.call.is_some() || !(self.refresh.wanted || old) || now.monotonic < self.refresh.not_before {
            return;
        }
        let Some(place) = self.next_place(now) else { return };
        let topics = self
            .topics
            .iter()
            .map(|name| MetadataRequestTopic { name: Some(name.clone()), ..Default::default() })
            .collect();
        let request = MetadataRequest {
            topics: Some(topics),
            allow_auto_topic_creation: self.config.create_topics,
            ..Default::default()
        };
        self.refresh.wanted = false;
        // A broker that accepts and then keeps silent must not hold up the search for another.
        let timeout = self.config.request_timeout.min(self.config.connect_timeout);
        self.refresh.call = Some(self.enqueue(now, Route::To(place), request.into(), timeout));
    }

    fn send_queued(&mut self, now: Now, effects: &mut Effects) {
        for _ in 0..self.queued.len() {
            let id = self.queued.pop_front().expect("the queue has at least this many");
            let call = self.calls.get_mut(&id).expect("a queued call is not answered");
            let CallState::Queued { route, .. } = call.state else { unreachable!("a sent call is not queued") };
            let Some(connection) = self.connection_for(now, route, effects) else {
                self.queued.push_back(id);
                continue;
            };
            let call = self.calls.get_mut(&id).expect("a queued call is not answered");
            let CallState::Queued { request, expects_answer, .. } =
                std::mem::replace(&mut call.state, CallState::Sent(connection))
            else {
                unreachable!("a sent call is not queued")
            };
            let link = self.links.get_mut(&connection).expect("it was just found");
            match link.connection.send(id, &request, expects_answer) {
                Ok(slices) => {
                    effects.sends.push(Send { connection, slices });
                    if !expects_answer {
                        let call = self.calls.remove(&id).expect("it was just sent");
                        self.deadlines.remove(&(call.deadline, id));
                    }
                }
                Err(error) => self.answer(now, id, Err(error.into())),
            }
        }
    }

    /// An established connection to the target; dials if there is none and it may be tried.
    fn connection_for(&mut self, now: Now, route: Route, effects: &mut Effects) -> Option<ConnectionId> {
        match route {
            Route::To(Place::Node(id)) if !self.metadata.nodes.contains_key(&id) => {
                self.refresh.wanted = true;
                None
            }
            Route::To(place) => self.reach(now, place, effects),
            Route::Any => {
                let ready = self.links.iter().filter(|(_, link)| link.give_up.is_none() && !link.retired);
                // The least busy one; among equals the oldest.
                if let Some((&id, _)) = ready.min_by_key(|(_, link)| link.connection.in_flight()) {
                    return Some(id);
                }
                // One attempt at a time.
                if self.links.values().any(|link| !link.retired) {
                    return None;
                }
                let place = self.next_place(now)?;
                self.reach(now, place, effects)
            }
        }
    }

    /// The next broker in turn that may be tried; those given at the start only if there is no other.
    fn next_place(&mut self, now: Now) -> Option<Place> {
        let may_be_tried = |place: &Place| {
            self.by_place.contains_key(place)
                || self.retries.get(place).is_none_or(|retry| retry.not_before <= now.monotonic)
        };
        let known: Vec<Place> = self.metadata.nodes.keys().map(|id| Place::Node(*id)).filter(may_be_tried).collect();
        let bootstrap = (0..self.config.bootstrap.len()).map(Place::Bootstrap);
        let places = if known.is_empty() { bootstrap.filter(may_be_tried).collect() } else { known };
        let place = *places.get(self.rotation % places.len().max(1))?;
        self.rotation = self.rotation.wrapping_add(1);
        Some(place)
    }

    fn reach(&mut self, now: Now, place: Place, effects: &mut Effects) -> Option<ConnectionId> {
        if let Some(&id) = self.by_place.get(&place) {
            return self.links[&id].give_up.is_none().then_some(id);
        }
        if self.retries.get(&place).is_some_and(|retry| retry.not_before > now.monotonic) {
            return None;
        }
        let (host, port) = match place {
            Place::Bootstrap(at) => self.config.bootstrap[at].clone(),
            Place::Node(id) => {
                let node = &self.metadata.nodes[&id];
                (node.host.clone(), node.port)
            }
        };
        let connection = ConnectionId(self.next_connection);
        self.next_connection += 1;
        self.links.insert(
            connection,
            Link {
                place,
                host: host.clone(),
                port,
                retired: false,
                connection: Connection::new(self.config.client_id.clone()),
                give_up: Some(now.monotonic + self.config.connect_timeout),
            },
        );
        self.by_place.insert(place, connection);
        effects.dials.push(Dial { connection, host, port });
        None
    }
}

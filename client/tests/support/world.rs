//! Time and network between one client and its brokers.
//!
//! Each direction of a connection delivers in order, after a delay. A broken connection loses what is under way, so
//! that a request may have been carried out or not.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use bytes::Bytes;
use kauri_client::io::{ConnectionId, Effects, Input, Monotonic, Now};
use kauri_protocol::{
    frame::{FrameLimits, FrameSplitter},
    header::{RequestHeader, ResponseHeader},
    messages::{Request, Response},
    wire::{Reader, Writer},
};

use super::{Machine, broker::Brokers};

pub fn address(node: i32) -> (String, u16) {
    (format!("broker-{node}"), 9000 + u16::try_from(node).unwrap())
}

#[derive(Debug)]
enum Event {
    Connected(ConnectionId),
    Refused(ConnectionId),
    Request(ConnectionId, Bytes),
    /// A fetch that waits for records, until its time is over.
    Patience(ConnectionId, Bytes, Monotonic),
    Response(ConnectionId, Bytes),
    Closed(ConnectionId),
}

#[derive(Debug)]
struct Connection {
    node: i32,
    /// When the last bytes of each direction arrive.
    to_broker: Monotonic,
    to_client: Monotonic,
    splitter: FrameSplitter,
    /// A request is being answered; those behind it wait, as brokers answer in order.
    busy: bool,
    waiting: VecDeque<Bytes>,
    /// Gone for the client; what it sent before may still reach the broker.
    dead: bool,
}

#[derive(Debug, Default, Clone, Copy)]
pub struct NodeState {
    pub down: bool,
    /// Takes everything and answers nothing.
    pub mute: bool,
}

#[derive(Debug)]
pub struct World {
    pub brokers: Brokers,
    pub now: Now,
    pub nodes: BTreeMap<i32, NodeState>,
    connections: BTreeMap<ConnectionId, Connection>,
    events: BTreeMap<(Monotonic, u64), Event>,
    next_event: u64,
    effects: Effects,
    random: u64,
    pub delay_max: Duration,
    /// How often each broker was dialled.
    pub dials: BTreeMap<i32, usize>,
    pub requests: Vec<(i32, Request)>,
    pub keep_requests: bool,
    /// Some bytes of every answer are wrong.
    pub corrupt: bool,
}

impl World {
    pub fn new(nodes: &[i32]) -> Self {
        Self {
            brokers: Brokers::new(nodes),
            now: Now { monotonic: Monotonic(1), wall_ms: 1_000_000 },
            nodes: nodes.iter().map(|node| (*node, NodeState::default())).collect(),
            connections: BTreeMap::new(),
            events: BTreeMap::new(),
            next_event: 0,
            effects: Effects::default(),
            random: 1,
            delay_max: Duration::from_millis(2),
            dials: BTreeMap::new(),
            requests: Vec::new(),
            keep_requests: false,
            corrupt: false,
        }
    }

    pub fn seed(&mut self, seed: u64) {
        self.random = seed | 1;
    }

    /// Breaks all connections of the node and refuses new ones until `up`.
    pub fn down(&mut self, node: i32) {
        self.nodes.get_mut(&node).unwrap().down = true;
        self.cut(node);
        self.connections.retain(|_, connection| connection.node != node);
    }

    pub fn up(&mut self, node: i32) {
        *self.nodes.get_mut(&node).unwrap() = NodeState::default();
    }

    pub fn mute(&mut self, node: i32) {
        self.nodes.get_mut(&node).unwrap().mute = true;
    }

    /// Breaks all connections of the node. Answers under way are lost; requests may still arrive.
    pub fn cut(&mut self, node: i32) {
        let cut: Vec<ConnectionId> =
            self.connections.iter().filter(|(_, it)| it.node == node && !it.dead).map(|(id, _)| *id).collect();
        for id in cut {
            self.bury(id);
            let at = self.now.monotonic + self.delay();
            self.push(at, Event::Closed(id));
        }
    }

    pub fn connection_count(&self) -> usize {
        self.connections.values().filter(|connection| !connection.dead).count()
    }

    fn bury(&mut self, id: ConnectionId) {
        if self.delay().as_nanos().is_multiple_of(2) {
            self.connections.remove(&id);
        } else if let Some(connection) = self.connections.get_mut(&id) {
            connection.dead = true;
        }
    }

    /// Lets the machine act on what it was told.
    pub fn settle(&mut self, machine: &mut impl Machine) {
        let mut effects = std::mem::take(&mut self.effects);
        machine.poll(self.now, &mut effects);
        for dial in effects.dials.drain(..) {
            let at = self.now.monotonic + self.delay();
            let place = (dial.host, dial.port);
            let Some(&node) = self.nodes.keys().find(|node| address(**node) == place) else {
                self.push(at, Event::Refused(dial.connection));
                continue;
            };
            *self.dials.entry(node).or_default() += 1;
            if self.nodes[&node].down {
                self.push(at, Event::Refused(dial.connection));
                continue;
            }
            let splitter = FrameSplitter::new(FrameLimits::Fixed { bytes_max: 100 << 20 });
            let connection = Connection {
                node,
                to_broker: at,
                to_client: at,
                splitter,
                busy: false,
                waiting: VecDeque::new(),
                dead: false,
            };
            self.connections.insert(dial.connection, connection);
            self.push(at, Event::Connected(dial.connection));
        }
        for send in effects.sends.drain(..) {
            let at = self.now.monotonic + self.delay();
            let connection = self.connections.get_mut(&send.connection).filter(|connection| !connection.dead);
            let Some(connection) = connection else { continue };
            let at = at.max(connection.to_broker);
            connection.to_broker = at;
            let mut frames = Vec::new();
            for slice in send.slices {
                connection.splitter.push(&slice, &mut frames).unwrap();
            }
            for frame in frames {
                self.push(at, Event::Request(send.connection, frame));
            }
        }
        for id in effects.closes.drain(..) {
            self.bury(id);
        }
        self.effects = effects;
    }

    /// Goes on to the next event or deadline, at most until `limit`. Returns whether there was one before that.
    pub fn step(&mut self, machine: &mut impl Machine, limit: Monotonic) -> bool {
        let event = self.events.first_key_value().map(|(&(at, _), _)| at);
        let deadline = machine.next_deadline().map(|at| at.max(Monotonic(self.now.monotonic.0 + 1)));
        let Some(at) = [event, deadline].into_iter().flatten().min().filter(|at| *at <= limit) else {
            self.go_to(limit);
            return false;
        };
        self.go_to(at);
        while let Some(entry) = self.events.first_entry()
            && entry.key().0 <= at
        {
            let event = entry.remove();
            self.happen(machine, event);
        }
        self.settle(machine);
        true
    }

    /// Runs for a time.
    pub fn run(&mut self, machine: &mut impl Machine, duration: Duration) {
        let limit = self.now.monotonic + duration;
        self.settle(machine);
        while self.step(machine, limit) {}
    }

    /// Runs until `done`, which must happen within `duration`.
    pub fn run_until<M: Machine>(
        &mut self,
        machine: &mut M,
        duration: Duration,
        mut done: impl FnMut(&mut M, &mut Self) -> bool,
    ) {
        let limit = self.now.monotonic + duration;
        self.settle(machine);
        let mut steps = 0u64;
        while !done(machine, self) {
            self.settle(machine);
            let more = self.step(machine, limit);
            assert!(more, "not done after {duration:?}");
            steps += 1;
            assert!(steps < 1_000_000, "the machine spins");
        }
    }

    fn go_to(&mut self, at: Monotonic) {
        assert!(at >= self.now.monotonic);
        let passed = at.0 / 1_000_000 - self.now.monotonic.0 / 1_000_000;
        self.now = Now { monotonic: at, wall_ms: self.now.wall_ms + i64::try_from(passed).unwrap() };
    }

    fn happen(&mut self, machine: &mut impl Machine, event: Event) {
        match event {
            Event::Connected(id) => {
                if self.is_alive(id) {
                    machine.handle(self.now, Input::Connected(id));
                }
            }
            Event::Refused(id) | Event::Closed(id) => machine.handle(self.now, Input::Closed(id)),
            Event::Response(id, frame) => {
                if self.is_alive(id) {
                    machine.handle(self.now, Input::Frame(id, frame));
                }
            }
            Event::Request(id, frame) => {
                let Some(connection) = self.connections.get_mut(&id) else { return };
                if connection.busy {
                    connection.waiting.push_back(frame);
                    return;
                }
                let until = self.now.monotonic + Duration::from_millis(500);
                self.answer(id, frame, until, true);
            }
            Event::Patience(id, frame, until) => self.answer(id, frame, until, false),
        }
    }

    fn is_alive(&self, id: ConnectionId) -> bool {
        self.connections.get(&id).is_some_and(|connection| !connection.dead)
    }

    fn answer(&mut self, id: ConnectionId, frame: Bytes, until: Monotonic, first: bool) {
        let Some(node) = self.connections.get(&id).map(|connection| connection.node) else { return };
        let mut reader = Reader::new(frame.clone());
        let header = RequestHeader::decode(&mut reader).unwrap();
        let request = Request::decode(header.api_key, &mut reader, header.api_version).unwrap();
        let patient = matches!(request, Request::Fetch(_)) && self.now.monotonic < until;
        if first && self.keep_requests {
            self.requests.push((node, request.clone()));
        }
        if self.nodes[&node].mute {
            return;
        }
        let silent = matches!(&request, Request::Produce(produce) if produce.acks == 0);
        let answer = self.brokers.answer(node, request, patient);
        let connection = self.connections.get_mut(&id).unwrap();
        connection.busy = answer.is_none() && !silent;
        if !connection.busy {
            let next = connection.waiting.pop_front();
            // Those that wait came before any request that is still under way.
            next.into_iter().for_each(|frame| self.push(self.now.monotonic, Event::Request(id, frame)));
        }
        match answer {
            Some(response) => {
                let at = self.now.monotonic + self.delay();
                let connection = self.connections.get_mut(&id).unwrap();
                let at = at.max(connection.to_client);
                connection.to_client = at;
                let mut frame = encode(&header, &response).to_vec();
                if self.corrupt {
                    for _ in 0..3 {
                        // The correlation id stays, so that there is something to decode.
                        let at = 4 + self.delay().subsec_nanos() as usize % (frame.len() - 4);
                        frame[at] ^= 1 << (self.delay().subsec_nanos() % 8);
                    }
                }
                self.push(at, Event::Response(id, Bytes::from(frame)));
            }
            None if silent => {}
            None => {
                let at = (self.now.monotonic + Duration::from_millis(20)).min(until);
                self.push(at, Event::Patience(id, frame, until));
            }
        }
    }

    fn push(&mut self, at: Monotonic, event: Event) {
        self.next_event += 1;
        self.events.insert((at, self.next_event), event);
    }

    fn delay(&mut self) -> Duration {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let nanos = u64::try_from(self.delay_max.as_nanos()).unwrap();
        Duration::from_nanos((self.random >> 33) % nanos.max(1))
    }
}

/// A response's frame without its length.
pub fn encode(header: &RequestHeader, response: &Response) -> Bytes {
    let mut writer = Writer::new();
    ResponseHeader { correlation_id: header.correlation_id }.encode(&mut writer, header.api_key, header.api_version);
    response.encode(&mut writer, header.api_version).unwrap();
    writer.into_bytes()
}

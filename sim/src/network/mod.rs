//! The network between all sites: nodes and the machines of clients.
//!
//! What crosses it are connections as TCP would keep them: ordered streams of encoded bytes. A lost segment therefore
//! shows as a wait and never as a gap; what a fault can do to a stream is to hold it, to end it (also in the middle of
//! a frame), and to deliver the rest of an old connection after a new one was opened. Frames are cut out of the
//! streams by the same splitter that the real drivers use. Invariant: every byte handed over was sent, in order, on
//! that connection, while the path was open. Does not own who listens and what a frame means: the world does.

mod connection;
mod delay;
mod path;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use bytes::Bytes;
use kauri_core::limits;
use kauri_protocol::frame::{FrameLimits, FrameSplitter};

use self::{
    connection::{Connection, Content, End, Segment, Stream},
    path::Path,
};
pub use self::{
    delay::{Delay, DelayError},
    path::PathQuality,
};
use crate::{
    bites::{Bite, Bites},
    dice::{Chance, Dice},
    schedule::Schedule,
    time::Span,
};

/// A machine on the network: nodes first, then the machines of clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Site(pub usize);

/// One end of one connection. The end that dialled has `end` 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Socket {
    connection: u32,
    end: u8,
}

/// The port of a node that is dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    Clients,
    Peers,
}

/// What the network wants to be woken for.
#[derive(Clone, Copy, Debug)]
pub enum Wake {
    /// Bytes of the stream from this end may have arrived at the other.
    Arrive(Socket),
    /// The dial of this end reaches the other machine.
    Dial { socket: Socket, port: Port, attempt: u8 },
    /// The dial of this end failed if it was not answered.
    DialTimeout(Socket),
    /// This end gives up if its bytes are still not acknowledged.
    GiveUp(Socket),
}

/// What happened to a socket, for the process that owns it.
#[derive(Debug)]
pub enum Arrival {
    Connected {
        site: Site,
        socket: Socket,
    },
    Accepted {
        site: Site,
        socket: Socket,
        port: Port,
    },
    Frame {
        site: Site,
        socket: Socket,
        frame: Bytes,
    },
    /// The socket took bytes of what was sent.
    Written {
        site: Site,
        socket: Socket,
        bytes: usize,
    },
    /// The connection is gone, or the dial failed.
    Down {
        site: Site,
        socket: Socket,
    },
}

/// Whether a machine answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Machine {
    /// A process listens.
    Listening,
    /// The machine runs, its process does not: dials are refused.
    Refusing,
    /// Nobody answers.
    Off,
}

/// Buffers and patience of all connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketLimits {
    /// Bytes that both ends of one direction of a connection hold together.
    pub buffer_bytes: usize,
    /// An end gives up when its bytes were not acknowledged for a time between these.
    pub give_up: (Span, Span),
    /// A dial without an answer fails after this.
    pub dial_timeout: Span,
}

#[derive(Debug)]
pub struct Network {
    sites: usize,
    paths: Vec<Path>,
    machines: Vec<Machine>,
    connections: Vec<Option<Box<Connection>>>,
    live: BTreeSet<u32>,
    limits: SocketLimits,
    /// One stream for each site: how its connections end, and how patient it is.
    endings: Vec<Dice>,
    arrivals: Vec<Arrival>,
}

/// Bytes that arrive together at most.
const SEGMENT_BYTES_MAX: usize = 64 << 10;
/// A dial that met a cut is repeated after these times.
const DIAL_RETRIES: [Span; 3] = [Span::seconds(1), Span::seconds(3), Span::seconds(7)];
/// After a cut is mended, retransmissions arrive within this.
const RETRANSMISSION_MAX: Span = Span::milliseconds(1500);
/// The largest response a client reads.
const RESPONSE_BYTES_MAX: usize = limits::PRODUCE_FRAME_BYTES_MAX;

impl Socket {
    fn other(self) -> Self {
        Self { connection: self.connection, end: 1 - self.end }
    }

    fn index(self) -> usize {
        usize::from(self.end)
    }

    /// A number that names this socket in the digest and in traces.
    pub fn number(self) -> u64 {
        u64::from(self.connection) << 1 | u64::from(self.end)
    }
}

impl Network {
    pub fn new(seed: u64, sites: usize, limits: SocketLimits, quality: impl Fn(Site, Site) -> PathQuality) -> Self {
        let pairs = (0..sites).flat_map(|from| (0..sites).map(move |to| (from, to)));
        Self {
            sites,
            paths: pairs.map(|(from, to)| Path::new(seed, from, to, quality(Site(from), Site(to)))).collect(),
            machines: vec![Machine::Refusing; sites],
            connections: Vec::new(),
            live: BTreeSet::new(),
            limits,
            endings: (0..sites).map(|site| Dice::new(seed, "network endings", site, 0)).collect(),
            arrivals: Vec::new(),
        }
    }

    /// Opens a connection; [`Arrival::Connected`] or [`Arrival::Down`] answers.
    pub fn dial<E: From<Wake>>(&mut self, from: Site, to: Site, port: Port, schedule: &mut Schedule<E>) -> Socket {
        let request_limits = match port {
            Port::Clients => FrameLimits::ByApi {
                produce_bytes_max: limits::PRODUCE_FRAME_BYTES_MAX,
                other_bytes_max: limits::SMALL_FRAME_BYTES_MAX,
            },
            Port::Peers => FrameLimits::Fixed { bytes_max: limits::PEER_FRAME_BYTES_MAX },
        };
        let response_limits = match port {
            Port::Clients => FrameLimits::Fixed { bytes_max: RESPONSE_BYTES_MAX },
            Port::Peers => FrameLimits::Fixed { bytes_max: limits::PEER_FRAME_BYTES_MAX },
        };
        let credit = match port {
            Port::Clients => Some(i64::try_from(limits::CLIENT_WINDOW_BYTES).expect("a small constant")),
            Port::Peers => None,
        };
        let number = u32::try_from(self.connections.len()).expect("a run opens fewer connections");
        let socket = Socket { connection: number, end: 0 };
        self.connections.push(Some(Box::new(Connection {
            sites: [from, to],
            ends: [End::Connecting; 2],
            streams: [
                Stream::new(FrameSplitter::new(request_limits), credit),
                Stream::new(FrameSplitter::new(response_limits), None),
            ],
        })));
        self.live.insert(number);
        let delay = self.path(from, to).delay();
        schedule.after(delay, Wake::Dial { socket, port, attempt: 0 }.into());
        schedule.after(self.limits.dial_timeout, Wake::DialTimeout(socket).into());
        socket
    }

    /// Puts bytes on a connection. Nothing happens if it is gone.
    pub fn send<E: From<Wake>>(
        &mut self,
        socket: Socket,
        slices: impl IntoIterator<Item = Bytes>,
        schedule: &mut Schedule<E>,
        bites: &mut Bites,
    ) {
        let Some(connection) = self.connection(socket) else { return };
        if connection.ends[socket.index()] != End::Open {
            return;
        }
        connection.streams[socket.index()].unsent.extend(slices.into_iter().filter(|slice| !slice.is_empty()));
        self.pump(socket, schedule, bites);
    }

    /// The owner of a socket closes it. Nothing arrives at it any more, and nothing is reported.
    pub fn close<E: From<Wake>>(&mut self, socket: Socket, schedule: &mut Schedule<E>, bites: &mut Bites) {
        let Some(connection) = self.connection(socket) else { return };
        let site = connection.sites[socket.index()];
        // What was sent still arrives, or a part of it, or nothing: all happen to real connections.
        let ending = self.endings[site.0].below(4);
        self.end(socket, ending, schedule, bites);
    }

    /// Like [`Network::close`], but everything sent so far arrives first if the path allows it.
    pub fn finish<E: From<Wake>>(&mut self, socket: Socket, schedule: &mut Schedule<E>, bites: &mut Bites) {
        let Some(connection) = self.connection(socket) else { return };
        let unsent = std::mem::take(&mut connection.streams[socket.index()].unsent);
        self.push_segments(socket, unsent, schedule, bites);
        self.end(socket, 0, schedule, bites);
    }

    fn end<E: From<Wake>>(&mut self, socket: Socket, ending: u64, schedule: &mut Schedule<E>, bites: &mut Bites) {
        let Some(connection) = self.connections[socket.connection as usize].as_deref_mut() else { return };
        let index = socket.index();
        if matches!(connection.ends[index], End::Closed | End::Silent) {
            return;
        }
        connection.ends[index] = End::Closed;
        let site = connection.sites[index];
        let stream = &mut connection.streams[index];
        let in_flight = stream.bytes_in_flight();
        if in_flight > 0 && ending <= 1 {
            bites.add(Bite::LateBytes);
        }
        match ending {
            0 => stream.unsent.clear(),
            1 => {
                let kept = self.endings[site.0].index(in_flight + 1);
                stream.cut_after(kept);
            }
            _ => stream.cut_after(0),
        }
        self.push_end(socket, schedule);
        self.forget_if_over(socket);
    }

    /// Bytes of frames that the receiver behind this socket is ready to take in addition.
    pub fn credit<E: From<Wake>>(&mut self, socket: Socket, bytes: usize, schedule: &mut Schedule<E>) {
        let sender = socket.other();
        let Some(connection) = self.connection(sender) else { return };
        if let Some(credit) = &mut connection.streams[sender.index()].credit {
            let stopped = *credit <= 0;
            *credit = credit.saturating_add(i64::try_from(bytes).unwrap_or(i64::MAX));
            if stopped && *credit > 0 {
                schedule.after(Span::ZERO, Wake::Arrive(sender).into());
            }
        }
    }

    /// A process begins to listen.
    pub fn listen<E: From<Wake>>(&mut self, site: Site, schedule: &mut Schedule<E>) {
        if self.machines[site.0] == Machine::Off {
            self.power_on(site, schedule);
        }
        self.machines[site.0] = Machine::Listening;
    }

    /// A process ends; its machine closes its connections.
    pub fn kill_process<E: From<Wake>>(&mut self, site: Site, schedule: &mut Schedule<E>, bites: &mut Bites) {
        self.machines[site.0] = Machine::Refusing;
        for socket in self.sockets_of(site) {
            let ending = self.endings[site.0].below(3);
            self.end(socket, ending, schedule, bites);
        }
    }

    /// A machine goes silent.
    pub fn power_off(&mut self, site: Site) {
        self.machines[site.0] = Machine::Off;
        for socket in self.sockets_of(site) {
            let Some(connection) = self.connections[socket.connection as usize].as_deref_mut() else { continue };
            let index = socket.index();
            if connection.ends[index] == End::Closed {
                continue;
            }
            connection.ends[index] = End::Silent;
            // What had left the machine still arrives, cut anywhere.
            let stream = &mut connection.streams[index];
            let kept = self.endings[site.0].index(stream.bytes_in_flight() + 1);
            stream.cut_after(kept);
            self.forget_if_over(socket);
        }
    }

    /// A machine answers again: with resets to whatever it does not know.
    fn power_on<E: From<Wake>>(&mut self, site: Site, schedule: &mut Schedule<E>) {
        self.machines[site.0] = Machine::Refusing;
        for socket in self.sockets_of(site) {
            let Some(connection) = self.connections[socket.connection as usize].as_deref_mut() else { continue };
            if connection.ends[socket.index()] == End::Silent {
                connection.ends[socket.index()] = End::Closed;
                let sender = socket.other();
                if connection.streams[sender.index()].is_waiting() {
                    let wait = self.endings[site.0].span(Span::ZERO, RETRANSMISSION_MAX);
                    schedule.after(wait, Wake::Arrive(sender).into());
                }
            }
        }
    }

    /// Resets every connection between two sites, in the middle of what is in flight.
    pub fn reset<E: From<Wake>>(&mut self, a: Site, b: Site, schedule: &mut Schedule<E>, bites: &mut Bites) {
        for socket in self.sockets_of(a) {
            let Some(connection) = self.connections[socket.connection as usize].as_deref_mut() else { continue };
            if connection.sites[1 - socket.index()] != b || connection.ends != [End::Open; 2] {
                continue;
            }
            let now = schedule.now();
            bites.add(Bite::Reset);
            for index in 0..2 {
                let stream = &mut connection.streams[index];
                let kept = self.endings[a.0].index(stream.bytes_in_flight() + 1);
                stream.cut_after(kept);
                for segment in &mut stream.segments {
                    segment.arrives = now;
                }
                stream.segments.push_back(Segment { arrives: now, content: Content::End });
                let end = u8::try_from(index).expect("two ends");
                schedule.after(Span::ZERO, Wake::Arrive(Socket { connection: socket.connection, end }).into());
            }
        }
    }

    /// Cuts one direction between two sites.
    pub fn cut(&mut self, from: Site, to: Site) {
        self.path(from, to).cut();
    }

    /// Undoes one [`Network::cut`]: what waited is sent again.
    pub fn mend<E: From<Wake>>(&mut self, from: Site, to: Site, schedule: &mut Schedule<E>, bites: &mut Bites) {
        self.path(from, to).mend();
        self.resume(from, to, RETRANSMISSION_MAX, schedule, bites);
    }

    /// Holds everything in one direction, without anyone noticing but by the wait.
    pub fn clog(&mut self, from: Site, to: Site) {
        self.path(from, to).clog();
    }

    pub fn unclog<E: From<Wake>>(&mut self, from: Site, to: Site, schedule: &mut Schedule<E>, bites: &mut Bites) {
        self.path(from, to).unclog();
        self.resume(from, to, Span::ZERO, schedule, bites);
    }

    /// Changes the loss of one direction.
    pub fn lose(&mut self, from: Site, to: Site, loss: Chance) {
        self.path(from, to).lose(loss);
    }

    fn resume<E: From<Wake>>(
        &mut self,
        from: Site,
        to: Site,
        within: Span,
        schedule: &mut Schedule<E>,
        bites: &mut Bites,
    ) {
        if !self.path(from, to).is_open() {
            return;
        }
        let now = schedule.now();
        for socket in self.sockets_of(from) {
            let connection = self.connections[socket.connection as usize].as_deref_mut().expect("live");
            if connection.sites[1 - socket.index()] != to {
                continue;
            }
            let stream = &mut connection.streams[socket.index()];
            if stream.is_due(now) {
                stream.held_until = now + self.endings[from.0].span(Span::ZERO, within);
                schedule.at(stream.held_until, Wake::Arrive(socket).into());
            }
            // Acknowledgements of the opposite stream pass again.
            let opposite = &mut connection.streams[1 - socket.index()];
            opposite.buffered -= std::mem::take(&mut opposite.acknowledgements_held);
            self.pump(socket.other(), schedule, bites);
        }
    }

    /// Something that was scheduled is due.
    pub fn wake<E: From<Wake>>(&mut self, wake: Wake, schedule: &mut Schedule<E>, bites: &mut Bites) {
        match wake {
            Wake::Arrive(socket) => self.arrive(socket, schedule, bites),
            Wake::Dial { socket, port, attempt } => self.dialled(socket, port, attempt, schedule),
            Wake::DialTimeout(socket) => self.dial_timeout(socket, bites),
            Wake::GiveUp(socket) => self.give_up(socket, schedule, bites),
        }
    }

    /// Exchanges what happened since the last call for an empty vector.
    pub fn take_arrivals(&mut self, empty: &mut Vec<Arrival>) {
        debug_assert!(empty.is_empty(), "nothing may get lost");
        std::mem::swap(&mut self.arrivals, empty);
    }

    fn dialled<E: From<Wake>>(&mut self, socket: Socket, port: Port, attempt: u8, schedule: &mut Schedule<E>) {
        let Some(connection) = self.connection(socket) else { return };
        let [from, to] = connection.sites;
        if connection.ends[1] != End::Connecting {
            return;
        }
        if connection.ends[0] != End::Connecting {
            // The dialling process is gone before anyone heard of it.
            connection.ends[1] = End::Closed;
            self.forget_if_over(socket);
            return;
        }
        if !self.path(from, to).is_open() || self.machines[to.0] == Machine::Off {
            if let Some(wait) = DIAL_RETRIES.get(usize::from(attempt)) {
                schedule.after(*wait, Wake::Dial { socket, port, attempt: attempt + 1 }.into());
            }
            return;
        }
        let refused = self.machines[to.0] == Machine::Refusing;
        let connection = self.connection(socket).expect("still there");
        if refused {
            connection.ends[1] = End::Closed;
            self.push_end(socket.other(), schedule);
        } else {
            connection.ends[1] = End::Open;
            self.arrivals.push(Arrival::Accepted { site: to, socket: socket.other(), port });
            self.push(socket.other(), Content::Open, schedule);
        }
    }

    fn dial_timeout(&mut self, socket: Socket, bites: &mut Bites) {
        let Some(connection) = self.connection(socket) else { return };
        if connection.ends[1] == End::Connecting {
            connection.ends[1] = End::Closed;
        }
        if connection.ends[0] != End::Connecting {
            self.forget_if_over(socket);
            return;
        }
        connection.ends[0] = End::Closed;
        let site = connection.sites[0];
        bites.add(Bite::DialFailed);
        self.arrivals.push(Arrival::Down { site, socket });
        self.forget_if_over(socket);
    }

    fn give_up<E: From<Wake>>(&mut self, socket: Socket, schedule: &mut Schedule<E>, bites: &mut Bites) {
        let now = schedule.now();
        let Some(connection) = self.connection(socket) else { return };
        let index = socket.index();
        connection.streams[index].give_up_armed = false;
        let [site, peer] = [connection.sites[index], connection.sites[1 - index]];
        let stream = &connection.streams[index];
        let overdue = stream.acknowledgements_held > 0 || (stream.is_due(now) && stream.may_read());
        let silent = connection.ends[1 - index] == End::Silent;
        if connection.ends[index] != End::Open || !overdue {
            return;
        }
        if !silent && !self.path(site, peer).is_cut() && !self.path(peer, site).is_cut() {
            return;
        }
        let connection = self.connection(socket).expect("still there");
        connection.ends[index] = End::Closed;
        // The other end learns nothing of it until it sends something itself.
        connection.streams[index].cut_after(0);
        bites.add(Bite::SendTimeout);
        self.arrivals.push(Arrival::Down { site, socket });
        self.forget_if_over(socket);
    }

    /// Delivers what has arrived of the stream from `socket`.
    fn arrive<E: From<Wake>>(&mut self, socket: Socket, schedule: &mut Schedule<E>, bites: &mut Bites) {
        let now = schedule.now();
        let Some(connection) = self.connections[socket.connection as usize].as_deref_mut() else { return };
        let Connection { sites, ends, streams } = connection;
        let (index, receiver) = (socket.index(), socket.other());
        let (from, to) = (sites[index], sites[1 - index]);
        let path = &self.paths[from.0 * self.sites + to.0];
        let back = &self.paths[to.0 * self.sites + from.0];
        let stream = &mut streams[index];
        if now < stream.held_until {
            return;
        }
        if !path.is_open() {
            if stream.is_due(now) {
                bites.add(if path.is_cut() { Bite::Partition } else { Bite::Clog });
                self.arm_give_up(socket, schedule);
            }
            return;
        }
        match ends[1 - index] {
            End::Open | End::Connecting => {}
            End::Silent => {
                if stream.is_due(now) {
                    self.arm_give_up(socket, schedule);
                }
                return;
            }
            End::Closed => {
                // The machine knows no such connection, and says so to whoever still sends.
                let sent_bytes = stream.bytes_in_flight() > 0;
                stream.segments.clear();
                if sent_bytes && ends[index] == End::Open {
                    self.push_end(receiver, schedule);
                }
                return;
            }
        }
        let mut arrived = 0;
        let ended = loop {
            if stream.may_read() {
                match stream.next_frame() {
                    Ok(Some(frame)) => {
                        if let Some(credit) = &mut stream.credit {
                            *credit -= i64::try_from(frame.len()).expect("frames are bounded");
                        }
                        self.arrivals.push(Arrival::Frame { site: to, socket: receiver, frame });
                        continue;
                    }
                    Ok(None) => {}
                    // As a driver does: what cannot be cut into frames ends the connection.
                    Err(_) => break true,
                }
            } else if stream.is_due(now) {
                bites.add(Bite::CreditExhausted);
                break false;
            }
            if !stream.is_due(now) {
                break false;
            }
            match stream.segments.pop_front().expect("due").content {
                Content::Open => {
                    ends[1 - index] = End::Open;
                    self.arrivals.push(Arrival::Connected { site: to, socket: receiver });
                }
                Content::Bytes(bytes) => {
                    arrived += bytes.len();
                    stream.read = bytes;
                }
                Content::End => break true,
            }
        };
        if back.is_cut() {
            stream.acknowledgements_held += arrived;
        } else {
            stream.buffered -= arrived.min(stream.buffered);
        }
        if ended {
            bites.add_if(!stream.splitter.is_idle(), Bite::TornFrame);
            bites.add_if(ends[1 - index] == End::Connecting, Bite::DialFailed);
            ends[1 - index] = End::Closed;
            self.arrivals.push(Arrival::Down { site: to, socket: receiver });
            // The opposite stream ends as well, if someone still listens there.
            if ends[index] == End::Open {
                streams[1 - index].cut_after(0);
                self.push_end(receiver, schedule);
            }
            self.forget_if_over(socket);
        } else if stream.acknowledgements_held > 0 {
            self.arm_give_up(socket, schedule);
        } else if arrived > 0 {
            self.pump(socket, schedule, bites);
        }
    }

    /// Moves bytes from the sending process into the buffers, as far as there is room.
    fn pump<E: From<Wake>>(&mut self, socket: Socket, schedule: &mut Schedule<E>, bites: &mut Bites) {
        let buffer_bytes = self.limits.buffer_bytes;
        let Some(connection) = self.connection(socket) else { return };
        if connection.ends[socket.index()] != End::Open {
            return;
        }
        let site = connection.sites[socket.index()];
        let stream = &mut connection.streams[socket.index()];
        let mut accepted = Vec::new();
        let mut bytes = 0;
        while let Some(next) = stream.unsent.front_mut() {
            let room = buffer_bytes.saturating_sub(stream.buffered + bytes);
            if room == 0 {
                bites.add(Bite::BufferFull);
                break;
            }
            let taken = next.split_to(next.len().min(room));
            if next.is_empty() {
                stream.unsent.pop_front();
            }
            bytes += taken.len();
            accepted.push(taken);
        }
        if bytes > 0 {
            self.arrivals.push(Arrival::Written { site, socket, bytes });
            self.push_segments(socket, accepted, schedule, bites);
        }
    }

    /// Sends slices as segments: small ones together, large ones in parts.
    fn push_segments<E: From<Wake>>(
        &mut self,
        socket: Socket,
        slices: impl IntoIterator<Item = Bytes>,
        schedule: &mut Schedule<E>,
        bites: &mut Bites,
    ) {
        let Some(connection) = self.connections[socket.connection as usize].as_deref_mut() else { return };
        let index = socket.index();
        let (from, to) = (connection.sites[index], connection.sites[1 - index]);
        let path = &mut self.paths[from.0 * self.sites + to.0];
        let stream = &mut connection.streams[index];
        let now = schedule.now();
        let mut group: Vec<Bytes> = Vec::new();
        let mut group_bytes = 0;
        let mut flush = |group: &mut Vec<Bytes>, bytes: &mut usize| {
            let taken = std::mem::take(bytes);
            let arrives = path.arrival(now, taken, bites).max(stream.last_arrival);
            stream.last_arrival = arrives;
            stream.buffered += taken;
            let cut = path.fragment(taken);
            let mut position = 0;
            let mut later = arrives;
            for slice in group.drain(..) {
                let end = position + slice.len();
                match cut {
                    Some(cut) if position < cut && cut < end => {
                        let first = slice.slice(..cut - position);
                        let rest = slice.slice(cut - position..);
                        stream.segments.push_back(Segment { arrives, content: Content::Bytes(first) });
                        later = path.arrival(now, 0, bites).max(arrives) + Span::microseconds(50);
                        stream.segments.push_back(Segment { arrives: later, content: Content::Bytes(rest) });
                    }
                    Some(_) | None => {
                        stream.segments.push_back(Segment { arrives: later, content: Content::Bytes(slice) });
                    }
                }
                position = end;
            }
            stream.last_arrival = later;
            schedule.at(arrives, Wake::Arrive(socket).into());
            if later > arrives {
                schedule.at(later, Wake::Arrive(socket).into());
            }
        };
        for mut slice in slices {
            while !slice.is_empty() {
                let part = slice.split_to(slice.len().min(SEGMENT_BYTES_MAX - group_bytes));
                group_bytes += part.len();
                group.push(part);
                if group_bytes == SEGMENT_BYTES_MAX {
                    flush(&mut group, &mut group_bytes);
                }
            }
        }
        if group_bytes > 0 {
            flush(&mut group, &mut group_bytes);
        }
    }

    fn push_end<E: From<Wake>>(&mut self, socket: Socket, schedule: &mut Schedule<E>) {
        self.push(socket, Content::End, schedule);
    }

    fn push<E: From<Wake>>(&mut self, socket: Socket, content: Content, schedule: &mut Schedule<E>) {
        let Some(connection) = self.connections[socket.connection as usize].as_deref_mut() else { return };
        let index = socket.index();
        let (from, to) = (connection.sites[index], connection.sites[1 - index]);
        let delay = self.paths[from.0 * self.sites + to.0].delay();
        let stream = &mut connection.streams[index];
        let arrives = (schedule.now() + delay).max(stream.last_arrival);
        stream.last_arrival = arrives;
        stream.segments.push_back(Segment { arrives, content });
        schedule.at(arrives, Wake::Arrive(socket).into());
    }

    fn arm_give_up<E: From<Wake>>(&mut self, socket: Socket, schedule: &mut Schedule<E>) {
        let (low, high) = self.limits.give_up;
        let connection = self.connections[socket.connection as usize].as_deref_mut().expect("has bytes in flight");
        let site = connection.sites[socket.index()];
        let stream = &mut connection.streams[socket.index()];
        if connection.ends[socket.index()] == End::Open && !stream.give_up_armed {
            stream.give_up_armed = true;
            let patience = self.endings[site.0].span(low, high);
            schedule.after(patience, Wake::GiveUp(socket).into());
        }
    }

    /// A connection without an open end is forgotten when nothing of it is on its way to anyone.
    fn forget_if_over(&mut self, socket: Socket) {
        let slot = &mut self.connections[socket.connection as usize];
        if slot.as_ref().is_some_and(|connection| connection.is_over()) {
            *slot = None;
            self.live.remove(&socket.connection);
        }
    }

    fn sockets_of(&self, site: Site) -> Vec<Socket> {
        let mut sockets = Vec::new();
        for number in &self.live {
            let connection = self.connections[*number as usize].as_deref().expect("live");
            for end in 0..2u8 {
                if connection.sites[usize::from(end)] == site {
                    sockets.push(Socket { connection: *number, end });
                }
            }
        }
        sockets
    }

    fn path(&mut self, from: Site, to: Site) -> &mut Path {
        &mut self.paths[from.0 * self.sites + to.0]
    }

    fn connection(&mut self, socket: Socket) -> Option<&mut Connection> {
        self.connections[socket.connection as usize].as_deref_mut()
    }
}

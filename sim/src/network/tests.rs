//! What connections promise, and what faults do to them.

use bytes::{BufMut, BytesMut};

use super::*;

const A: Site = Site(0);
const B: Site = Site(1);

struct Net {
    network: Network,
    schedule: Schedule<Wake>,
    bites: Bites,
    accepted: Vec<Socket>,
    connected: Vec<Socket>,
    frames: Vec<(Socket, Bytes)>,
    downs: Vec<Socket>,
    written: usize,
}

fn frame(payload: &[u8]) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u32(u32::try_from(payload.len()).unwrap());
    bytes.put_slice(payload);
    bytes.freeze()
}

impl Net {
    fn new(seed: u64, fragment: Chance) -> Self {
        let limits = SocketLimits {
            buffer_bytes: 1_000,
            give_up: (Span::seconds(2), Span::seconds(3)),
            dial_timeout: Span::seconds(5),
        };
        let delay = Delay::Exponential { least: Span::microseconds(100), mean: Span::milliseconds(1) };
        let quality = PathQuality { delay, loss: Chance::NEVER, fragment, bytes_per_microsecond: 100 };
        let mut schedule = Schedule::default();
        let mut network = Network::new(seed, 2, limits, |_, _| quality.clone());
        network.listen(A, &mut schedule);
        network.listen(B, &mut schedule);
        Self {
            network,
            schedule,
            bites: Bites::default(),
            accepted: Vec::new(),
            connected: Vec::new(),
            frames: Vec::new(),
            downs: Vec::new(),
            written: 0,
        }
    }

    fn run(&mut self, span: Span) {
        let until = self.schedule.now() + span;
        self.take();
        while let Some(wake) = self.schedule.next(until) {
            self.network.wake(wake, &mut self.schedule, &mut self.bites);
            self.take();
        }
    }

    fn take(&mut self) {
        let mut arrivals = Vec::new();
        self.network.take_arrivals(&mut arrivals);
        for arrival in arrivals {
            match arrival {
                Arrival::Connected { socket, .. } => self.connected.push(socket),
                Arrival::Accepted { socket, .. } => self.accepted.push(socket),
                Arrival::Frame { socket, frame, .. } => self.frames.push((socket, frame)),
                Arrival::Written { bytes, .. } => self.written += bytes,
                Arrival::Down { socket, .. } => self.downs.push(socket),
            }
        }
    }

    /// A connection from A to B: both ends.
    fn connect(&mut self, port: Port) -> (Socket, Socket) {
        let socket = self.network.dial(A, B, port, &mut self.schedule);
        self.run(Span::milliseconds(100));
        assert_eq!(self.connected.pop(), Some(socket));
        (socket, self.accepted.pop().expect("accepted"))
    }

    fn send(&mut self, socket: Socket, payload: &[u8]) {
        self.network.send(socket, [frame(payload)], &mut self.schedule, &mut self.bites);
    }

    fn received(&self, socket: Socket) -> Vec<u8> {
        self.frames.iter().filter(|(at, _)| *at == socket).flat_map(|(_, frame)| frame.to_vec()).collect()
    }
}

#[test]
fn frames_arrive_whole_and_in_order_however_they_are_cut() {
    for seed in 0..20 {
        let mut net = Net::new(seed, Chance::percent(60));
        let (a, b) = net.connect(Port::Peers);
        let mut sent = Vec::new();
        for number in 0..200u8 {
            let payload = vec![number; usize::from(number) % 30 + 1];
            sent.extend(&payload);
            net.send(a, &payload);
        }
        net.run(Span::seconds(10));
        assert_eq!(net.received(b), sent);
        assert_eq!(net.written, sent.len() + 200 * 4);
        assert!(net.downs.is_empty());
    }
}

#[test]
fn a_full_buffer_makes_the_sender_wait_and_loses_nothing() {
    let mut net = Net::new(1, Chance::NEVER);
    let (a, b) = net.connect(Port::Peers);
    net.network.cut(A, B);
    for _ in 0..100 {
        net.send(a, &[1; 96]);
    }
    net.run(Span::milliseconds(500));
    assert_eq!(net.written, 1_000);
    assert!(net.bites.of(Bite::BufferFull) > 0);
    net.network.mend(A, B, &mut net.schedule, &mut net.bites);
    net.run(Span::seconds(5));
    assert_eq!((net.written, net.received(b).len()), (10_000, 9_600));
}

#[test]
fn a_cut_holds_bytes_and_the_sender_gives_up_in_the_end() {
    let mut net = Net::new(1, Chance::NEVER);
    let (a, b) = net.connect(Port::Peers);
    net.network.cut(A, B);
    net.send(a, b"held");
    net.run(Span::seconds(1));
    assert!(net.frames.is_empty() && net.downs.is_empty());
    net.run(Span::seconds(4));
    assert_eq!(net.downs, [a], "only the sender knows");
    net.network.mend(A, B, &mut net.schedule, &mut net.bites);
    net.run(Span::seconds(5));
    assert_eq!(net.downs, [a], "an end that sends nothing stays half open");
    net.send(b, b"anyone?");
    net.run(Span::seconds(5));
    assert_eq!(net.downs, [a, b]);
}

#[test]
fn a_cut_of_one_direction_lets_the_other_pass_until_acknowledgements_are_missed() {
    let mut net = Net::new(1, Chance::NEVER);
    let (a, b) = net.connect(Port::Peers);
    net.network.cut(A, B);
    net.send(b, b"passes");
    net.run(Span::seconds(1));
    assert_eq!(net.received(a), b"passes");
    assert!(net.downs.is_empty());
    net.run(Span::seconds(5));
    assert_eq!(net.downs, [b], "its bytes arrived, but it never learned");
}

#[test]
fn a_short_cut_is_survived() {
    let mut net = Net::new(1, Chance::NEVER);
    let (a, b) = net.connect(Port::Peers);
    net.network.cut(A, B);
    net.network.cut(B, A);
    net.send(a, b"to b");
    net.send(b, b"to a");
    net.run(Span::seconds(1));
    net.network.mend(A, B, &mut net.schedule, &mut net.bites);
    net.network.mend(B, A, &mut net.schedule, &mut net.bites);
    net.run(Span::seconds(10));
    assert_eq!((net.received(a), net.received(b)), (b"to a".to_vec(), b"to b".to_vec()));
    assert!(net.downs.is_empty());
}

#[test]
fn a_reset_cuts_streams_anywhere_and_both_ends_hear_of_it() {
    let mut torn = 0;
    for seed in 0..30 {
        let mut net = Net::new(seed, Chance::NEVER);
        let (a, b) = net.connect(Port::Peers);
        for number in 0..5 {
            net.send(a, &[number; 50]);
        }
        net.network.reset(A, B, &mut net.schedule, &mut net.bites);
        net.run(Span::seconds(1));
        let received = net.received(b);
        assert_eq!(received.len() % 50, 0, "whole frames only");
        assert!(received.is_sorted());
        assert_eq!(net.downs.len(), 2);
        assert!(net.downs.contains(&a) && net.downs.contains(&b));
        torn += net.bites.of(Bite::TornFrame);
    }
    assert!(torn > 10, "{torn}");
}

#[test]
fn bytes_of_a_closed_connection_may_arrive_after_a_new_one_was_opened() {
    let mut late = 0;
    for seed in 0..40 {
        let mut net = Net::new(seed, Chance::NEVER);
        let (a, b) = net.connect(Port::Peers);
        net.network.clog(A, B);
        net.send(a, b"old");
        net.network.close(a, &mut net.schedule, &mut net.bites);
        let (_, _) = {
            net.network.unclog(A, B, &mut net.schedule, &mut net.bites);
            net.connect(Port::Peers)
        };
        net.run(Span::seconds(2));
        assert_eq!(net.downs, [b]);
        late += usize::from(net.received(b) == b"old");
    }
    assert!((5..35).contains(&late), "sometimes they arrive and sometimes not: {late}");
}

#[test]
fn a_machine_without_power_says_nothing_and_resets_when_it_is_back() {
    let mut net = Net::new(1, Chance::NEVER);
    let (a, b) = net.connect(Port::Peers);
    net.network.power_off(B);
    net.run(Span::seconds(1));
    assert!(net.downs.is_empty());
    net.send(a, b"anyone?");
    net.network.listen(B, &mut net.schedule);
    net.run(Span::seconds(1));
    assert_eq!(net.downs, [a]);
    assert!(net.received(b).is_empty());
}

#[test]
fn a_killed_process_closes_its_connections_and_dials_are_refused() {
    let mut net = Net::new(1, Chance::NEVER);
    let (a, _) = net.connect(Port::Peers);
    net.network.kill_process(B, &mut net.schedule, &mut net.bites);
    let dialled = net.network.dial(A, B, Port::Peers, &mut net.schedule);
    net.run(Span::milliseconds(200));
    assert_eq!(net.downs.len(), 2);
    assert!(net.downs.contains(&a) && net.downs.contains(&dialled));
}

#[test]
fn a_dial_across_a_cut_fails_after_its_time_or_succeeds_if_mended_before() {
    let mut net = Net::new(1, Chance::NEVER);
    net.network.cut(A, B);
    let failed = net.network.dial(A, B, Port::Peers, &mut net.schedule);
    net.run(Span::seconds(6));
    assert_eq!(net.downs, [failed]);
    let dialled = net.network.dial(A, B, Port::Peers, &mut net.schedule);
    net.run(Span::milliseconds(500));
    net.network.mend(A, B, &mut net.schedule, &mut net.bites);
    net.run(Span::seconds(2));
    assert_eq!(net.connected, [dialled]);
}

#[test]
fn a_receiver_of_clients_gets_no_more_than_it_gave_credit_for() {
    let mut net = Net::new(1, Chance::NEVER);
    let (a, b) = net.connect(Port::Clients);
    let window = limits::CLIENT_WINDOW_BYTES;
    // Frames of an API without payloads are small, so this is Produce: its key is zero.
    let payload = vec![0; 1 << 20];
    for _ in 0..20 {
        net.send(a, &payload);
    }
    net.run(Span::seconds(20));
    assert_eq!(net.received(b).len(), window);
    net.network.credit(b, 3 << 20, &mut net.schedule);
    net.run(Span::seconds(20));
    assert_eq!(net.received(b).len(), window + (3 << 20));
    assert!(net.bites.of(Bite::CreditExhausted) > 0);
}

#[test]
fn finishing_delivers_everything_first() {
    let mut net = Net::new(1, Chance::NEVER);
    let (a, b) = net.connect(Port::Peers);
    for _ in 0..50 {
        net.send(b, &[5; 100]);
    }
    net.network.finish(b, &mut net.schedule, &mut net.bites);
    net.run(Span::seconds(5));
    assert_eq!(net.received(a).len(), 5_000);
    assert_eq!(net.downs, [a]);
}

#[test]
fn a_frame_that_breaks_the_rules_ends_the_connection() {
    let mut net = Net::new(1, Chance::NEVER);
    let (a, b) = net.connect(Port::Peers);
    net.network.send(a, [Bytes::from_static(&[0xff; 8])], &mut net.schedule, &mut net.bites);
    net.run(Span::seconds(1));
    assert_eq!(net.downs, [b, a]);
}

//! The driver around scripted cores: real sockets, real files, real threads.
//!
//! No test waits for time to pass. Where something must not happen, the test first makes the node do other work that
//! a broken driver would have done it before.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::mpsc,
    time::Duration,
};

use bytes::Bytes;
use kauri::driver::{Core, DataDirectory, Node, NodeEnd, NodeSetup};
use kauri_core::{
    ids::{ConnectionId, FileSequence, LinkId, NodeId, OperationId},
    io::{
        ClientSend, DiskAction, DiskError, DiskOperation, DiskOutput, Effects, Exit, FileName, Input, Notice, PeerDial,
        PeerSend,
    },
    limits,
    time::{Monotonic, Now},
};
use slog::{Discard, Logger, o};

/// A core that answers each input with the effects a script wants.
struct Scripted<S> {
    script: S,
    effects: Effects,
}

impl<S: FnMut(Input, &mut Effects)> Core for Scripted<S> {
    fn handle(&mut self, _now: Now, input: Input) {
        (self.script)(input, &mut self.effects);
    }

    fn poll(&mut self, _now: Now, effects: &mut Effects) {
        std::mem::swap(effects, &mut self.effects);
        assert!(self.effects.is_empty(), "the driver empties what it is given");
    }

    fn next_deadline(&self) -> Option<Monotonic> {
        None
    }
}

struct Fixture {
    node: Node,
    clients: SocketAddr,
    peers: SocketAddr,
    directory: tempfile::TempDir,
}

impl Fixture {
    /// A node whose core lets the script answer.
    fn scripted(script: impl FnMut(Input, &mut Effects) + Send + 'static) -> Self {
        Self::around(move || Scripted { script, effects: Effects::default() })
    }

    fn around<C: Core>(core: impl FnOnce() -> C + Send + 'static) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let client_listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer_listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (clients, peers) = (client_listener.local_addr().unwrap(), peer_listener.local_addr().unwrap());
        let setup = NodeSetup {
            name: "test".to_owned(),
            data_directory: DataDirectory::open(directory.path()).unwrap(),
            client_listener,
            peer_listener,
            logger: Logger::root(Discard, o!()),
        };
        Self { node: Node::start(setup, core).unwrap(), clients, peers, directory }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.clients).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    /// Waits for the node's own end. What it left on the disk is returned as well.
    fn end(self) -> (NodeEnd, tempfile::TempDir) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut state = self.node.state();
        let end = runtime.block_on(async { state.wait_for(|state| state.end.is_some()).await.unwrap().end.clone() });
        self.node.join();
        (end.expect("that was waited for"), self.directory)
    }

    fn abandon(self) {
        self.node.abandon();
        assert_eq!(self.end().0, NodeEnd::Abandoned);
    }
}

fn framed(payload: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes().to_vec();
    frame.extend(payload);
    frame
}

/// A frame as a client's request: the API key of Produce in front, so that it may be large.
fn request(length: usize, fill: u8) -> Vec<u8> {
    let mut payload = vec![fill; length];
    payload[..2].fill(0);
    payload
}

fn read_frame(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let mut payload = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut payload)?;
    Ok(payload)
}

/// Sends a frame back to where it came from, in two slices, and returns its credit.
fn echo(connection: ConnectionId, frame: Bytes, effects: &mut Effects) {
    let length = Bytes::copy_from_slice(&u32::try_from(frame.len()).unwrap().to_be_bytes());
    effects.client_credits.push((connection, frame.len()));
    effects.client_sends.push(ClientSend { connection, slices: vec![length, frame] });
}

fn echoing() -> Fixture {
    Fixture::scripted(|input, effects| {
        if let Input::ClientFrame { connection, frame } = input {
            echo(connection, frame, effects);
        }
    })
}

#[test]
fn frames_come_and_go_however_the_bytes_are_cut() {
    let fixture = echoing();
    let mut client = fixture.connect();
    let requests = [request(5, 1), request(2, 0), request(70_000, 2), request(3 << 20, 3), request(9, 4)];
    let wire: Vec<u8> = requests.iter().flat_map(|request| framed(request)).collect();
    for pieces in [1, 3, 1000, 4 << 20] {
        let mut writer = client.try_clone().unwrap();
        let wire = if pieces < 1000 { framed(&requests[0]) } else { wire.clone() };
        let count = if pieces < 1000 { 1 } else { requests.len() };
        let write = std::thread::Builder::new().spawn(move || {
            for piece in wire.chunks(pieces) {
                writer.write_all(piece).unwrap();
            }
        });
        for request in &requests[..count] {
            assert!(read_frame(&mut client).unwrap() == *request);
        }
        write.unwrap().join().unwrap();
    }
    fixture.abandon();
}

#[test]
fn more_than_the_window_in_flight_is_fine_while_credit_comes_back() {
    let fixture = echoing();
    let mut client = fixture.connect();
    let mut writer = client.try_clone().unwrap();
    let frames = 3 * limits::CLIENT_WINDOW_BYTES / (1 << 20);
    let write = std::thread::Builder::new().spawn(move || {
        for number in 0..frames {
            writer.write_all(&framed(&request(1 << 20, u8::try_from(number).unwrap()))).unwrap();
        }
    });
    for number in 0..frames {
        assert_eq!(read_frame(&mut client).unwrap().last().copied(), u8::try_from(number).ok());
    }
    write.unwrap().join().unwrap();
    fixture.abandon();
}

#[test]
fn a_socket_is_not_read_beyond_its_window() {
    const FRAME: usize = 1 << 20;
    let (seen, frames) = mpsc::channel();
    // The first connection is answered only when the second asks for it.
    let mut greedy = None;
    let fixture = Fixture::scripted(move |input, effects| match input {
        Input::ClientConnected { connection } => {
            greedy.get_or_insert(connection);
        }
        Input::ClientFrame { connection, frame } if Some(connection) == greedy => seen.send(frame.len()).unwrap(),
        Input::ClientFrame { connection, frame } => {
            if frame.len() == 3 {
                effects.client_credits.push((greedy.unwrap(), 20 * FRAME));
            }
            echo(connection, frame, effects);
        }
        _ => {}
    });
    let mut greedy = fixture.connect();
    let write = std::thread::Builder::new().spawn(move || {
        for _ in 0..20 {
            greedy.write_all(&framed(&request(FRAME, 1))).unwrap();
        }
        greedy
    });
    let window = limits::CLIENT_WINDOW_BYTES / FRAME;
    for _ in 0..window {
        frames.recv().unwrap();
    }
    let mut other = fixture.connect();
    for _ in 0..100 {
        other.write_all(&framed(&request(2, 0))).unwrap();
        read_frame(&mut other).unwrap();
    }
    assert_eq!(frames.try_recv(), Err(mpsc::TryRecvError::Empty), "the credit was used up, and others are served");
    other.write_all(&framed(&request(3, 0))).unwrap();
    for _ in window..20 {
        frames.recv().unwrap();
    }
    write.unwrap().join().unwrap();
    fixture.abandon();
}

#[test]
fn a_connection_closes_after_its_last_answer_even_to_a_slow_reader() {
    const ANSWER: usize = 32 << 20;
    let (report, reports) = mpsc::channel();
    let mut answered = false;
    let fixture = Fixture::scripted(move |input, effects| match input {
        Input::ClientFrame { connection, .. } if !answered => {
            answered = true;
            let slices = vec![Bytes::from(vec![1; ANSWER / 2]), Bytes::new(), Bytes::from(vec![2; ANSWER / 2])];
            effects.client_sends.push(ClientSend { connection, slices });
            effects.client_closes.push(connection);
        }
        Input::ClientWritten { bytes, .. } => report.send(Some(bytes)).unwrap(),
        Input::ClientClosed { .. } => report.send(None).unwrap(),
        _ => {}
    });
    let mut client = fixture.connect();
    client.write_all(&framed(&request(4, 1))).unwrap();
    // What is still on its way when the connection closes must not reset it.
    client.write_all(&framed(&request(4, 1))).unwrap();
    let mut received = Vec::new();
    let mut buffer = [0; 10_000];
    loop {
        match client.read(&mut buffer).unwrap() {
            0 => break,
            count => received.extend_from_slice(&buffer[..count]),
        }
    }
    assert_eq!(received.len(), ANSWER);
    assert!(received[..ANSWER / 2].iter().all(|&byte| byte == 1));
    assert!(received[ANSWER / 2..].iter().all(|&byte| byte == 2));
    drop(client);
    let mut written = 0;
    while let Some(bytes) = reports.recv().unwrap() {
        written += bytes;
    }
    fixture.abandon();
    assert_eq!(written, ANSWER, "each byte was reported, before the end of the connection");
    assert_eq!(reports.try_recv(), Err(mpsc::TryRecvError::Disconnected), "the end was reported once");
}

#[test]
fn a_connection_is_aborted_although_its_client_does_not_read_and_although_it_was_to_be_closed() {
    const ANSWER: usize = 64 << 20;
    for closed_before in [false, true] {
        let (report, reports) = mpsc::channel();
        let mut stuck = None;
        let fixture = Fixture::scripted(move |input, effects| match input {
            Input::ClientFrame { connection, .. } if stuck.is_none() => {
                stuck = Some(connection);
                effects.client_sends.push(ClientSend { connection, slices: vec![Bytes::from(vec![1; ANSWER])] });
                if closed_before {
                    effects.client_closes.push(connection);
                }
            }
            Input::ClientFrame { .. } => effects.client_aborts.extend(stuck),
            Input::ClientClosed { connection } if Some(connection) == stuck => report.send(()).unwrap(),
            _ => {}
        });
        let mut client = fixture.connect();
        client.write_all(&framed(&request(4, 1))).unwrap();
        // Its first byte has arrived, and nobody reads the rest.
        client.read_exact(&mut [0]).unwrap();
        let mut other = fixture.connect();
        other.write_all(&framed(&request(4, 1))).unwrap();
        reports.recv().unwrap();
        let mut left = Vec::new();
        assert!(client.read_to_end(&mut left).is_err(), "reset");
        assert!(left.len() < ANSWER);
        drop(other);
        fixture.abandon();
    }
}

#[test]
fn a_client_that_goes_away_is_reported_once_and_what_is_sent_to_it_is_dropped() {
    let (report, reports) = mpsc::channel();
    let fixture = Fixture::scripted(move |input, effects| match input {
        Input::ClientConnected { connection } => report.send((connection, "connected")).unwrap(),
        Input::ClientClosed { connection } => {
            report.send((connection, "closed")).unwrap();
            effects.client_sends.push(ClientSend { connection, slices: vec![Bytes::from_static(b"late")] });
            effects.client_credits.push((connection, 1));
            effects.client_closes.push(connection);
        }
        Input::ClientFrame { connection, frame } => echo(connection, frame, effects),
        _ => {}
    });
    let first = fixture.connect();
    let (connection, _) = reports.recv().unwrap();
    first.shutdown(Shutdown::Both).unwrap();
    assert_eq!(reports.recv().unwrap(), (connection, "closed"));
    let mut second = fixture.connect();
    second.write_all(&framed(&request(4, 1))).unwrap();
    read_frame(&mut second).unwrap();
    let (other, what) = reports.recv().unwrap();
    assert_eq!(what, "connected");
    assert_ne!(other, connection, "ids are not used again");
    fixture.abandon();
}

#[test]
fn hostile_lengths_end_their_connection_and_no_other() {
    let fixture = echoing();
    let mut good = fixture.connect();
    let too_large = u32::try_from(limits::PRODUCE_FRAME_BYTES_MAX + 1).unwrap();
    // A Metadata request may not be as large as a Produce request.
    let metadata = [&(64u32 << 20).to_be_bytes()[..], &[0, 3]].concat();
    for bytes in [too_large.to_be_bytes().to_vec(), u32::MAX.to_be_bytes().to_vec(), metadata] {
        let mut bad = fixture.connect();
        bad.write_all(&bytes).unwrap();
        assert_eq!(bad.read(&mut [0; 10]).unwrap_or(0), 0, "{bytes:?} was not answered");
        good.write_all(&framed(&request(4, 1))).unwrap();
        assert_eq!(read_frame(&mut good).unwrap(), request(4, 1));
    }
    fixture.abandon();
}

#[test]
fn links_carry_frames_both_ways_and_each_end_is_reported() {
    // As the core names the links it dials.
    const DIALLED: u64 = 1 << 63;
    fn node(report: mpsc::Sender<(LinkId, String)>, dial: Option<SocketAddr>) -> Fixture {
        Fixture::scripted(move |input, effects| {
            let tell = |link, what: &str| report.send((link, what.to_owned())).unwrap();
            let send = |link, what: &[u8]| PeerSend { link, slices: vec![Bytes::from(framed(what)), Bytes::new()] };
            match input {
                // A client's frame is the test asking for a dial.
                Input::ClientFrame { .. } => {
                    let (link, node) = (LinkId(DIALLED), NodeId(2));
                    let address = dial.expect("only the dialling node is asked").to_string();
                    effects.peer_dials.push(PeerDial { link, node, address });
                }
                Input::LinkUp { link } => {
                    tell(link, "up");
                    effects.peer_sends.push(send(link, b"hello"));
                }
                Input::LinkAccepted { link } => tell(link, "accepted"),
                Input::LinkFrame { link, frame } => {
                    tell(link, std::str::from_utf8(&frame).unwrap());
                    match &frame[..] {
                        b"hello" => effects.peer_sends.push(send(link, b"welcome")),
                        _ => effects.peer_closes.push(link),
                    }
                }
                Input::LinkDown { link } => tell(link, "down"),
                _ => {}
            }
        })
    }
    let (report, reports) = mpsc::channel();
    let accepting = node(report, None);
    let (report, dialling_reports) = mpsc::channel();
    let dialling = node(report, Some(accepting.peers));
    let mut client = dialling.connect();
    client.write_all(&framed(&request(4, 1))).unwrap();

    let accepted: Vec<_> = reports.iter().take(3).collect();
    let link = accepted[0].0;
    assert_eq!(link, LinkId::FIRST_ACCEPTED);
    assert_eq!(accepted, [(link, "accepted".into()), (link, "hello".into()), (link, "down".into())]);
    let dialled: Vec<_> = dialling_reports.iter().take(3).collect();
    let link = LinkId(DIALLED);
    assert_eq!(dialled, [(link, "up".into()), (link, "welcome".into()), (link, "down".into())]);
    accepting.abandon();

    // Nobody listens there any more.
    client.write_all(&framed(&request(4, 1))).unwrap();
    assert_eq!(dialling_reports.recv().unwrap(), (link, "down".to_owned()));
    dialling.abandon();
}

#[test]
fn a_stranger_on_the_peer_port_gets_no_more_memory_than_a_hello_takes() {
    let (report, reports) = mpsc::channel();
    let fixture = Fixture::scripted(move |input, _| {
        if let Input::LinkFrame { frame, .. } = input {
            report.send(frame.len()).unwrap();
        }
    });
    let link = || {
        let stream = TcpStream::connect(fixture.peers).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    };
    let mut stranger = link();
    let length = u32::try_from(limits::PEER_HELLO_BYTES_MAX + 1).unwrap();
    stranger.write_all(&length.to_be_bytes()).unwrap();
    assert_eq!(stranger.read(&mut [0]).unwrap(), 0, "the link is closed before any of the frame was taken in");

    let mut peer = link();
    let large = vec![7; 4 * limits::PEER_HELLO_BYTES_MAX];
    peer.write_all(&[framed(&large[..limits::PEER_HELLO_BYTES_MAX]), framed(&large)].concat()).unwrap();
    assert_eq!(reports.recv().unwrap(), limits::PEER_HELLO_BYTES_MAX);
    assert_eq!(reports.recv().unwrap(), large.len(), "only the first frame has to be a hello");
    fixture.abandon();
}

#[test]
fn disk_operations_reach_the_disk_and_their_failures_the_core() {
    let file = FileName::Wal(FileSequence(1));
    let (report, reports) = mpsc::channel();
    let fixture = Fixture::scripted(move |input, effects| match input {
        Input::ClientFrame { .. } => {
            let write = DiskAction::Write { file, offset: 0, slices: vec![Bytes::from_static(b"written")] };
            effects.wal.push(DiskOperation { id: OperationId(1), action: write });
            effects.wal.push(DiskOperation { id: OperationId(2), action: DiskAction::Sync { file } });
        }
        Input::Disk { operation: OperationId(2), result } => {
            assert!(matches!(result, Ok(DiskOutput::Done)));
            let read = |file| DiskAction::Read { file, offset: 0, length: 100 };
            effects.disk.push(DiskOperation { id: OperationId(3), action: read(file) });
            effects.disk.push(DiskOperation { id: OperationId(4), action: read(FileName::Identity) });
        }
        Input::Disk { operation, result } => report.send((operation.0, result)).unwrap(),
        _ => {}
    });
    let mut client = fixture.connect();
    client.write_all(&framed(&request(4, 1))).unwrap();
    let mut results: Vec<_> = reports.iter().take(3).collect();
    results.sort_by_key(|(operation, _)| *operation);
    assert!(matches!(results[0], (1, Ok(DiskOutput::Done))));
    assert!(matches!(&results[1], (3, Ok(DiskOutput::Read(bytes))) if bytes == "written"));
    assert!(matches!(results[2], (4, Err(DiskError::NotFound))));
    fixture.abandon();
}

#[test]
fn a_clean_end_waits_for_the_core_and_leaves_nothing_behind() {
    let file = FileName::Wal(FileSequence(1));
    let fixture = Fixture::scripted(move |input, effects| match input {
        Input::ClientFrame { connection, frame } => echo(connection, frame, effects),
        Input::Shutdown => {
            let write = DiskAction::Write { file, offset: 0, slices: vec![Bytes::from_static(b"the end")] };
            effects.wal.push(DiskOperation { id: OperationId(1), action: write });
        }
        Input::Disk { .. } => effects.exit = Some(Exit::Stopped),
        _ => {}
    });
    let mut client = fixture.connect();
    client.write_all(&framed(&request(4, 1))).unwrap();
    read_frame(&mut client).unwrap();
    fixture.node.shut_down();
    let (clients, peers) = (fixture.clients, fixture.peers);
    let (end, directory) = fixture.end();
    assert_eq!(end, NodeEnd::Exit(Exit::Stopped));
    assert_eq!(client.read(&mut [0; 10]).unwrap_or(0), 0, "the client's connection is over");
    assert_eq!(std::fs::read(directory.path().join(file.path())).unwrap(), b"the end");
    DataDirectory::open(directory.path()).expect("nobody holds the data directory");
    TcpListener::bind(clients).expect("nobody listens for clients");
    TcpListener::bind(peers).expect("nobody listens for peers");
}

#[test]
fn a_core_that_cannot_go_on_ends_the_node() {
    let damaged = Exit::Damaged { file: "wal/1".to_owned(), offset: 4096, what: "nonsense".to_owned() };
    let exit = damaged.clone();
    let fixture = Fixture::scripted(move |input, effects| {
        if let Input::ClientConnected { .. } = input {
            effects.exit = Some(exit.clone());
        }
    });
    let _client = fixture.connect();
    assert_eq!(fixture.end().0, NodeEnd::Exit(damaged));
}

#[test]
fn a_panic_ends_the_node_and_not_the_process() {
    let fixture = Fixture::scripted(|input, _| {
        if let Input::ClientConnected { .. } = input {
            panic!("a broken invariant");
        }
    });
    let _client = fixture.connect();
    assert_eq!(fixture.end().0, NodeEnd::Panicked { thread: "test-core".to_owned() });
}

/// Wants to be polled again a little later, a few times, and tells its owner.
struct Ticking {
    deadline: Monotonic,
    left: u32,
}

impl Core for Ticking {
    fn handle(&mut self, _now: Now, _input: Input) {
        panic!("nothing happens in this test but time");
    }

    fn poll(&mut self, now: Now, effects: &mut Effects) {
        assert!(now.wall.0 > 1_700_000_000_000, "milliseconds since 1970");
        assert!(now.monotonic >= self.deadline, "not before the deadline");
        self.deadline = now.monotonic + Duration::from_millis(2);
        match self.left {
            2 => effects.notices.push(Notice::Recovered),
            1 => effects.notices.push(Notice::Serving),
            0 => effects.exit = Some(Exit::Stopped),
            _ => {}
        }
        self.left = self.left.saturating_sub(1);
    }

    fn next_deadline(&self) -> Option<Monotonic> {
        Some(self.deadline)
    }
}

#[test]
fn deadlines_are_kept_without_any_event() {
    let fixture = Fixture::around(|| Ticking { deadline: Monotonic(0), left: 5 });
    let state = fixture.node.state();
    assert_eq!(fixture.end().0, NodeEnd::Exit(Exit::Stopped));
    assert!(state.borrow().recovered && state.borrow().serving, "notices are passed on");
}

//! The `kauri` process as a user meets it: what it prints, how it ends.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

fn kauri() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kauri"));
    command.env_clear().stdin(Stdio::null());
    command
}

fn output(arguments: &[&str]) -> Output {
    kauri().args(arguments).output().unwrap()
}

/// What a command that fails says, which is one sentence.
fn fails(arguments: &[&str], code: i32) -> String {
    let Output { status, stdout, stderr } = output(arguments);
    let sentence = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(code), "{sentence}");
    assert!(stdout.is_empty());
    assert_eq!(sentence.lines().count(), 1, "{sentence}");
    sentence.trim_end().to_owned()
}

/// A running cluster; killed if a test fails.
struct Cluster {
    child: Child,
    bootstrap: Vec<String>,
    directory: String,
}

impl Cluster {
    fn start(arguments: &[&str]) -> Self {
        let mut child = kauri().args(["dev", "--port", "0"]).args(arguments).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
        let (mut bootstrap, mut directory) = (Vec::new(), String::new());
        for line in lines {
            let line = line.unwrap();
            match line.trim().split_once("  ") {
                Some(("bootstrap servers", list)) => bootstrap = list.trim().split(',').map(str::to_owned).collect(),
                Some(("data", path)) => path.trim().split(" (").next().unwrap().clone_into(&mut directory),
                Some(_) | None => {}
            }
            if line.starts_with("Ctrl-C") {
                break;
            }
        }
        Self { child, bootstrap, directory }
    }

    fn stop(mut self) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::INT).unwrap();
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Asks a node for its API versions, the oldest way, and expects an answer.
fn is_served(address: &str) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let request = [&10u32.to_be_bytes()[..], &18i16.to_be_bytes(), &[0, 0], &7i32.to_be_bytes(), &[0xff; 2]].concat();
    stream.write_all(&request).unwrap();
    let mut head = [0; 10];
    stream.read_exact(&mut head).unwrap();
    assert_eq!(head[4..], [0, 0, 0, 7, 0, 0], "the request's number, and no error");
}

#[test]
fn a_cluster_starts_serves_stops_and_starts_again_from_the_same_directory() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("data");
    let cluster = Cluster::start(&["--data-dir", directory.to_str().unwrap()]);
    assert_eq!(cluster.bootstrap.len(), 3);
    assert_eq!(Path::new(&cluster.directory), directory);
    cluster.bootstrap.iter().for_each(|address| is_served(address));
    cluster.stop();

    let sentence = fails(&["dev", "--nodes", "5", "--data-dir", directory.to_str().unwrap()], 2);
    let expected = format!(
        "kauri: --nodes 5: {0} holds a cluster of 3; use --nodes 3, or another --data-dir",
        directory.display()
    );
    assert_eq!(sentence, expected);

    let again = Cluster::start(&["--data-dir", directory.to_str().unwrap()]);
    again.bootstrap.iter().for_each(|address| is_served(address));
    let sentence = fails(&["dev", "--port", "0", "--data-dir", directory.to_str().unwrap()], 1);
    assert_eq!(sentence, format!("kauri: --data-dir: {}/node-1 is in use by another process", directory.display()));
    again.stop();
}

/// What a client command prints; it must succeed.
fn prints(cluster: &Cluster, input: &str, arguments: &[&str]) -> String {
    let mut command = kauri();
    command.args(arguments).args(["--bootstrap", &cluster.bootstrap[0]]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let Output { status, stdout, .. } = child.wait_with_output().unwrap();
    assert_eq!(status.code(), Some(0), "{arguments:?}");
    String::from_utf8(stdout).unwrap()
}

#[test]
fn topics_records_and_benchmarks_from_the_command_line() {
    let cluster = Cluster::start(&["--ephemeral", "--nodes", "1"]);
    let kauri = |input, arguments: &[&str]| prints(&cluster, input, arguments);
    let bootstrap = cluster.bootstrap[0].as_str();

    kauri("", &["topic", "create", "orders", "--partitions", "3", "--config", "retention.ms=86400000"]);
    let sentence = fails(&["topic", "create", "orders", "--bootstrap", bootstrap], 1);
    let expected =
        "kauri: topic orders could not be created: TOPIC_ALREADY_EXISTS (36): a topic of this name exists already";
    assert_eq!(sentence, expected);
    assert_eq!(kauri("", &["topic", "list"]), "orders  3 partitions\n");
    let described = kauri("", &["topic", "describe", "orders"]);
    assert!(described.contains("  retention.ms = 86400000\n") && described.contains("  partition 2  "), "{described}");

    kauri("k:v\n", &["produce", "orders", "--partition", "1", "--key-separator", ":", "--header", "h=1"]);
    assert_eq!(kauri("", &["consume", "orders", "--exit"]), "k\tv\th=1\n");
    let lines = kauri("", &["consume", "orders", "--exit", "--json"]);
    kauri(&lines, &["produce", "orders", "--json"]);
    let copied = kauri("", &["consume", "orders", "--offset", "1", "--partition", "1", "--count", "1", "--json"]);
    assert_eq!(copied, lines.replace("\"offset\":0", "\"offset\":1"), "what is printed can be written again");

    // Without --exit a topic is followed; the count ends it.
    let text = "first\nsecond\nthird";
    kauri(text, &["produce", "created-by-use", "--compression", "zstd"]);
    assert_eq!(kauri("", &["consume", "created-by-use", "--count", "2"]), "first\nsecond\n");
    assert_eq!(kauri("", &["consume", "created-by-use", "--offset", "2", "--count", "1"]), "third\n");
    assert_eq!(kauri("", &["consume", "created-by-use", "--offset", "latest", "--exit"]), "");

    let wrote: serde_json::Value =
        serde_json::from_str(&kauri("", &["bench", "produce", "--records", "500", "--size", "100", "--json"])).unwrap();
    assert_eq!((&wrote["records"], &wrote["bytes"], &wrote["failures"]), (&500.into(), &50_000.into(), &0.into()));
    let read: serde_json::Value = serde_json::from_str(&kauri("", &["bench", "consume", "--json"])).unwrap();
    assert_eq!((&read["records"], &read["bytes"]), (&500.into(), &50_000.into()));

    kauri("", &["topic", "delete", "orders", "created-by-use", "kauri-bench"]);
    assert_eq!(kauri("", &["topic", "list"]), "");
    let sentence = fails(&["consume", "orders", "--bootstrap", bootstrap], 1);
    assert_eq!(sentence, "kauri: topic orders does not exist");
    cluster.stop();
}

#[test]
fn a_consumer_whose_cluster_is_gone_gives_up() {
    let cluster = Cluster::start(&["--ephemeral", "--nodes", "1"]);
    prints(&cluster, "first\n", &["produce", "orders"]);
    let mut command = kauri();
    command.args(["consume", "orders", "--timeout", "1", "--bootstrap", &cluster.bootstrap[0]]);
    let mut consumer = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(consumer.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "first\n");
    cluster.stop();

    let Output { status, stderr, .. } = consumer.wait_with_output().unwrap();
    let sentence = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(1), "{sentence}");
    assert!(sentence.starts_with("kauri: partition 0 of topic orders could not be read for 1 s: "), "{sentence}");
    assert!(sentence.ends_with("or give them longer with --timeout\n"), "{sentence}");
}

#[test]
fn recovery_asks_before_it_gives_anything_up() {
    let root = tempfile::tempdir().unwrap();
    let data = root.path().to_str().unwrap();
    let node = |number: u32| format!("{data}/node-{number}");
    let cluster = Cluster::start(&["--data-dir", data]);
    prints(&cluster, "first\nsecond\n", &["produce", "orders"]);
    let sentence = fails(&["recover", "--data-dir", data, "--yes"], 3);
    assert_eq!(sentence, format!("kauri: --data-dir: a node runs on {}; stop it first", node(1)));
    cluster.stop();

    let says = |arguments: &[&str], code: i32| {
        let Output { status, stdout, stderr } = output(&[&["recover"], arguments].concat());
        assert_eq!(status.code(), Some(code), "{}", String::from_utf8_lossy(&stderr));
        String::from_utf8(stdout).unwrap()
    };
    assert!(says(&["--data-dir", data], 0).ends_with("There is nothing to do.\n"), "the whole cluster is here");
    assert!(says(&["--data-dir", &node(1), "--data-dir", &node(3)], 0).ends_with("There is nothing to do.\n"));

    let text = says(&["--data-dir", &node(2)], 3);
    assert!(text.contains("orders-0 (group 1)\n") && text.contains("in none of these directories"), "{text}");
    assert_eq!(says(&["--data-dir", &node(2), "--dry-run"], 0), text, "asking changed nothing");
    let plan: serde_json::Value =
        serde_json::from_str(&says(&["--data-dir", &node(2), "--dry-run", "--json"], 0)).unwrap();
    assert_eq!((&plan["needed"], &plan["groups"][1]["topic"]), (&true.into(), &"orders".into()));
    assert_eq!(plan["groups"][1]["alone"]["next_offset"], 2);
    let done: serde_json::Value = serde_json::from_str(&says(&["--data-dir", &node(2), "--yes", "--json"], 0)).unwrap();
    assert_eq!((&done["outcomes"][1]["recovered"], &done["outcomes"][1]["next_offset"]), (&true.into(), &2.into()));
    assert!(says(&["--data-dir", &node(2), "--yes"], 0).ends_with("There is nothing to do.\n"));

    let sentence = fails(&["recover", "--data-dir", &node(2), "--data-dir", &node(2)], 2);
    assert!(sentence.contains("the same directory"), "{sentence}");
    fails(&["recover", "--data-dir", &node(4)], 1);
}

#[test]
fn an_ephemeral_cluster_leaves_nothing() {
    let cluster = Cluster::start(&["--ephemeral", "--nodes", "1"]);
    let directory = cluster.directory.clone();
    assert!(Path::new(&directory).join("node-1/wal").is_dir());
    is_served(&cluster.bootstrap[0]);
    cluster.stop();
    assert!(!Path::new(&directory).exists());
}

#[test]
fn what_is_wrong_is_said_with_the_flag_that_names_it() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap();
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name).to_str().unwrap().to_owned();
    let in_use = format!("{taken} cannot be listened on: Address already in use (os error 98)");

    let port = taken.port().to_string();
    assert_eq!(fails(&["dev", "--ephemeral", "--nodes", "1", "--port", &port], 1), format!("kauri: --port: {in_use}"));

    let nodes = format!("1={taken}");
    let server = ["server", "--node", "1", "--nodes", nodes.as_str(), "--listen", "127.0.0.1:0", "--advertised", "a:1"];
    let with = |more: &[&str], code| fails(&[&server[..], more].concat(), code);
    assert_eq!(with(&["--data-dir", &path("a")], 1), format!("kauri: --peer-listen: {in_use}"));
    fs::write(path("file"), "").unwrap();
    assert_eq!(
        with(&["--data-dir", &path("file")], 2),
        format!("kauri: --data-dir: {} is not a directory", path("file"))
    );
    assert_eq!(
        with(&["--data-dir", &path("file"), "--check-config"], 2),
        format!("kauri: --data-dir: {} is not a directory", path("file"))
    );
    assert_eq!(
        with(&["--data-dir", "/proc/kauri"], 1),
        "kauri: --data-dir: /proc/kauri cannot be used: No such file or directory (os error 2)"
    );
    assert_eq!(
        with(&["--config", &path("none.toml")], 2),
        format!("kauri: --config: {} cannot be read: No such file or directory (os error 2)", path("none.toml"))
    );
    assert_eq!(
        fails(&["server"], 2),
        "kauri: node is missing: set it in the configuration file, with KAURI_NODE, or with --node"
    );
}

#[test]
fn a_host_that_cannot_be_found_is_named() {
    let sentence = fails(&["topic", "list", "--bootstrap", "nowhere.invalid:9092", "--timeout", "1"], 1);
    let (_, reason) = sentence.split_once("nowhere.invalid:9092: ").expect(&sentence);
    assert!(reason.contains("lookup"), "{sentence}");
}

#[test]
fn a_configuration_is_checked_without_touching_anything() {
    let root = tempfile::tempdir().unwrap();
    let (file, data) = (root.path().join("kauri.toml"), root.path().join("data"));
    let text = format!("node = 1\ndata_dir = {:?}\n[[nodes]]\nid = 1\naddress = \"127.0.0.1:9192\"\n", data);
    fs::write(&file, &text).unwrap();
    let Output { status, stdout, .. } = output(&["server", "--config", file.to_str().unwrap(), "--check-config"]);
    assert_eq!(status.code(), Some(0));
    assert!(String::from_utf8(stdout).unwrap().starts_with("The configuration is fine: node 1 of 1 (1 voting)"));
    assert!(!data.exists());

    fs::write(&file, format!("lisen = \"\"\n{text}")).unwrap();
    let sentence = fails(&["server", "--config", file.to_str().unwrap(), "--check-config"], 2);
    assert_eq!(sentence, format!("kauri: {} line 1: there is no key \"lisen\"; did you mean listen?", file.display()));
}

/// A node that listens on any free ports.
fn server(node: &str, nodes: &str, data: &str) -> Command {
    let mut command = kauri();
    let listen = ["--listen", "127.0.0.1:0", "--peer-listen", "127.0.0.1:0", "--advertised", "127.0.0.1:9092"];
    command.args(["server", "--node", node, "--nodes", nodes, "--data-dir", data]).args(listen);
    command
}

/// Starts a node and waits until its identity is on the disk. What it says later can be read on.
fn recovered(mut server: Command) -> (Child, impl Sized) {
    let mut child = server.stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("recovered")));
    (child, lines)
}

#[test]
fn a_cluster_does_not_settle_in_the_directory_of_a_server() {
    let root = tempfile::tempdir().unwrap();
    let data = root.path().to_str().unwrap();
    let (mut child, _log) = recovered(server("1", "1=127.0.0.1:1", data));
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));

    let sentence = fails(&["dev", "--port", "0", "--data-dir", data], 3);
    let expected = format!(
        "kauri: --data-dir: {data} holds the data of one server, and a cluster of nodes there would spoil it; name another"
    );
    assert_eq!(sentence, expected);
    assert!(!root.path().join("node-1").exists());
}

#[test]
fn a_server_refuses_the_data_of_another_node() {
    let root = tempfile::tempdir().unwrap();
    let data = root.path().to_str().unwrap();
    let server = |node| server(node, "1=127.0.0.1:1,2=127.0.0.1:2", data);
    let (mut first, _log) = recovered(server("1"));
    // What signals a process and its group signals it twice, and means one orderly end.
    kill_process(Pid::from_child(&first), Signal::INT).unwrap();
    kill_process(Pid::from_child(&first), Signal::TERM).unwrap();
    assert_eq!(first.wait().unwrap().code(), Some(0));

    let second = server("2").output().unwrap();
    let said = String::from_utf8(second.stderr).unwrap();
    assert_eq!(second.status.code(), Some(3), "{said}");
    let sentence = said.lines().last().unwrap();
    assert!(sentence.starts_with("kauri: "), "{said}");
}

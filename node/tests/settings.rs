//! What a configuration becomes, and what is said about one that is wrong.

use std::path::{Path, PathBuf};

use kauri::settings::{Key, Layer, LogFormat, ServerSettings, SettingsError};
use kauri_core::{
    config::{NodeConfig, PeerConfig},
    ids::NodeId,
};
use slog::Level;

const FILE: &str = r#"
node = 2
data_dir = "/var/lib/kauri"

[[nodes]]
id = 1
address = "one:9192"

[[nodes]]
id = 2
address = "two:9192"

[[nodes]]
id = 3
address = "three:9192"
voter = false
"#;

/// Settings from a file, variables and flags.
fn settings(file: &str, variables: &[(&str, &str)], flags: &[(Key, &str)]) -> Result<ServerSettings, SettingsError> {
    let file = Layer::from_toml(Path::new("kauri.toml"), file)?;
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let environment = Layer::from_environment(variables)?;
    let flags = flags.iter().fold(Layer::default(), |layer, (key, value)| layer.with_flag(*key, Some((*value).into())));
    ServerSettings::new([file, environment, flags], 7)
}

fn peer(node: i32, address: &str, voter: bool) -> PeerConfig {
    PeerConfig { node: NodeId(node), address: address.to_owned(), voter }
}

#[test]
fn a_short_file_and_its_defaults() {
    let peers = vec![peer(1, "one:9192", true), peer(2, "two:9192", true), peer(3, "three:9192", false)];
    let expected = ServerSettings {
        config: NodeConfig::new(NodeId(2), peers, "127.0.0.1:9092".parse().unwrap(), 7),
        data_directory: PathBuf::from("/var/lib/kauri"),
        listen: "127.0.0.1:9092".parse().unwrap(),
        peer_listen: "two:9192".parse().unwrap(),
        log_format: LogFormat::Human,
        log_level: Level::Info,
    };
    assert_eq!(settings(FILE, &[], &[]).unwrap(), expected);
}

#[test]
fn every_key_in_a_file_in_the_environment_and_as_a_flag() {
    // Each with a value that is not its default, and what it looks like in a file.
    let keys = [
        (Key::Node, "1", "1"),
        (Key::DataDirectory, "/data", "\"/data\""),
        (Key::Listen, "127.0.0.2:1", "\"127.0.0.2:1\""),
        (Key::PeerListen, "127.0.0.3:2", "\"127.0.0.3:2\""),
        (Key::Advertised, "kauri.example.com:3", "\"kauri.example.com:3\""),
        (Key::Rack, "b", "\"b\""),
        (Key::AutoCreateTopics, "false", "false"),
        (Key::DefaultPartitions, "4", "4"),
        (Key::DefaultReplicationFactor, "2", "2"),
        (Key::WalFileBytes, "134217728", "134_217_728"),
        (Key::WalBudgetBytes, "1073741824", "1_073_741_824"),
        (Key::SegmentBytes, "2097152", "0x20_0000"),
        (Key::ScrubBytesPerSecond, "1048576", "0x10_0000"),
        (Key::LogFormat, "json", "\"json\""),
        (Key::LogLevel, "debug", "\"debug\""),
    ];
    let nodes = "1=one:9192,2=two:9192,3=three:9192/learner";
    let nodes_in_file = &FILE[FILE.find("[[nodes]]").unwrap()..];
    let file = keys.map(|(key, _, value)| format!("{} = {value}\n", key.name())).concat() + nodes_in_file;
    let mut variables: Vec<_> = keys.iter().map(|(key, value, _)| (key.variable(), (*value).to_owned())).collect();
    variables.push((Key::Nodes.variable(), nodes.to_owned()));
    let variables: Vec<_> = variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let mut flags: Vec<_> = keys.iter().map(|(key, value, _)| (*key, *value)).collect();
    flags.push((Key::Nodes, nodes));
    assert_eq!(keys.len() + 1, Key::ALL.len(), "a key is missing here");

    let from_file = settings(&file, &[], &[]).unwrap();
    assert_eq!(from_file.config.segment_bytes, 2 << 20);
    assert_eq!(from_file.config.scrub_bytes_per_second, 1 << 20);
    assert_eq!(from_file.config.wal_budget_bytes, 1 << 30);
    assert_eq!(from_file.config.rack.as_deref(), Some("b"));
    assert_eq!(from_file.config.advertised.to_string(), "kauri.example.com:3");
    assert!(!from_file.config.auto_create_topics);
    assert_eq!(settings("", &variables, &[]).unwrap(), from_file);
    assert_eq!(settings("", &[], &flags).unwrap(), from_file);
}

#[test]
fn flags_override_the_environment_which_overrides_the_file() {
    let file = format!("rack = \"file\"\nlisten = \"127.0.0.1:1\"\nlog_level = \"error\"\n{FILE}");
    let variables = [("KAURI_RACK", "environment"), ("KAURI_LISTEN", "127.0.0.1:2"), ("HOME", "/root")];
    let settings = settings(&file, &variables, &[(Key::Rack, "flag"), (Key::Nodes, "2=alone:1")]).unwrap();
    assert_eq!(settings.config.rack.as_deref(), Some("flag"));
    assert_eq!(settings.listen.port, 2);
    assert_eq!(settings.log_level, Level::Error);
    assert_eq!(settings.config.peers, [peer(2, "alone:1", true)], "a list is replaced as a whole");
    assert_eq!(settings.config.default_replication_factor, 1, "there are no more nodes");
}

#[test]
fn each_mistake_is_one_sentence_that_says_where() {
    let check = |file: &str, variables: &[(&str, &str)], flags: &[(Key, &str)], sentence: &str| {
        assert_eq!(settings(file, variables, flags).unwrap_err().to_string(), sentence);
    };
    let in_file = |line: &str, sentence: &str| check(&format!("{line}{FILE}"), &[], &[], sentence);

    in_file("lisen = 1", "kauri.toml line 1: there is no key \"lisen\"; did you mean listen?");
    in_file("\n\nretention = 1", "kauri.toml line 3: there is no key \"retention\"");
    in_file("rack = 1", "kauri.toml line 1: rack must be a text, not integer");
    in_file("auto_create_topics = \"yes\"", "kauri.toml line 1: auto_create_topics must be true or false, not string");
    in_file("listen = \"9092\"", "kauri.toml line 1: listen must be HOST:PORT, and \"9092\" is not");
    in_file(
        "log_level = \"loud\"",
        "kauri.toml line 1: log_level must be error, warning, info or debug, and \"loud\" is not",
    );
    // What follows the place is said by the TOML parser.
    for (line, place) in [("node = 1", "kauri.toml line 2: "), ("rack = ", "kauri.toml line 1: ")] {
        let sentence = settings(&format!("{line}{FILE}"), &[], &[]).unwrap_err().to_string();
        assert!(sentence.starts_with(place) && sentence.lines().count() == 1, "{sentence}");
    }
    let with_node = |keys: &str, sentence: &str| check(&format!("{FILE}[[nodes]]\n{keys}"), &[], &[], sentence);
    with_node("id = 9", "kauri.toml line 17: a node needs address");
    with_node("id = 9\nadress = \"x:1\"", "kauri.toml line 19: there is no key \"adress\"; did you mean address?");
    with_node(
        "id = 9\naddress = \"x\"",
        "kauri.toml line 17: nodes must be ID=HOST:PORT or ID=HOST:PORT/learner, and \"9=x\" is not",
    );
    with_node("id = 2\naddress = \"x:1\"", "node 2 is configured twice");

    check(
        FILE,
        &[("KAURI_LISTENER", "x")],
        &[],
        "there is no environment variable KAURI_LISTENER; did you mean KAURI_LISTEN?",
    );
    check(FILE, &[("KAURI_LISTEN", "x")], &[], "KAURI_LISTEN: listen must be HOST:PORT, and \"x\" is not");
    check(
        FILE,
        &[],
        &[(Key::DefaultPartitions, "-1e9")],
        "--default-partitions: default_partitions must be a whole number that is not too large, and \"-1e9\" is not",
    );
    check(
        FILE,
        &[],
        &[(Key::DefaultPartitions, "0")],
        "the default number of partitions is 0, but must lie between 1 and 10000",
    );
    check(FILE, &[], &[(Key::Node, "7")], "the list of nodes does not name this node, 7");
    check(
        FILE,
        &[],
        &[(Key::Listen, "0.0.0.0:9092")],
        "advertised is missing: clients cannot connect to 0.0.0.0:9092, so they must be told another address, \
         with advertised in the configuration file, KAURI_ADVERTISED, or --advertised",
    );
    let advertised = |endpoint, sentence: &str| check(FILE, &[], &[(Key::Advertised, endpoint)], sentence);
    advertised("foo:0", "--advertised: clients cannot connect to foo:0, so they cannot be told that address");
    advertised("0.0.0.0:5", "--advertised: clients cannot connect to 0.0.0.0:5, so they cannot be told that address");
    check(
        FILE,
        &[],
        &[(Key::Listen, "127.0.0.1:0")],
        "advertised is missing: clients cannot connect to 127.0.0.1:0, so they must be told another address, \
         with advertised in the configuration file, KAURI_ADVERTISED, or --advertised",
    );
    let nodes = |nodes, sentence: &str| check(FILE, &[], &[(Key::Nodes, nodes)], sentence);
    nodes("1=one:9192,2=two:0", "--nodes: node 2 cannot be reached at two:0: port 0 is none");
    nodes("1=one:9192,2=two:9192,3=one:9192", "--nodes: nodes 1 and 3 cannot both be at one:9192");
    with_node("id = 9\naddress = \"one:9192\"", "kauri.toml line 17: nodes 1 and 9 cannot both be at one:9192");

    check("", &[], &[], "node is missing: set it in the configuration file, with KAURI_NODE, or with --node");
    check(
        "node = 1",
        &[],
        &[],
        "nodes is missing: set it in the configuration file, with KAURI_NODES, or with --nodes",
    );

    let error = Layer::from_file(Path::new("/nowhere/kauri.toml")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "--config: /nowhere/kauri.toml cannot be read: No such file or directory (os error 2)"
    );
}

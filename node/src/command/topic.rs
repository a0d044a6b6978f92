//! `kauri topic`: creates, lists, describes and deletes topics.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use kauri_client::admin::{ConfigResource, NewTopic, TopicDescription};
use kauri_protocol::wire::Str;
use serde_json::{Value, json};

use super::{
    cluster::{Cluster, block_on},
    failure::Failure,
    say,
};

/// Creates, lists, describes and deletes topics
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
                        kauri topic create orders --partitions 6\n  \
                        kauri topic list\n  \
                        kauri topic describe orders --json\n  \
                        kauri topic delete orders")]
pub(super) struct Topic {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Create(Create),
    List(List),
    Describe(Describe),
    Delete(Delete),
}

/// Creates a topic
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
                        kauri topic create orders\n  \
                        kauri topic create orders --partitions 6 --replication-factor 3 --config retention.ms=86400000")]
struct Create {
    name: String,
    /// How many partitions [default: what the cluster is configured for]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    partitions: Option<i32>,
    /// How many replicas of each partition [default: what the cluster is configured for]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i16).range(1..))]
    replication_factor: Option<i16>,
    /// A configuration of the topic; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = config)]
    config: Vec<(String, String)>,
    #[command(flatten)]
    cluster: Cluster,
}

/// Lists all topics
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  kauri topic list\n  kauri topic list --bootstrap one.example.com:9092 --json")]
struct List {
    /// Print a JSON array
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    cluster: Cluster,
}

/// Shows the partitions and the configuration of topics
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  kauri topic describe orders\n  kauri topic describe orders payments --json")]
struct Describe {
    #[arg(required = true)]
    names: Vec<String>,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    cluster: Cluster,
}

/// Deletes topics and all their records
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  kauri topic delete orders\n  kauri topic delete orders payments")]
struct Delete {
    #[arg(required = true)]
    names: Vec<String>,
    #[command(flatten)]
    cluster: Cluster,
}

impl Topic {
    pub(super) fn run(self) -> Result<(), Failure> {
        block_on(async {
            match self.action {
                Action::Create(create) => create.run().await,
                Action::List(list) => list.run().await,
                Action::Describe(describe) => describe.run().await,
                Action::Delete(delete) => delete.run().await,
            }
        })
    }
}

impl Create {
    async fn run(self) -> Result<(), Failure> {
        let failure = |error| Failure::Topic { action: "created", topic: self.name.clone(), error };
        let topic = NewTopic {
            name: self.name.clone(),
            partitions: self.partitions,
            replication_factor: self.replication_factor,
            assignments: BTreeMap::new(),
            configs: self.config.into_iter().collect(),
        };
        let mut created = self.cluster.admin().create_topics([topic], false).await.map_err(failure)?;
        match created.remove(self.name.as_str()) {
            Some(result) => result.map(drop).map_err(failure),
            None => Err(Failure::NoTopic(self.name)),
        }
    }
}

impl List {
    async fn run(self) -> Result<(), Failure> {
        let topics = self.cluster.admin().list_topics().await.map_err(Failure::Cluster)?;
        let topics = topics.into_iter().filter_map(|(name, topic)| Some((name, topic.ok()?)));
        let topics = topics.filter(|(_, topic)| !topic.is_internal);
        let text = if self.json {
            let topics: Vec<Value> = topics.map(|(_, topic)| json_of(&topic, None)).collect();
            format!("{:#}\n", Value::from(topics))
        } else {
            topics.map(|(name, topic)| format!("{name}  {}\n", count(topic.partitions.len(), "partition"))).collect()
        };
        say(&text)
    }
}

impl Describe {
    async fn run(self) -> Result<(), Failure> {
        let admin = self.cluster.admin();
        let mut text = String::new();
        let mut objects = Vec::new();
        for name in &self.names {
            let topic = self.cluster.topic(name).await?;
            let failure = |error| Failure::Topic { action: "described", topic: name.clone(), error };
            let configs = admin.describe_configs(ConfigResource::Topic(name.clone())).await.map_err(failure)?;
            let chosen = configs.into_iter().filter(|(_, entry)| !entry.is_default);
            let chosen: BTreeMap<Str, Str> = chosen.filter_map(|(name, entry)| Some((name, entry.value?))).collect();
            if self.json {
                objects.push(json_of(&topic, Some(&chosen)));
            } else {
                text.push_str(&text_of(&topic, &chosen));
            }
        }
        say(&if self.json { format!("{:#}\n", Value::from(objects)) } else { text })
    }
}

impl Delete {
    async fn run(self) -> Result<(), Failure> {
        let names = self.names.iter().map(String::as_str);
        let results = self.cluster.admin().delete_topics(names).await.map_err(Failure::Cluster)?;
        for (name, result) in results {
            result.map_err(|error| Failure::Topic { action: "deleted", topic: name.to_string(), error })?;
        }
        Ok(())
    }
}

fn config(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("\"{text}\" is not NAME=VALUE"))?;
    Ok((name.to_owned(), value.to_owned()))
}

fn text_of(topic: &TopicDescription, configs: &BTreeMap<Str, Str>) -> String {
    let mut text = format!("{}  id {}  {}\n", topic.name, topic.id, count(topic.partitions.len(), "partition"));
    for (name, value) in configs {
        text.push_str(&format!("  {name} = {value}\n"));
    }
    for (index, partition) in &topic.partitions {
        let leader = partition.leader.map_or_else(|| "none".to_owned(), |leader| leader.to_string());
        text.push_str(&format!(
            "  partition {index}  leader {leader}  epoch {}  replicas {}  in sync {}\n",
            partition.leader_epoch,
            joined(&partition.replicas),
            joined(&partition.in_sync),
        ));
    }
    text
}

fn json_of(topic: &TopicDescription, configs: Option<&BTreeMap<Str, Str>>) -> Value {
    let partitions: Vec<Value> = topic
        .partitions
        .iter()
        .map(|(index, partition)| {
            json!({
                "partition": index,
                "leader": partition.leader,
                "leader_epoch": partition.leader_epoch,
                "replicas": partition.replicas,
                "in_sync": partition.in_sync,
            })
        })
        .collect();
    let mut object = json!({ "name": &*topic.name, "id": topic.id.to_string(), "partitions": partitions });
    if let Some(configs) = configs {
        object["configs"] = configs.iter().map(|(name, value)| (name.to_string(), Value::from(&**value))).collect();
    }
    object
}

fn joined(nodes: &[i32]) -> String {
    nodes.iter().map(i32::to_string).collect::<Vec<_>>().join(",")
}

fn count(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

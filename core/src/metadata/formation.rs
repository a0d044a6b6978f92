//! How a cluster comes into being, once.
//!
//! The configuration names the nodes and which of them vote in the metadata group. The voter with the lowest id asks
//! every configured node whether it is empty and configured alike; when all said so, and only then, it mints the
//! cluster id and the record that names every node's data directory. The record is durable before it is sent, and
//! durable at each receiver before that takes part.
//!
//! Invariant: two cluster ids are never minted for the same data directories. An answer "empty" is a promise to one
//! directory of the asking node: its giver accepts no record that was minted by another one, so that a record still
//! under way from a disk that was wiped meanwhile is not taken. A directory that belongs to a cluster never leaves it.
//!
//! A node whose former directory the record names, but not the present one, was wiped: it belongs to that cluster all the
//! same, forms no other, and has to be taken in by the metadata group.
//!
//! Does not know links or files: it is told what arrived and what became durable.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;

use super::creation::{GroupCreation, GroupMember};
use crate::{
    codec::{self, CodecError, Decoder, Encode},
    config::NodeConfig,
    ids::{ClusterId, DirectoryId, GroupId, NodeId, ReplicaId, Uuid},
    log::identity::Identity,
    metadata::TopicConfigs,
    rng::Stream,
    time::{Monotonic, Now},
};

/// Questions are repeated in this interval until all nodes have answered.
const ASK_INTERVAL: Duration = Duration::from_millis(200);

/// What a cluster was formed with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormationRecord {
    pub cluster: ClusterId,
    /// Every configured node, ordered by node id.
    pub members: Vec<GroupMember>,
}

/// What nodes say to each other about it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Message {
    /// Are you empty, and configured like this? `directory` is the asking node's.
    Ask { configuration: u64, directory: DirectoryId },
    /// Yes; `directory` is the answering node's, `to` the asking node's.
    Empty { configuration: u64, directory: DirectoryId, to: DirectoryId },
    /// The node with data directory `by` belongs to this cluster.
    Formed { by: DirectoryId, record: FormationRecord },
}

/// What shall be done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Make this durable, then call [`Formation::durable`].
    MakeDurable(FormationRecord),
    Send {
        to: NodeId,
        bytes: Bytes,
    },
    /// This node has no place in the cluster: the sentence says why and what to do.
    Refuse(String),
    /// Something an operator should know while the cluster does not form.
    Warn(String),
}

/// See the module head.
#[derive(Debug)]
pub struct Formation {
    own: NodeId,
    directory: DirectoryId,
    configuration: u64,
    /// Configured nodes, and whether they vote.
    nodes: BTreeMap<NodeId, bool>,
    state: State,
    mint: Stream,
    steps: Vec<Step>,
}

#[derive(Debug)]
enum State {
    Empty {
        /// Directories that answered, on the node that asks.
        answers: BTreeMap<NodeId, DirectoryId>,
        ask_at: Monotonic,
        /// The directory of the minting node that this node promised itself to.
        promised: Option<DirectoryId>,
    },
    /// Waits for the record to be durable.
    Forming(FormationRecord),
    Formed(FormationRecord),
}

const VERSION: u8 = 1;

/// What nodes must have in common to form a cluster: which nodes there are, and which vote. Not their addresses, which
/// may change.
pub fn configuration_hash(config: &NodeConfig) -> u64 {
    let nodes: BTreeMap<NodeId, bool> = config.peers.iter().map(|peer| (peer.node, peer.voter)).collect();
    let mut bytes = Vec::new();
    for (node, voter) in nodes {
        bytes.put_i32(node.0);
        bytes.put_bool(voter);
    }
    codec::hash(&bytes)
}

impl FormationRecord {
    pub fn encode(&self) -> Bytes {
        let mut out = vec![VERSION];
        self.put(&mut out);
        Bytes::from(out)
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut from = Decoder::new(bytes);
        from.version("the record of a formation", VERSION)?;
        let record = Self::take(&mut from)?;
        from.finish()?;
        Ok(record)
    }

    fn put(&self, out: &mut Vec<u8>) {
        out.put_uuid(self.cluster.0);
        out.put_counted(&self.creation().encode());
    }

    fn take(from: &mut Decoder<'_>) -> Result<Self, CodecError> {
        let cluster = ClusterId(from.uuid()?);
        let creation = GroupCreation::decode(from.counted()?)?;
        if creation.group != GroupId::METADATA || creation.topic.is_some() {
            return Err(CodecError::Value("the record of a formation"));
        }
        Ok(Self { cluster, members: creation.members })
    }

    /// The creation record of the metadata group.
    pub fn creation(&self) -> GroupCreation {
        GroupCreation {
            group: GroupId::METADATA,
            topic: None,
            members: self.members.clone(),
            configs: TopicConfigs::default(),
        }
    }

    fn member(&self, node: NodeId) -> Option<&GroupMember> {
        self.members.iter().find(|member| member.node == node)
    }
}

impl Message {
    fn encode(&self) -> Bytes {
        let mut out = vec![VERSION];
        match self {
            Self::Ask { configuration, directory } => {
                out.put_u8(1);
                out.put_u64(*configuration);
                out.put_uuid(directory.0);
            }
            Self::Empty { configuration, directory, to } => {
                out.put_u8(2);
                out.put_u64(*configuration);
                out.put_uuid(directory.0);
                out.put_uuid(to.0);
            }
            Self::Formed { by, record } => {
                out.put_u8(3);
                out.put_uuid(by.0);
                record.put(&mut out);
            }
        }
        Bytes::from(out)
    }

    fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut from = Decoder::new(bytes);
        from.version("a message about formation", VERSION)?;
        let message = match from.u8()? {
            1 => Self::Ask { configuration: from.u64()?, directory: DirectoryId(from.uuid()?) },
            2 => Self::Empty {
                configuration: from.u64()?,
                directory: DirectoryId(from.uuid()?),
                to: DirectoryId(from.uuid()?),
            },
            3 => Self::Formed { by: DirectoryId(from.uuid()?), record: FormationRecord::take(&mut from)? },
            _ => return Err(CodecError::Value("a message about formation")),
        };
        from.finish()?;
        Ok(message)
    }
}

impl Formation {
    /// Starts from what this node's identity says: empty, or a member of a cluster for ever.
    ///
    /// # Errors
    ///
    /// A formation that cannot be read: it was durable, so this is damage or a newer build's.
    pub fn new(now: Now, config: &NodeConfig, identity: &Identity, mint: Stream) -> Result<Self, CodecError> {
        let state = match identity.cluster {
            None => State::Empty { answers: BTreeMap::new(), ask_at: now.monotonic, promised: None },
            Some(_) => State::Formed(FormationRecord::decode(&identity.formation)?),
        };
        Ok(Self {
            own: config.node,
            directory: identity.directory,
            configuration: configuration_hash(config),
            nodes: config.peers.iter().map(|peer| (peer.node, peer.voter)).collect(),
            state,
            mint,
            steps: Vec::new(),
        })
    }

    /// The record, once it is durable on this node.
    pub fn record(&self) -> Option<&FormationRecord> {
        match &self.state {
            State::Formed(record) => Some(record),
            State::Empty { .. } | State::Forming(_) => None,
        }
    }

    /// The cluster was formed with another data directory of this node than the present one.
    pub fn is_replacement(&self) -> bool {
        let member = self.record().and_then(|record| record.member(self.own));
        member.is_some_and(|member| member.directory != self.directory)
    }

    fn formed(&self, record: &FormationRecord) -> Bytes {
        Message::Formed { by: self.directory, record: record.clone() }.encode()
    }

    /// The node that mints: the voter with the lowest id.
    fn minter(&self) -> NodeId {
        let voters = self.nodes.iter().filter(|(_, voter)| **voter);
        *voters.map(|(node, _)| node).next().expect("a configuration that was checked names a voter")
    }

    /// A peer introduced itself.
    pub fn hello(&mut self, from: NodeId, configuration: u64, empty: bool) {
        match &self.state {
            State::Formed(record) if empty => {
                let bytes = self.formed(record);
                self.steps.push(Step::Send { to: from, bytes });
            }
            State::Empty { .. } if empty && configuration != self.configuration => {
                self.steps.push(Step::Warn(format!(
                    "node {from} is configured with other nodes or voters than this one: no cluster forms until both agree"
                )));
            }
            State::Empty { .. } | State::Forming(_) | State::Formed(_) => {}
        }
    }

    /// A peer sent bytes about formation.
    pub fn message(&mut self, from: NodeId, bytes: &[u8]) -> Result<(), CodecError> {
        let message = Message::decode(bytes)?;
        let minter = self.minter();
        let own = self.directory;
        match (message, &mut self.state) {
            (Message::Ask { .. }, State::Formed(record)) => {
                let bytes = Message::Formed { by: own, record: record.clone() }.encode();
                self.steps.push(Step::Send { to: from, bytes });
            }
            (Message::Ask { configuration, directory }, State::Empty { promised, .. }) => {
                if configuration == self.configuration && from == minter {
                    *promised = Some(directory);
                    let answer = Message::Empty { configuration, directory: own, to: directory };
                    self.steps.push(Step::Send { to: from, bytes: answer.encode() });
                }
            }
            (Message::Empty { configuration, directory, to }, State::Empty { answers, .. }) => {
                if configuration == self.configuration && to == self.directory && self.nodes.contains_key(&from) {
                    answers.insert(from, directory);
                    self.mint_if_complete();
                }
            }
            (Message::Formed { by, record }, State::Empty { promised, .. }) => {
                let promised = *promised;
                self.join(record, (from, by), promised, minter);
            }
            (Message::Ask { .. }, State::Forming(_))
            | (Message::Empty { .. } | Message::Formed { .. }, State::Forming(_) | State::Formed(_)) => {}
        }
        Ok(())
    }

    /// A record arrived at this empty node, told by another one that belongs to that cluster.
    fn join(
        &mut self,
        record: FormationRecord,
        (from, by): (NodeId, DirectoryId),
        promised: Option<DirectoryId>,
        minter: NodeId,
    ) {
        let Some(member) = record.member(self.own) else {
            self.steps.push(Step::Refuse(format!(
                "the cluster {} was formed without node {}; nodes that join later are not supported yet",
                record.cluster, self.own
            )));
            return;
        };
        // The record's minter was given the answer of this directory, or of one this node had before; but an older record
        // of a minter whose disk was wiped since must not win over the promise given to its successor. The successor itself
        // releases from it: it forms nothing once it belongs to a cluster. And whoever was wiped as well belongs to a
        // cluster that another node has, which promises the successor nothing.
        let minted_by = record.member(minter).map(|member| member.directory);
        let was_wiped = member.directory != self.directory;
        let is_released = if from == minter { promised == Some(by) } else { was_wiped };
        if promised.is_some() && minted_by != promised && !is_released {
            return;
        }
        self.form(record);
    }

    fn mint_if_complete(&mut self) {
        let State::Empty { answers, .. } = &self.state else { return };
        let directory_of =
            |node: NodeId| if node == self.own { Some(self.directory) } else { answers.get(&node).copied() };
        let members: Option<Vec<GroupMember>> = self
            .nodes
            .iter()
            .zip(1..)
            .map(|((node, voter), replica)| {
                Some(GroupMember {
                    replica: ReplicaId(replica),
                    node: *node,
                    directory: directory_of(*node)?,
                    voter: *voter,
                })
            })
            .collect();
        if let Some(members) = members {
            let directories: BTreeSet<DirectoryId> = members.iter().map(|member| member.directory).collect();
            if directories.len() < members.len() {
                self.steps.push(Step::Warn(
                    "two nodes have the same data directory id, because one directory was copied: no cluster forms until \
                     each node has a directory of its own"
                        .to_owned(),
                ));
                return;
            }
            let cluster = ClusterId(Uuid(self.mint.bytes16()));
            self.form(FormationRecord { cluster, members });
        }
    }

    fn form(&mut self, record: FormationRecord) {
        self.state = State::Forming(record.clone());
        self.steps.push(Step::MakeDurable(record));
    }

    /// The record given by [`Step::MakeDurable`] is durable.
    pub fn durable(&mut self) {
        let State::Forming(record) = &self.state else { unreachable!("only a record under way becomes durable") };
        let record = record.clone();
        let bytes = self.formed(&record);
        for node in self.nodes.keys().filter(|node| **node != self.own) {
            self.steps.push(Step::Send { to: *node, bytes: bytes.clone() });
        }
        self.state = State::Formed(record);
    }

    pub fn poll(&mut self, now: Now) -> Vec<Step> {
        // Every empty node asks, because one that missed the record gets it in answer; only the minter is answered by
        // empty nodes.
        let mints = self.minter() == self.own;
        if let State::Empty { answers, ask_at, .. } = &mut self.state
            && *ask_at <= now.monotonic
        {
            *ask_at = now.monotonic + ASK_INTERVAL;
            // Answers of a round that did not complete may be outdated: everybody is asked again.
            answers.clear();
            let ask = Message::Ask { configuration: self.configuration, directory: self.directory }.encode();
            for node in self.nodes.keys().filter(|node| **node != self.own) {
                self.steps.push(Step::Send { to: *node, bytes: ask.clone() });
            }
            if mints {
                self.mint_if_complete();
            }
        }
        std::mem::take(&mut self.steps)
    }

    pub fn next_deadline(&self) -> Option<Monotonic> {
        match &self.state {
            State::Empty { ask_at, .. } => Some(*ask_at),
            State::Forming(_) | State::Formed(_) => None,
        }
    }
}

#[cfg(test)]
#[path = "formation_tests.rs"]
mod tests;

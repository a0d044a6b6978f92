//! The whole surface between the core and the world.
//!
//! A driver (the node's threads, or the simulator) hands [`Input`]s to [`crate::shard::Shard::handle`], as many as it
//! has, then calls [`crate::shard::Shard::poll`] once and carries out every effect in [`Effects`]. Drivers decide
//! nothing: whatever a node can do to the world is a field of [`Effects`].
//!
//! Order is kept per stream only: the bytes of one connection or link, and the operations in [`Effects::wal`]. Every
//! other dependency waits in the core for a completion, so a driver may run [`Effects::disk`] in any order.

use bytes::Bytes;

use crate::ids::{CheckpointNumber, ConnectionId, FileSequence, GroupId, LinkId, NodeId, Offset, OperationId};

/// Something happened in the world.
#[derive(Debug)]
pub enum Input {
    /// A client connected. The driver may deliver [`crate::limits::CLIENT_WINDOW_BYTES`] of frames before it needs
    /// credit (see [`Effects::client_credits`]).
    ClientConnected { connection: ConnectionId },
    /// One complete frame of a client, without its length prefix.
    ClientFrame { connection: ConnectionId, frame: Bytes },
    /// The socket took this many bytes of what was sent to the client.
    ClientWritten { connection: ConnectionId, bytes: usize },
    /// The connection is gone; nothing sent to it arrives any more.
    ClientClosed { connection: ConnectionId },

    /// A link dialled by [`PeerDial`] is established; the core sends the first frame.
    LinkUp { link: LinkId },
    /// A peer opened a link to us; it sends the first frame. The driver names it, with the top bit of the id clear.
    LinkAccepted { link: LinkId },
    /// One complete frame of a peer, without its length prefix.
    LinkFrame { link: LinkId, frame: Bytes },
    /// The socket took this many bytes of what was sent on the link.
    LinkWritten { link: LinkId, bytes: usize },
    /// A link is gone, or a dial failed.
    LinkDown { link: LinkId },

    /// A disk operation ended.
    Disk { operation: OperationId, result: Result<DiskOutput, DiskError> },

    /// Hand over leaderships, then ask for [`Exit::Stopped`].
    Shutdown,
}

/// What the core wants done. One value is reused for every turn; the driver empties it.
#[derive(Debug, Default)]
pub struct Effects {
    /// Operations on WAL files: carried out strictly in order, one after the other.
    pub wal: Vec<DiskOperation>,
    /// All other disk operations: any order, any concurrency.
    pub disk: Vec<DiskOperation>,
    pub client_sends: Vec<ClientSend>,
    /// Bytes of frames the driver may deliver in addition for a connection.
    pub client_credits: Vec<(ConnectionId, usize)>,
    /// Connections to close once everything sent to them so far was written.
    pub client_closes: Vec<ConnectionId>,
    /// Connections to close at once: what was sent to them and not written is dropped.
    pub client_aborts: Vec<ConnectionId>,
    pub peer_dials: Vec<PeerDial>,
    pub peer_sends: Vec<PeerSend>,
    /// Links to close at once.
    pub peer_closes: Vec<LinkId>,
    /// What an operator, a test or `kauri dev` waits for. Never needed for correctness.
    pub notices: Vec<Notice>,
    /// The process must end. Nothing else in this value needs to be carried out.
    pub exit: Option<Exit>,
}

impl Effects {
    pub fn is_empty(&self) -> bool {
        self.wal.is_empty()
            && self.disk.is_empty()
            && self.client_sends.is_empty()
            && self.client_credits.is_empty()
            && self.client_closes.is_empty()
            && self.client_aborts.is_empty()
            && self.peer_dials.is_empty()
            && self.peer_sends.is_empty()
            && self.peer_closes.is_empty()
            && self.notices.is_empty()
            && self.exit.is_none()
    }
}

/// Bytes for a client: whole responses, length prefixes included, as slices to be written in order.
#[derive(Debug)]
pub struct ClientSend {
    pub connection: ConnectionId,
    pub slices: Vec<Bytes>,
}

/// Bytes for a peer: whole frames, length prefixes included, as slices to be written in order.
#[derive(Debug)]
pub struct PeerSend {
    pub link: LinkId,
    pub slices: Vec<Bytes>,
}

/// One attempt to connect; answered by `LinkUp` or `LinkDown`. The core repeats it when it wants to. The core names
/// the link, with the top bit of the id set.
#[derive(Debug)]
pub struct PeerDial {
    pub link: LinkId,
    pub node: NodeId,
    /// `host:port`, as configured or registered.
    pub address: String,
}

#[derive(Clone, Debug)]
pub struct DiskOperation {
    pub id: OperationId,
    pub action: DiskAction,
}

/// Hands out the ids of disk operations. A shard owns one and lends it to whoever asks the disk for something.
#[derive(Debug, Default)]
pub struct OperationIds {
    last: u64,
}

impl OperationIds {
    /// An id that was not given out before.
    pub fn next_id(&mut self) -> OperationId {
        self.last += 1;
        OperationId(self.last)
    }
}

/// A disk operation. Files and directories are named relative to the data directory (see [`FileName::path`]).
#[derive(Clone, Debug)]
pub enum DiskAction {
    /// Create a file of `size` zero bytes, really written, not sparse; an existing file of that name is overwritten.
    /// Not durable before a `Sync` of the file and a `SyncDirectory` of its directory.
    Create { file: FileName, size: u64 },
    /// Write all slices one after the other from `offset` on, extending the file if needed. Creates the file if it
    /// does not exist.
    Write { file: FileName, offset: u64, slices: Vec<Bytes> },
    /// fdatasync: every write to the file that completed before this operation was issued is durable, and its size.
    Sync { file: FileName },
    /// fsync of the directory: creations, renames and removals in it that completed before are durable.
    SyncDirectory { directory: Directory },
    /// Read up to `length` bytes; fewer only at the end of the file.
    Read { file: FileName, offset: u64, length: usize },
    /// Cut or extend the file to `length` bytes.
    Truncate { file: FileName, length: u64 },
    /// Atomically give a file another name, replacing what has it.
    Rename { from: FileName, to: FileName },
    /// Remove a file; not an error if it does not exist.
    Remove { file: FileName },
    /// The files of a directory with their sizes, sorted by name; an empty list if it does not exist. Names the core
    /// does not know are left out.
    List { directory: Directory },
}

/// What a successful operation returns.
#[derive(Clone, Debug)]
pub enum DiskOutput {
    Done,
    Read(Bytes),
    List(Vec<(FileName, u64)>),
}

/// Why an operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiskError {
    #[error("the file does not exist")]
    NotFound,
    #[error("the disk is full")]
    Full,
    #[error("the device reported an error (errno {errno})")]
    Io { errno: i32 },
}

/// A directory below the data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Directory {
    /// The data directory itself: identity files.
    Root,
    /// `wal/`
    Wal,
    /// `checkpoints/`
    Checkpoints,
    /// `images/`: large states of state machines.
    Images,
    /// `groups/`: one directory per group that has segments.
    Groups,
    /// `groups/<group>/`
    Group(GroupId),
}

/// A file below the data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileName {
    /// `identity`: cluster id, node id, directory id, boot number.
    Identity,
    /// `identity.new`: its next version until renamed.
    IdentityNew,
    /// `wal/<sequence>.wal`
    Wal(FileSequence),
    /// `checkpoints/<number>.checkpoint`
    Checkpoint(CheckpointNumber),
    /// `images/<group>-<checkpoint>.image`: a large state of the group's machine, written for that checkpoint and named
    /// by later ones as long as it does not change.
    Image { group: GroupId, checkpoint: CheckpointNumber },
    /// `groups/<group>/<base offset>.<kind>`
    Segment { group: GroupId, base: Offset, kind: SegmentFile },
}

/// The two files of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SegmentFile {
    /// `.log`: record batches back to back, in Kafka's format.
    Log,
    /// `.crc`: a CRC-32C and an index entry for each finished chunk of raw bytes.
    Checksums,
}

impl Directory {
    /// Path relative to the data directory; empty for the root.
    pub fn path(self) -> String {
        match self {
            Self::Root => String::new(),
            Self::Wal => "wal".to_owned(),
            Self::Checkpoints => "checkpoints".to_owned(),
            Self::Images => "images".to_owned(),
            Self::Groups => "groups".to_owned(),
            Self::Group(group) => format!("groups/{group}"),
        }
    }
}

impl FileName {
    pub fn directory(self) -> Directory {
        match self {
            Self::Identity | Self::IdentityNew => Directory::Root,
            Self::Wal(_) => Directory::Wal,
            Self::Checkpoint(_) => Directory::Checkpoints,
            Self::Image { .. } => Directory::Images,
            Self::Segment { group, .. } => Directory::Group(group),
        }
    }

    /// The name within [`FileName::directory`].
    pub fn name(self) -> String {
        match self {
            Self::Identity => "identity".to_owned(),
            Self::IdentityNew => "identity.new".to_owned(),
            Self::Wal(sequence) => format!("{:016}.wal", sequence.0),
            Self::Checkpoint(number) => format!("{:016}.checkpoint", number.0),
            Self::Image { group, checkpoint } => format!("{:020}-{:016}.image", group.0, checkpoint.0),
            Self::Segment { base, kind, .. } => format!("{:020}.{}", base.0, kind.extension()),
        }
    }

    /// Path relative to the data directory.
    pub fn path(self) -> String {
        let directory = self.directory().path();
        if directory.is_empty() { self.name() } else { format!("{directory}/{}", self.name()) }
    }

    /// The file a name in a directory stands for, if it is one of ours.
    pub fn parse(directory: Directory, name: &str) -> Option<Self> {
        let (stem, extension) = name.split_once('.').unwrap_or((name, ""));
        let number = |digits: usize| (stem.len() == digits).then(|| stem.parse::<u64>().ok()).flatten();
        let file = match directory {
            Directory::Root if name == "identity" => Self::Identity,
            Directory::Root if name == "identity.new" => Self::IdentityNew,
            Directory::Root | Directory::Groups => return None,
            Directory::Wal if extension == "wal" => Self::Wal(FileSequence(number(16)?)),
            Directory::Wal => return None,
            Directory::Checkpoints if extension == "checkpoint" => Self::Checkpoint(CheckpointNumber(number(16)?)),
            Directory::Images if extension == "image" => {
                let (group, checkpoint) = stem.split_once('-')?;
                Self::Image {
                    group: GroupId(group.parse().ok()?),
                    checkpoint: CheckpointNumber(checkpoint.parse().ok()?),
                }
            }
            Directory::Checkpoints | Directory::Images => return None,
            Directory::Group(group) => Self::Segment {
                group,
                base: Offset(i64::try_from(number(20)?).ok()?),
                kind: SegmentFile::from_extension(extension)?,
            },
        };
        // Only the canonical spelling is ours.
        (file.name() == name).then_some(file)
    }
}

impl SegmentFile {
    fn extension(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Checksums => "crc",
        }
    }

    fn from_extension(extension: &str) -> Option<Self> {
        match extension {
            "log" => Some(Self::Log),
            "crc" => Some(Self::Checksums),
            _ => None,
        }
    }
}

/// Milestones for whoever watches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Recovery is over; peers and clients are served.
    Recovered,
    /// The metadata group has a leader that this node knows, and this node is registered: clients are served.
    Serving,
}

/// Why the process must end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Exit {
    /// A requested shutdown is complete.
    #[error("stopped")]
    Stopped,
    /// A write or sync failed: what is durable is unknown, so the process starts again from what it reads.
    #[error("{operation} of {file} failed: {error}; the process ends, because what is on the disk is now unknown")]
    DiskFailed { operation: &'static str, file: String, error: DiskError },
    /// What was read is not what was written.
    #[error("{file} is damaged at byte {offset}: {what}; nothing was changed")]
    Damaged { file: String, offset: u64, what: String },
    /// The data directory belongs to another node or cluster, or is unknown for this node id.
    #[error("{0}")]
    Refused(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_name_is_found_again() {
        let group = GroupId(42);
        let files = [
            FileName::Identity,
            FileName::IdentityNew,
            FileName::Wal(FileSequence(17)),
            FileName::Checkpoint(CheckpointNumber(18)),
            FileName::Image { group, checkpoint: CheckpointNumber(19) },
            FileName::Segment { group, base: Offset(1234), kind: SegmentFile::Log },
            FileName::Segment { group, base: Offset(0), kind: SegmentFile::Checksums },
            FileName::Segment { group, base: Offset(i64::MAX), kind: SegmentFile::Checksums },
        ];
        for file in files {
            assert_eq!(FileName::parse(file.directory(), &file.name()), Some(file));
        }
        assert_eq!(FileName::parse(Directory::Wal, "1.wal"), None, "only the canonical spelling is ours");
        assert_eq!(FileName::parse(Directory::Wal, "lost+found"), None);
    }
}

//! What nodes say and do about each other's data directories.
//!
//! A node with a new directory for a registered node id asks the metadata group to be taken in, and starts its replica of
//! that group empty, under the id that the answer names. Nodes tell each other where the replicas of the metadata group
//! are by the newest metadata they know, because a node that is behind could not tell a new one from a stranger otherwise.
//! A node that hears from a directory which was replaced tells it so.
//!
//! Invariant: a directory that was replaced does not run: it ends when its own metadata, or a node that saw newer ones,
//! say so.

use bytes::Bytes;
use slog::{info, warn};

use super::{Broker, places::Places};
use crate::{
    codec::{CodecError, Decoder, Encode},
    ids::{DirectoryId, GroupId, ImageVersion, NodeId, ReplicaId},
    io::Exit,
    metadata::GroupMember,
    replication::peer::ControlKind,
    time::Now,
};

/// Control messages of this module.
pub(super) const MEMBERS: ControlKind = ControlKind(3);
pub(super) const REPLACED: ControlKind = ControlKind(4);

const VERSION: u8 = 1;

fn encode_members(version: ImageVersion, members: &[GroupMember]) -> Bytes {
    let mut out = vec![VERSION];
    out.put_u64(version.0);
    out.put_count(members.len());
    for member in members {
        member.encode(&mut out);
    }
    out.into()
}

fn decode_members(bytes: &[u8]) -> Result<(ImageVersion, Vec<GroupMember>), CodecError> {
    let mut from = Decoder::new(bytes);
    from.version("the members of the metadata group", VERSION)?;
    let version = ImageVersion(from.u64()?);
    let members = from.list(GroupMember::BYTES, GroupMember::decode)?;
    from.finish()?;
    Ok((version, members))
}

fn encode_replaced(directory: DirectoryId) -> Bytes {
    let mut out = vec![VERSION];
    out.put_uuid(directory.0);
    out.into()
}

fn decode_replaced(bytes: &[u8]) -> Result<DirectoryId, CodecError> {
    let mut from = Decoder::new(bytes);
    from.version("a message about a directory", VERSION)?;
    let directory = DirectoryId(from.uuid()?);
    from.finish()?;
    Ok(directory)
}

impl Broker {
    /// The nodes of the cluster, or what is known of them, changed.
    pub(super) fn follow_nodes(&mut self, now: Now) {
        let own = self.config.node;
        if self.image.node(own).is_some_and(|node| node.replaced.contains(&self.identity.directory)) {
            self.end_replaced();
            return;
        }
        let others = self.image.nodes().filter(|node| node.id != own);
        self.peers.set_directories(
            now,
            others.map(|node| (node.id, node.directory, node.replaced.iter().copied().collect())),
        );
        let has_moved = self.image.nodes().any(|node| !node.replaced.is_empty());
        if let Some(replica) = self.replicas.get_mut(&GroupId::METADATA) {
            replica.has_moved = has_moved;
        }
        if self.image.cluster().is_some() {
            self.learn_metadata_members(self.image.version(), self.image.metadata_members());
        }
        if has_moved {
            let others: Vec<NodeId> = self.other_nodes().collect();
            for node in others {
                self.tell_metadata_members(now, node);
            }
        }
    }

    /// Where the replicas of the metadata group are by metadata of this version.
    fn learn_metadata_members(&mut self, version: ImageVersion, members: Vec<GroupMember>) {
        if version < self.metadata_members.0 {
            return;
        }
        self.metadata_members = (version, members);
        if let Some(replica) = self.replicas.get_mut(&GroupId::METADATA) {
            replica.place(Places::of_members(&self.metadata_members.1), replica.has_moved);
        }
    }

    pub(super) fn tell_metadata_members(&mut self, now: Now, node: NodeId) {
        let (version, members) = &self.metadata_members;
        if !members.is_empty() {
            let bytes = encode_members(*version, members);
            // If it does not get there, the next connection brings it.
            let _ = self.peers.send_control(now, node, MEMBERS, bytes);
        }
    }

    pub(super) fn heard_metadata_members(&mut self, from: NodeId, bytes: &[u8]) {
        match decode_members(bytes) {
            Ok((version, members)) if version > self.metadata_members.0 => {
                self.learn_metadata_members(version, members);
            }
            Ok(_) => {}
            Err(error) => {
                warn!(self.logger, "the members of the metadata group cannot be read"; "from" => from.0,
                    "reason" => %error);
            }
        }
    }

    /// The metadata group has this node with its directory, as of metadata of this version.
    pub(super) fn taken_in(&mut self, now: Now, version: ImageVersion, own: ReplicaId, members: Vec<GroupMember>) {
        let directory = self.identity.directory;
        // Whoever had this node id before may have asked as well, and its replica is not ours.
        let is_own = |member: &GroupMember| (member.replica, member.directory) == (own, directory);
        if self.replicas.contains_key(&GroupId::METADATA)
            || self.destroyed.contains(&(GroupId::METADATA, own))
            || !members.iter().any(is_own)
        {
            return;
        }
        let Some(creation) = self.formation.record().map(|record| record.creation()) else { return };
        info!(self.logger, "this directory takes the place of one that is gone; its replicas are filled by the others";
            "metadata_replica" => own.0);
        self.create_group(now, creation, own);
        self.learn_metadata_members(version, members);
        if let Some(replica) = self.replicas.get_mut(&GroupId::METADATA) {
            replica.place(Places::of_members(&self.metadata_members.1), true);
        }
    }

    /// A node speaks from a directory that was replaced: it cannot hear that from anybody else.
    pub(super) fn heard_replaced_directory(&mut self, now: Now, from: NodeId, directory: DirectoryId) {
        // Told again at its next attempt.
        let _ = self.peers.send_control(now, from, REPLACED, encode_replaced(directory));
    }

    pub(super) fn told_replaced(&mut self, from: NodeId, bytes: &[u8]) {
        match decode_replaced(bytes) {
            Ok(directory) if directory == self.identity.directory => self.end_replaced(),
            // Said to whoever had this node id before.
            Ok(_) => {}
            Err(error) => {
                warn!(self.logger, "a message about a directory cannot be read"; "from" => from.0, "reason" => %error);
            }
        }
    }

    fn end_replaced(&mut self) {
        self.exit.get_or_insert(Exit::Refused(format!(
            "data directory {} of node {} was replaced by another one, which has its place in the cluster for good; \
             remove this directory, or start the node with the one that replaced it",
            self.identity.directory, self.config.node
        )));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Uuid;

    /// Nodes of other builds read these bytes: a change of the format needs a new version.
    #[test]
    fn golden_bytes() {
        let directory = DirectoryId(Uuid([7; 16]));
        let member = GroupMember { replica: ReplicaId(9), node: NodeId(3), directory, voter: true };
        let golden = [
            &[1][..],
            &[0, 0, 0, 0, 0, 0, 0, 5],
            &[0, 0, 0, 1],
            &[0, 0, 0, 0, 0, 0, 0, 9],
            &[0, 0, 0, 3],
            &[7; 16],
            &[1],
        ]
        .concat();
        assert_eq!(encode_members(ImageVersion(5), &[member]), golden);
        assert_eq!(decode_members(&golden), Ok((ImageVersion(5), vec![member])));
        let replaced = [&[1][..], &[7; 16]].concat();
        assert_eq!(encode_replaced(directory), replaced);
        assert_eq!(decode_replaced(&replaced), Ok(directory));
        for end in 0..golden.len() {
            assert!(decode_members(&golden[..end]).is_err());
            assert!(decode_replaced(&golden[..end.min(replaced.len() - 1)]).is_err());
        }
    }
}

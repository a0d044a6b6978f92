//! A member of the cluster as the metadata group knows it.

use crate::{
    codec::{CodecError, Decoder, Encode},
    config::Endpoint,
    ids::{BootNumber, DirectoryId, NodeId, ReplicaId},
    limits::NODE_TEXT_BYTES_MAX,
};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub id: NodeId,
    /// Votes in the metadata group; all others are its learners.
    pub voter: bool,
    /// The data directory this node has: the one it joined with, or the last one that took its place.
    pub directory: DirectoryId,
    /// Directories it had before, in the order in which they were replaced. None of them ever comes back.
    pub replaced: Vec<DirectoryId>,
    /// Its replica of the metadata group.
    pub metadata_replica: ReplicaId,
    /// What the node said of itself at its last start; `None` until it registered for the first time.
    pub registration: Option<Registration>,
    /// Whether the metadata group believes that the node runs.
    pub up: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    pub boot: BootNumber,
    pub advertised: Endpoint,
    pub rack: Option<String>,
}

impl Registration {
    pub fn is_legal(&self) -> bool {
        let legal = |text: &str| !text.is_empty() && text.len() <= NODE_TEXT_BYTES_MAX;
        legal(&self.advertised.host) && self.rack.as_deref().is_none_or(legal)
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u64(self.boot.0);
        out.put_text(&self.advertised.host);
        out.put_u16(self.advertised.port);
        // A rack is never empty, so the empty text is free to mean none.
        out.put_text(self.rack.as_deref().unwrap_or_default());
    }

    pub fn decode(from: &mut Decoder<'_>) -> Result<Self, CodecError> {
        let boot = BootNumber(from.u64()?);
        let advertised = Endpoint { host: from.text()?.to_owned(), port: from.u16()? };
        let rack = from.text()?;
        Ok(Self { boot, advertised, rack: (!rack.is_empty()).then(|| rack.to_owned()) })
    }
}

impl Node {
    /// Up and registered: it can be named to clients and take replicas.
    pub fn is_live(&self) -> bool {
        self.up && self.registration.is_some()
    }

    pub fn rack(&self) -> Option<&str> {
        self.registration.as_ref()?.rack.as_deref()
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_i32(self.id.0);
        out.put_bool(self.voter);
        out.put_uuid(self.directory.0);
        out.put_count(self.replaced.len());
        for directory in &self.replaced {
            out.put_uuid(directory.0);
        }
        out.put_u64(self.metadata_replica.0);
        out.put_bool(self.up);
        out.put_bool(self.registration.is_some());
        if let Some(registration) = &self.registration {
            registration.encode(out);
        }
    }

    pub fn decode(from: &mut Decoder<'_>) -> Result<Self, CodecError> {
        let id = NodeId(from.i32()?);
        let voter = from.bool()?;
        let directory = DirectoryId(from.uuid()?);
        let replaced = from.list(16, |from| Ok(DirectoryId(from.uuid()?)))?;
        let metadata_replica = ReplicaId(from.u64()?);
        let up = from.bool()?;
        let registration = if from.bool()? { Some(Registration::decode(from)?) } else { None };
        Ok(Self { id, voter, directory, replaced, metadata_replica, registration, up })
    }
}

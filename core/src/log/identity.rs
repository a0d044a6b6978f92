//! Who a data directory belongs to: the file `identity`.
//!
//! Owns the ids of this directory, the number of its starts, and what is known about the cluster's formation.
//! Invariants: the number of a start is durable before anything else happens in it; the file is replaced as a whole
//! (write beside it, sync, rename, sync the directory), so a crash leaves the old or the new one; a damaged file, one
//! of another node, or data without a file is refused and never overwritten. The file beside it, `identity.new`, is made
//! ahead of the change that needs it, in the room that the last one left, so that a node starts on a full disk, too.
//! Does not decide when a cluster forms.

use bytes::{Buf, BufMut, Bytes};

use super::wal::WalKey;
use crate::{
    ids::{BootNumber, ClusterId, DirectoryId, NodeId, OperationId, Uuid},
    io::{Directory, DiskAction, DiskError, DiskOperation, DiskOutput, Effects, Exit, FileName, OperationIds},
    limits::{IDENTITY_AHEAD_BYTES, IDENTITY_BYTES_MAX},
    rng::Stream,
};

/// What the file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub node: NodeId,
    pub directory: DirectoryId,
    /// The number of this start, from 1.
    pub boot: BootNumber,
    pub wal_key: WalKey,
    /// A WAL was opened here before: its absence is damage.
    pub has_wal: bool,
    /// Set once this node knows that the cluster has formed.
    pub cluster: Option<ClusterId>,
    /// What the cluster was formed with; opaque here. Empty until then.
    pub formation: Bytes,
}

/// Reads the file, counts the start, and writes later changes. Call [`IdentityKeeper::poll`] after any other call.
#[derive(Debug)]
pub struct IdentityKeeper {
    node: NodeId,
    fresh: Fresh,
    /// What is on the disk.
    durable: Option<Identity>,
    /// What should be.
    wanted: Option<Identity>,
    step: Step,
    operation: Option<OperationId>,
}

/// What a new directory is given.
#[derive(Clone, Copy, Debug)]
struct Fresh {
    directory: DirectoryId,
    wal_key: WalKey,
}

/// What is done next, or is under way if there is an operation.
#[derive(Debug)]
enum Step {
    Read,
    /// There is no file: is there a WAL?
    List,
    Idle,
    Write(Identity),
    /// What was made ahead would show behind a shorter text.
    Cut(Identity),
    Sync(Identity),
    Rename(Identity),
    SyncDirectory(Identity),
    /// Room for the next change. Without it, that needs free room.
    MakeAhead,
    SyncAhead,
}

const MAGIC: [u8; 8] = *b"KauriIDN";
const VERSION: u16 = 1;
/// Magic, version, zero, CRC.
const PREFIX_BYTES: usize = 16;

impl IdentityKeeper {
    /// `random` gives a new directory its id and the key of its WAL; it must differ from start to start.
    pub fn start(node: NodeId, random: &mut Stream) -> Self {
        let fresh = Fresh { directory: DirectoryId(Uuid(random.bytes16())), wal_key: WalKey(random.next_u64()) };
        Self { node, fresh, durable: None, wanted: None, step: Step::Read, operation: None }
    }

    /// What is durable: `None` until the number of this start is.
    pub fn identity(&self) -> Option<&Identity> {
        self.durable.as_ref().filter(|identity| Some(identity.boot) == self.wanted.as_ref().map(|wanted| wanted.boot))
    }

    /// Everything that was set is durable.
    pub fn is_durable(&self) -> bool {
        self.wanted.is_some() && self.durable == self.wanted
    }

    /// The cluster has formed. Durable once [`IdentityKeeper::is_durable`] says so. Only after the start was counted.
    pub fn set_cluster(&mut self, cluster: ClusterId, formation: Bytes) {
        let wanted = self.wanted.as_mut().expect("the start is counted first");
        assert!(wanted.cluster.is_none_or(|known| known == cluster), "a directory never changes its cluster");
        assert!(formation.len() <= IDENTITY_BYTES_MAX / 2, "a formation fits into the file");
        wanted.cluster = Some(cluster);
        wanted.formation = formation;
    }

    /// The first write of the WAL is durable. From the next start on a missing WAL is damage.
    pub fn set_has_wal(&mut self) {
        self.wanted.as_mut().expect("the start is counted first").has_wal = true;
    }

    pub fn poll(&mut self, effects: &mut Effects, ids: &mut OperationIds) {
        if self.operation.is_some() {
            return;
        }
        if matches!(self.step, Step::Idle) && self.durable != self.wanted {
            self.step = Step::Write(self.wanted.clone().expect("something is to be written"));
        }
        let action = match &self.step {
            Step::Idle => return,
            Step::Read => DiskAction::Read { file: FileName::Identity, offset: 0, length: IDENTITY_BYTES_MAX + 1 },
            Step::List => DiskAction::List { directory: Directory::Wal },
            Step::Write(identity) => {
                let slices = vec![identity.encode()];
                DiskAction::Write { file: FileName::IdentityNew, offset: 0, slices }
            }
            Step::Cut(identity) => {
                DiskAction::Truncate { file: FileName::IdentityNew, length: identity.encode().len() as u64 }
            }
            Step::Sync(_) | Step::SyncAhead => DiskAction::Sync { file: FileName::IdentityNew },
            Step::Rename(_) => DiskAction::Rename { from: FileName::IdentityNew, to: FileName::Identity },
            Step::MakeAhead => {
                let slices = vec![Bytes::from_static(&[0; IDENTITY_AHEAD_BYTES])];
                DiskAction::Write { file: FileName::IdentityNew, offset: 0, slices }
            }
            Step::SyncDirectory(_) => DiskAction::SyncDirectory { directory: Directory::Root },
        };
        let id = ids.next_id();
        self.operation = Some(id);
        effects.disk.push(DiskOperation { id, action });
    }

    /// False if the operation is not the keeper's.
    ///
    /// # Errors
    ///
    /// [`Exit::Damaged`], [`Exit::Refused`] if the directory is another node's, and [`Exit::DiskFailed`].
    pub fn handle(&mut self, operation: OperationId, result: &Result<DiskOutput, DiskError>) -> Result<bool, Exit> {
        if self.operation != Some(operation) {
            return Ok(false);
        }
        self.operation = None;
        let failed = |operation, file: FileName| {
            move |error: &DiskError| Exit::DiskFailed { operation, file: file.path(), error: *error }
        };
        self.step = match std::mem::replace(&mut self.step, Step::Idle) {
            Step::Read => match result {
                Err(DiskError::NotFound) => Step::List,
                result => {
                    self.take_over(output(result.as_ref().map_err(failed("read", FileName::Identity))?))?;
                    Step::Idle
                }
            },
            Step::List => {
                refuse_data_without_identity(result)?;
                self.wanted = Some(Identity {
                    node: self.node,
                    directory: self.fresh.directory,
                    boot: BootNumber(1),
                    wal_key: self.fresh.wal_key,
                    has_wal: false,
                    cluster: None,
                    formation: Bytes::new(),
                });
                Step::Idle
            }
            Step::Write(identity) => {
                result.as_ref().map_err(failed("write", FileName::IdentityNew))?;
                Step::Cut(identity)
            }
            Step::Cut(identity) => {
                result.as_ref().map_err(failed("truncation", FileName::IdentityNew))?;
                Step::Sync(identity)
            }
            Step::Sync(identity) => {
                result.as_ref().map_err(failed("sync", FileName::IdentityNew))?;
                Step::Rename(identity)
            }
            Step::Rename(identity) => {
                result.as_ref().map_err(failed("rename", FileName::IdentityNew))?;
                Step::SyncDirectory(identity)
            }
            Step::SyncDirectory(identity) => {
                result.as_ref().map_err(failed("directory sync", FileName::Identity))?;
                self.durable = Some(identity);
                Step::MakeAhead
            }
            Step::MakeAhead | Step::SyncAhead if matches!(result, Err(DiskError::Full)) => Step::Idle,
            Step::MakeAhead => {
                result.as_ref().map_err(failed("write", FileName::IdentityNew))?;
                Step::SyncAhead
            }
            Step::SyncAhead => {
                result.as_ref().map_err(failed("sync", FileName::IdentityNew))?;
                Step::Idle
            }
            Step::Idle => panic!("no operation is under way"),
        };
        Ok(true)
    }

    /// The file exists: checks it and counts this start.
    fn take_over(&mut self, bytes: &Bytes) -> Result<(), Exit> {
        let found = Identity::decode(bytes)?;
        if found.node != self.node {
            return Err(Exit::Refused(format!(
                "this data directory belongs to node {}, but the configuration says node {}: use the directory of node \
                 {}, or correct the node id",
                found.node, self.node, self.node
            )));
        }
        let boot = BootNumber(found.boot.0 + 1);
        self.wanted = Some(Identity { boot, ..found.clone() });
        self.durable = Some(found);
        Ok(())
    }
}

fn output(output: &DiskOutput) -> &Bytes {
    match output {
        DiskOutput::Read(bytes) => bytes,
        DiskOutput::Done | DiskOutput::List(_) => panic!("a read is answered by bytes"),
    }
}

/// Without the file nobody knows whose data this is; a new identity over it would make a node that voted and
/// acknowledged under another one forget that it did.
fn refuse_data_without_identity(result: &Result<DiskOutput, DiskError>) -> Result<(), Exit> {
    match result {
        Ok(DiskOutput::List(files)) if files.is_empty() => Ok(()),
        Ok(DiskOutput::List(files)) => Err(Exit::Refused(format!(
            "this data directory holds {} but no file named identity: restore that file, or empty the directory to \
             start as a new one",
            files[0].0.path()
        ))),
        Ok(DiskOutput::Done | DiskOutput::Read(_)) => panic!("a listing is answered by a list"),
        Err(error) => Err(Exit::DiskFailed { operation: "listing", file: Directory::Wal.path(), error: *error }),
    }
}

impl Identity {
    /// All numbers are little-endian: magic, version (u16), zero (u16), CRC-32C of the rest of the file (u32), node (i32),
    /// directory id (16 bytes), boot number (u64), key of the WAL (u64), flags (u8: 1 has a WAL, 2 has a cluster),
    /// cluster id (16 bytes), length of the formation (u32), formation.
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(128 + self.formation.len());
        out.put_slice(&MAGIC);
        out.put_u16_le(VERSION);
        out.put_u16_le(0);
        out.put_u32_le(0); // CRC, below
        out.put_i32_le(self.node.0);
        out.put_slice(&self.directory.0.0);
        out.put_u64_le(self.boot.0);
        out.put_u64_le(self.wal_key.0);
        out.put_u8(u8::from(self.has_wal) | u8::from(self.cluster.is_some()) << 1);
        out.put_slice(&self.cluster.unwrap_or_default().0.0);
        out.put_u32_le(u32::try_from(self.formation.len()).expect("checked when it was set"));
        out.put_slice(&self.formation);
        let crc = crc(&out);
        out[PREFIX_BYTES - 4..PREFIX_BYTES].copy_from_slice(&crc.to_le_bytes());
        out.into()
    }

    /// # Errors
    ///
    /// [`Exit::Damaged`] or, for a version this build does not know, [`Exit::Refused`].
    pub fn decode(bytes: &Bytes) -> Result<Self, Exit> {
        let damaged = |offset: usize, what: &str| Exit::Damaged {
            file: FileName::Identity.path(),
            offset: offset as u64,
            what: what.to_owned(),
        };
        let mut prefix = bytes.get(..PREFIX_BYTES).ok_or_else(|| damaged(bytes.len(), "the file is too short"))?;
        if prefix[..8] != MAGIC {
            return Err(damaged(0, "this is not an identity file"));
        }
        prefix.advance(8);
        let (version, _, stored_crc) = (prefix.get_u16_le(), prefix.get_u16_le(), prefix.get_u32_le());
        let mut body = bytes.slice(PREFIX_BYTES..);
        if crc(bytes) != stored_crc {
            return Err(damaged(PREFIX_BYTES, "the checksum does not match"));
        }
        if version != VERSION {
            return Err(Exit::Refused(format!(
                "the file identity has version {version}, which this build does not know: start a newer one"
            )));
        }
        let short = || damaged(bytes.len(), "the file is too short");
        let node = NodeId(body.try_get_i32_le().map_err(|_| short())?);
        let directory = DirectoryId(Uuid(take16(&mut body).ok_or_else(short)?));
        let boot = BootNumber(body.try_get_u64_le().map_err(|_| short())?);
        let wal_key = WalKey(body.try_get_u64_le().map_err(|_| short())?);
        let flags = body.try_get_u8().map_err(|_| short())?;
        let cluster = ClusterId(Uuid(take16(&mut body).ok_or_else(short)?));
        let length = body.try_get_u32_le().map_err(|_| short())?;
        if body.len() != length as usize || flags > 3 {
            return Err(damaged(bytes.len(), "the file does not end where it should"));
        }
        let cluster = (flags & 2 != 0).then_some(cluster);
        Ok(Self { node, directory, boot, wal_key, has_wal: flags & 1 != 0, cluster, formation: body })
    }
}

fn crc(file: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&file[..PREFIX_BYTES - 4]), &file[PREFIX_BYTES..])
}

fn take16(body: &mut Bytes) -> Option<[u8; 16]> {
    let (head, _) = body.split_first_chunk::<16>()?;
    let head = *head;
    body.advance(16);
    Some(head)
}

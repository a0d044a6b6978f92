//! From a data directory to a running node.
//!
//! In this order: identity (the number of this start is durable before anything else), the WAL's recovery (which
//! groups are here, and where their logs end), the files of partitions, and a replay that applies what was committed,
//! through the same apply as live operation. Nothing is sent to a peer or a client before all of it is done.
//!
//! Invariant: what is found is either explained completely or the start is refused, naming file and place; nothing is
//! cut that was durable.

mod found;
mod replaying;

use std::collections::BTreeMap;

use slog::{Logger, info};

pub(crate) use self::found::{membership, settings};
use self::{
    found::Found,
    replaying::{Replayed, Replaying},
};
use crate::{
    broker::Start,
    config::NodeConfig,
    ids::{GroupId, OperationId},
    io::{DiskError, DiskOutput, Effects, Exit, OperationIds},
    log::{
        identity::IdentityKeeper,
        record::RecoveredRecord,
        recovery::{Progress, Recovered, Recovery},
        segment::{LogRecovery, PartitionLog},
        wal::WalConfig,
    },
    rng::Stream,
    time::{Monotonic, Now},
};

/// See the module head. [`Startup::poll`] must be called after any number of calls of the others.
pub(crate) struct Startup {
    config: NodeConfig,
    logger: Logger,
    ids: OperationIds,
    keeper: IdentityKeeper,
    stage: Stage,
}

enum Stage {
    Identity,
    Wal {
        recovery: Box<Recovery>,
        found: Found,
    },
    /// The WAL is there; from now on its absence is damage.
    HasWal {
        recovered: Box<Recovered>,
        found: Found,
    },
    Files {
        recovered: Box<Recovered>,
        found: Found,
        open: BTreeMap<GroupId, LogRecovery>,
        logs: Box<Replaying>,
    },
    Replay {
        replaying: Box<Replaying>,
        recovered: crate::ids::WriteNumber,
    },
    Done,
}

impl Startup {
    pub(crate) fn new(config: NodeConfig, logger: Logger) -> Self {
        let mut random = Stream::new(config.seed, config.node, "identity", 0);
        let keeper = IdentityKeeper::start(config.node, &mut random);
        Self { config, logger, ids: OperationIds::default(), keeper, stage: Stage::Identity }
    }

    pub(crate) fn handle(
        &mut self,
        now: Now,
        operation: OperationId,
        result: Result<DiskOutput, DiskError>,
    ) -> Result<(), Exit> {
        if self.keeper.handle(operation, &result)? {
            return Ok(());
        }
        match &mut self.stage {
            Stage::Identity | Stage::Done => {}
            Stage::Wal { recovery, .. } => {
                recovery.handle(now, operation, &result)?;
            }
            Stage::HasWal { recovered, .. } => {
                recovered.wal.handle(now, operation, &result, &mut Vec::new())?;
            }
            Stage::Files { recovered, open, .. } => {
                if recovered.wal.handle(now, operation, &result, &mut Vec::new())? {
                    return Ok(());
                }
                for log in open.values_mut() {
                    if log.handle(operation, result.clone())? {
                        break;
                    }
                }
            }
            Stage::Replay { replaying, .. } => replaying.handle(now, operation, result)?,
        }
        Ok(())
    }

    /// Goes on as far as possible; what a running node starts from, once everything is done.
    pub(crate) fn poll(&mut self, now: Now, effects: &mut Effects) -> Result<Option<Start>, Exit> {
        loop {
            self.keeper.poll(effects, &mut self.ids);
            self.stage = match std::mem::replace(&mut self.stage, Stage::Done) {
                Stage::Identity => {
                    let Some(identity) = self.keeper.identity() else {
                        self.stage = Stage::Identity;
                        return Ok(None);
                    };
                    info!(self.logger, "starting"; "node" => identity.node.0, "directory" => %identity.directory,
                        "boot" => identity.boot.0, "cluster" => identity.cluster.map(|id| id.to_string()));
                    let config = WalConfig { file_bytes: self.config.wal_file_bytes, key: identity.wal_key };
                    Stage::Wal { recovery: Box::new(Recovery::new(config, identity.has_wal)), found: Found::default() }
                }
                Stage::Wal { mut recovery, mut found } => {
                    let mut records: Vec<RecoveredRecord> = Vec::new();
                    let progress = recovery.poll(now, effects, &mut self.ids, &mut records)?;
                    for record in records {
                        found.take_in(record)?;
                    }
                    match progress {
                        Progress::More => Stage::Wal { recovery, found },
                        Progress::Waiting => {
                            self.stage = Stage::Wal { recovery, found };
                            return Ok(None);
                        }
                        Progress::Done => {
                            self.keeper.set_has_wal();
                            Stage::HasWal { recovered: Box::new(recovery.finish()), found }
                        }
                    }
                }
                Stage::HasWal { mut recovered, found } => {
                    recovered.wal.poll(now, effects, &mut self.ids, &mut Vec::new());
                    if !self.keeper.is_durable() {
                        self.stage = Stage::HasWal { recovered, found };
                        return Ok(None);
                    }
                    info!(self.logger, "the write-ahead log is recovered"; "groups" => found.groups.len(), "last_write" => recovered.last.0);
                    let open = found
                        .groups
                        .iter()
                        .filter_map(|(id, group)| Some((*id, PartitionLog::recover(group.settings(&self.config)?))))
                        .collect();
                    Stage::Files { recovered, found, open, logs: Box::default() }
                }
                Stage::Files { mut recovered, mut found, mut open, mut logs } => {
                    recovered.wal.poll(now, effects, &mut self.ids, &mut Vec::new());
                    for recovery in open.values_mut() {
                        recovery.poll(effects, &mut self.ids);
                    }
                    let finished: Vec<_> =
                        open.iter_mut().filter_map(|(id, recovery)| Some((*id, recovery.finish()?))).collect();
                    for (id, log) in finished {
                        open.remove(&id);
                        let group = found.groups.remove(&id).expect("its files were recovered because it was found");
                        logs.add_partition(group, log);
                    }
                    if !open.is_empty() {
                        self.stage = Stage::Files { recovered, found, open, logs };
                        return Ok(None);
                    }
                    for group in std::mem::take(&mut found.groups).into_values() {
                        logs.add_metadata(group);
                    }
                    let last = recovered.last;
                    logs.begin(*recovered, found.removed);
                    Stage::Replay { replaying: logs, recovered: last }
                }
                Stage::Replay { mut replaying, recovered } => match replaying.poll(now, effects, &mut self.ids)? {
                    Progress::More => Stage::Replay { replaying, recovered },
                    Progress::Waiting => {
                        self.stage = Stage::Replay { replaying, recovered };
                        return Ok(None);
                    }
                    Progress::Done => {
                        let keeper = std::mem::replace(
                            &mut self.keeper,
                            IdentityKeeper::start(self.config.node, &mut Stream::new(0, self.config.node, "unused", 0)),
                        );
                        let Replayed { wal, replicas, destroyed, segment_operations } =
                            replaying.finish(&self.config, &self.logger)?;
                        info!(self.logger, "recovered"; "groups" => replicas.len());
                        return Ok(Some(Start {
                            config: self.config.clone(),
                            logger: self.logger.clone(),
                            keeper,
                            wal,
                            recovered,
                            replicas,
                            destroyed,
                            segment_operations,
                            ids: std::mem::take(&mut self.ids),
                        }));
                    }
                },
                Stage::Done => unreachable!("a start is polled until it is done"),
            };
        }
    }

    pub(crate) fn next_deadline(&self) -> Option<Monotonic> {
        match &self.stage {
            Stage::Identity | Stage::Done => None,
            Stage::Wal { recovery, .. } => recovery.next_deadline(),
            Stage::HasWal { recovered, .. } | Stage::Files { recovered, .. } => recovered.wal.next_deadline(),
            Stage::Replay { replaying, .. } => replaying.next_deadline(),
        }
    }
}

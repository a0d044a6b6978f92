//! From a data directory to a running node.
//!
//! In this order: identity (the number of this start is durable before anything else), the newest checkpoint that
//! counts, the WAL behind it (which groups are here, and where their logs end), the files of partitions, and a replay that applies what was committed,
//! through the same apply as live operation. Nothing is sent to a peer or a client before all of it is done.
//!
//! Invariant: what is found is either explained completely or the start is refused, naming file and place; nothing is
//! cut that was durable.

mod checkpoints;
mod found;
mod logs;
mod replaying;
mod survey;

use slog::{Logger, info};

use self::{
    checkpoints::{Candidate, Candidates},
    found::Found,
    logs::OpeningLogs,
    replaying::{Replayed, Replaying},
};
pub(crate) use self::{
    found::{first_start, settings},
    survey::{Survey, SurveyedGroup},
};
use crate::{
    broker::{CheckpointStart, Start},
    config::NodeConfig,
    ids::OperationId,
    io::{DiskError, DiskOutput, Effects, Exit, OperationIds},
    log::{
        checkpoint::CheckpointDone,
        identity::IdentityKeeper,
        record::{RecoveredRecord, WalRecord},
        recovery::{Opening, Progress, Recovered, Recovery},
        segment::PartitionLog,
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
    /// What was found first to be damaged.
    damage: Option<Exit>,
}

enum Stage {
    Identity,
    Checkpoints(Box<Candidates>),
    Wal {
        recovery: Box<Recovery>,
        base: Box<BaseFound>,
    },
    /// Checkpoints that do not count go, before the WAL behind them may.
    Discard {
        recovery: Box<Recovery>,
        base: Box<BaseFound>,
    },
    Opening {
        opening: Box<Opening>,
        base: Box<BaseFound>,
    },
    /// The WAL is there; from now on its absence is damage.
    HasWal {
        recovered: Box<Recovered>,
        base: Box<BaseFound>,
    },
    Files {
        recovered: Box<Recovered>,
        found: Found,
        opening: Box<OpeningLogs>,
        logs: Box<Replaying>,
        checkpoints: CheckpointStart,
    },
    Replay {
        replaying: Box<Replaying>,
        recovered: crate::ids::WriteNumber,
        checkpoints: CheckpointStart,
    },
    Done,
}

/// A checkpoint to begin with, or none, and what was found from there on.
struct BaseFound {
    candidates: Candidates,
    candidate: Candidate,
    found: Found,
}

impl Startup {
    pub(crate) fn new(config: NodeConfig, logger: Logger) -> Self {
        let mut random = Stream::new(config.seed, config.node, "identity", 0);
        let keeper = IdentityKeeper::start(config.node, &mut random);
        Self { config, logger, ids: OperationIds::default(), keeper, stage: Stage::Identity, damage: None }
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
            Stage::Checkpoints(candidates) => {
                candidates.handle(operation, &result)?;
            }
            Stage::Wal { recovery, .. } => {
                recovery.handle(operation, &result)?;
            }
            Stage::Opening { opening, .. } => {
                opening.handle(now, operation, &result)?;
            }
            Stage::Discard { base, .. } => {
                base.candidates.handle(operation, &result)?;
            }
            Stage::HasWal { recovered, .. } => {
                recovered.wal.handle(now, operation, &result, &mut Vec::new())?;
            }
            Stage::Files { recovered, opening, .. } => {
                if !recovered.wal.handle(now, operation, &result, &mut Vec::new())? {
                    opening.handle(operation, result)?;
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
                    Stage::Checkpoints(Box::new(Candidates::new(identity.wal_key, self.logger.clone())))
                }
                Stage::Checkpoints(mut candidates) => match candidates.poll(effects, &mut self.ids) {
                    Some(candidate) => self.begin_with(*candidates, candidate)?,
                    None => {
                        self.stage = Stage::Checkpoints(candidates);
                        return Ok(None);
                    }
                },
                Stage::Wal { mut recovery, mut base } => match self.read_wal(&mut recovery, &mut base.found, effects) {
                    Ok(Progress::More) => Stage::Wal { recovery, base },
                    Ok(Progress::Waiting) => {
                        self.stage = Stage::Wal { recovery, base };
                        return Ok(None);
                    }
                    Ok(Progress::Done) => self.decide(recovery, base),
                    Err(exit) => self.pass_over(base, exit)?,
                },
                Stage::Discard { recovery, mut base } => {
                    let none = base.candidates.poll(effects, &mut self.ids);
                    assert!(none.is_none(), "one was chosen");
                    if !base.candidates.is_done() {
                        self.stage = Stage::Discard { recovery, base };
                        return Ok(None);
                    }
                    let needed_from = base.candidate.needed_from();
                    Stage::Opening { opening: Box::new(recovery.open(needed_from)), base }
                }
                Stage::Opening { mut opening, mut base } => {
                    let mut records: Vec<RecoveredRecord> = Vec::new();
                    let progress = opening.poll(now, effects, &mut self.ids, &mut records)?;
                    for record in records {
                        base.found.take_in(record)?;
                    }
                    match progress {
                        Progress::More => Stage::Opening { opening, base },
                        Progress::Waiting => {
                            self.stage = Stage::Opening { opening, base };
                            return Ok(None);
                        }
                        Progress::Done => {
                            self.keeper.set_has_wal();
                            Stage::HasWal { recovered: Box::new(opening.finish()), base }
                        }
                    }
                }
                Stage::HasWal { mut recovered, base } => {
                    recovered.wal.poll(now, effects, &mut self.ids, &mut Vec::new());
                    if !self.keeper.is_durable() {
                        self.stage = Stage::HasWal { recovered, base };
                        return Ok(None);
                    }
                    let BaseFound { candidates, candidate, mut found } = *base;
                    let checkpoints = candidate.start(&candidates, found.newest_named());
                    info!(self.logger, "the write-ahead log is recovered"; "groups" => found.groups.len(), "last_write" => recovered.last.0);
                    let mut opening = Box::<OpeningLogs>::default();
                    for (id, group) in &mut found.groups {
                        let Some(settings) = group.settings(&self.config) else { continue };
                        let log = match group.take_log() {
                            Some(image) => PartitionLog::restore(settings, image),
                            None => PartitionLog::recover(settings),
                        };
                        opening.add(*id, log);
                    }
                    Stage::Files { recovered, found, opening, logs: Box::default(), checkpoints }
                }
                Stage::Files { mut recovered, mut found, mut opening, mut logs, checkpoints } => {
                    recovered.wal.poll(now, effects, &mut self.ids, &mut Vec::new());
                    for (id, log) in opening.poll(now.monotonic, effects, &mut self.ids)? {
                        let group = found.groups.remove(&id).expect("its files were recovered because it was found");
                        logs.add_partition(group, log)?;
                    }
                    if !opening.is_done() {
                        self.stage = Stage::Files { recovered, found, opening, logs, checkpoints };
                        return Ok(None);
                    }
                    for group in std::mem::take(&mut found.groups).into_values() {
                        logs.add_metadata(group)?;
                    }
                    let last = recovered.last;
                    logs.begin(now, *recovered, found.removed, &self.config)?;
                    Stage::Replay { replaying: logs, recovered: last, checkpoints }
                }
                Stage::Replay { mut replaying, recovered, checkpoints } => {
                    match replaying.poll(now, effects, &mut self.ids)? {
                        Progress::More => Stage::Replay { replaying, recovered, checkpoints },
                        Progress::Waiting => {
                            self.stage = Stage::Replay { replaying, recovered, checkpoints };
                            return Ok(None);
                        }
                        Progress::Done => {
                            let replayed = replaying.finish(&self.config, &self.logger)?;
                            return Ok(Some(self.finish(replayed, recovered, checkpoints)));
                        }
                    }
                }
                Stage::Done => unreachable!("a start is polled until it is done"),
            };
        }
    }

    fn finish(
        &mut self,
        replayed: Replayed,
        recovered: crate::ids::WriteNumber,
        checkpoints: CheckpointStart,
    ) -> Start {
        let unused = IdentityKeeper::start(self.config.node, &mut Stream::new(0, self.config.node, "unused", 0));
        let Replayed { wal, replicas, destroyed, segment_operations } = replayed;
        info!(self.logger, "recovered"; "groups" => replicas.len());
        Start {
            config: self.config.clone(),
            logger: self.logger.clone(),
            keeper: std::mem::replace(&mut self.keeper, unused),
            wal,
            recovered,
            replicas,
            destroyed,
            segment_operations,
            checkpoints,
            ids: std::mem::take(&mut self.ids),
        }
    }

    /// Reads the WAL from where a checkpoint ends.
    fn begin_with(&self, candidates: Candidates, mut candidate: Candidate) -> Result<Stage, Exit> {
        let identity = self.keeper.identity().expect("it is durable");
        let config = WalConfig {
            file_bytes: self.config.wal_file_bytes,
            budget_bytes: self.config.wal_budget_bytes,
            key: identity.wal_key,
        };
        let found = match &mut candidate.checkpoint {
            Some(checkpoint) => Found::from_checkpoint(checkpoint, |file| candidates.has(file))?,
            None => Found::default(),
        };
        let recovery = Box::new(Recovery::new(config, identity.has_wal, candidate.base()));
        Ok(Stage::Wal { recovery, base: Box::new(BaseFound { candidates, candidate, found }) })
    }

    fn read_wal(
        &mut self,
        recovery: &mut Recovery,
        found: &mut Found,
        effects: &mut Effects,
    ) -> Result<Progress, Exit> {
        let mut records: Vec<RecoveredRecord> = Vec::new();
        let progress = recovery.poll(effects, &mut self.ids, &mut records)?;
        records.into_iter().try_for_each(|record| found.take_in(record))?;
        Ok(progress)
    }

    /// The WAL behind a checkpoint is not what it should be. If the checkpoint does not count, that may be so: the WAL
    /// may end before it. If it counts, whoever begins earlier finds the same damage, or that the WAL does not reach so
    /// far back.
    fn pass_over(&mut self, mut base: Box<BaseFound>, exit: Exit) -> Result<Stage, Exit> {
        let is_damage = matches!(exit, Exit::Damaged { .. });
        let first = if is_damage { self.damage.get_or_insert(exit).clone() } else { exit };
        if !is_damage || base.candidate.done().is_none() {
            return Err(first);
        }
        base.candidates.give_up();
        Ok(Stage::Checkpoints(Box::new(base.candidates)))
    }

    /// The WAL was read: goes on if it names the checkpoint, else tries an older one.
    fn decide(&self, recovery: Box<Recovery>, mut base: Box<BaseFound>) -> Stage {
        if names_checkpoint(&recovery, &base) {
            if let Some(done) = base.candidate.done() {
                info!(self.logger, "restored from a checkpoint"; "number" => done.number.0, "from" => done.from.write.0);
            }
            base.candidates.settle();
            return Stage::Discard { recovery, base };
        }
        base.candidates.give_up();
        Stage::Checkpoints(Box::new(base.candidates))
    }

    pub(crate) fn next_deadline(&self) -> Option<Monotonic> {
        match &self.stage {
            Stage::Identity | Stage::Checkpoints(_) | Stage::Wal { .. } | Stage::Discard { .. } | Stage::Done => None,
            Stage::Opening { opening, .. } => opening.next_deadline(),
            Stage::HasWal { recovered, .. } | Stage::Files { recovered, .. } => recovered.wal.next_deadline(),
            Stage::Replay { replaying, .. } => replaying.next_deadline(),
        }
    }
}

/// Whether the WAL, which was read, names the checkpoint that it was read behind; so it is if there is none.
fn names_checkpoint(recovery: &Recovery, base: &BaseFound) -> bool {
    let Some(done) = base.candidate.done() else { return true };
    // A record that is kept back is written once more, and durable, before anything relies on it.
    let is_kept_back = recovery.kept_back().any(|record| match record {
        WalRecord::CheckpointDone { checkpoint } => CheckpointDone::decode(checkpoint) == Ok(done),
        WalRecord::Entry(_)
        | WalRecord::HardState { .. }
        | WalRecord::Fill(_)
        | WalRecord::Create { .. }
        | WalRecord::Destroy { .. }
        | WalRecord::Switch { .. }
        | WalRecord::Quarantine { .. } => false,
    });
    base.found.names(&done) || is_kept_back
}

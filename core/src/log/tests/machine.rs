//! One machine: a disk and a process that is started, used, killed or cut from power, and the truth about what it was
//! told is durable.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::disk::{Disk, Mode};
use crate::{
    ids::{GroupId, LogIndex, NodeId, ReplicaId, Term, WriteNumber},
    io::{DiskAction, DiskError, DiskOperation, DiskOutput, Effects, Exit, FileName, OperationIds},
    log::{
        read::EntryRead,
        record::{EntryKind, EntryRecord, PayloadState, RecoveredRecord, WalEvent, WalRecord},
        recovery::{Base, Progress, Recovery, Replay},
        wal::{Wal, WalConfig, WalKey},
    },
    rng::Stream,
    time::{Monotonic, Now},
};

pub(super) const FILE_BYTES: u64 = 64 << 10;
pub(super) const CONFIG: WalConfig =
    WalConfig { file_bytes: FILE_BYTES, budget_bytes: 16 * FILE_BYTES, key: WalKey(0x5eed_5eed_5eed_5eed) };

#[derive(Clone, Debug)]
pub(super) struct Machine {
    /// Where the log of the checkpoints that count begins, oldest first; two at most. Nobody looks into a checkpoint here.
    pub(super) kept: Vec<Base>,
    pub(super) disk: Disk,
    pub(super) random: Stream,
    /// What was appended and not yet known to be lost, by write.
    pub(super) history: BTreeMap<WriteNumber, Vec<WalRecord>>,
    /// The highest write that was ever reported durable.
    pub(super) durable: WriteNumber,
    /// Disk operations until the process stops; `None`: it lives.
    pub(super) operations_left: Option<u64>,
    now: Now,
}

/// Why a run ended early.
#[derive(Debug)]
pub(super) enum End {
    /// The operations were used up.
    Crashed,
    Exit(Exit),
}

impl From<Exit> for End {
    fn from(exit: Exit) -> Self {
        Self::Exit(exit)
    }
}

/// A running process after its recovery.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) wal: Wal,
    /// The write that names a checkpoint, and where its log begins.
    checkpoint: Option<(WriteNumber, Base)>,
    ids: OperationIds,
    pending: Pending,
    pub(super) events: Vec<WalEvent>,
}

/// Operations the driver has not carried out yet.
#[derive(Debug, Default)]
struct Pending {
    wal: std::collections::VecDeque<DiskOperation>,
    disk: Vec<DiskOperation>,
}

impl Pending {
    fn take_from(&mut self, effects: &mut Effects) {
        self.wal.extend(effects.wal.drain(..));
        self.disk.append(&mut effects.disk);
    }

    fn next(&mut self, random: &mut Stream) -> Option<DiskOperation> {
        let take_wal = !self.wal.is_empty() && (self.disk.is_empty() || random.below(2) == 0);
        if take_wal {
            return self.wal.pop_front();
        }
        if self.disk.is_empty() {
            return None;
        }
        let at = random.below(self.disk.len() as u64) as usize;
        Some(self.disk.swap_remove(at))
    }
}

impl Machine {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            kept: Vec::new(),
            disk: Disk::default(),
            random: Stream::new(seed, NodeId(1), "machine", 0),
            history: BTreeMap::new(),
            durable: WriteNumber(0),
            operations_left: None,
            now: Now::default(),
        }
    }

    /// Carries out one operation, or stops in the middle of it.
    fn carry_out(&mut self, operation: &DiskOperation) -> Result<Result<DiskOutput, DiskError>, End> {
        if let Some(left) = &mut self.operations_left {
            if *left == 0 {
                if self.random.below(2) == 0 {
                    self.disk.interrupt(&operation.action, &mut self.random);
                }
                return Err(End::Crashed);
            }
            *left -= 1;
        }
        Ok(self.disk.run(operation.action.clone()))
    }

    /// Starts a process. Returns it with everything it recovered.
    pub(super) fn start(&mut self) -> Result<(Process, Vec<RecoveredRecord>), End> {
        self.start_from(self.kept.last().copied())
    }

    /// Like [`Machine::start`], from the log of another checkpoint.
    pub(super) fn start_from(&mut self, base: Option<Base>) -> Result<(Process, Vec<RecoveredRecord>), End> {
        self.start_with(Recovery::new(CONFIG, self.durable.0 > 0, base))
    }

    /// The half of a recovery that changes nothing.
    pub(super) fn read_only(&mut self, recovery: Recovery) -> Result<Recovery, End> {
        self.read(recovery, &mut OperationIds::default(), &mut Vec::new())
    }

    fn read(
        &mut self,
        mut recovery: Recovery,
        ids: &mut OperationIds,
        records: &mut Vec<RecoveredRecord>,
    ) -> Result<Recovery, End> {
        let mut effects = Effects::default();
        let mut pending = Pending::default();
        loop {
            let progress = recovery.poll(&mut effects, ids, records)?;
            pending.take_from(&mut effects);
            match progress {
                Progress::More => continue,
                Progress::Done => return Ok(recovery),
                Progress::Waiting => {}
            }
            let operation = pending.next(&mut self.random).expect("recovery waits for an operation");
            let result = self.carry_out(&operation)?;
            assert!(recovery.handle(operation.id, &result)?, "the operation is recovery's");
        }
    }

    pub(super) fn start_with(&mut self, recovery: Recovery) -> Result<(Process, Vec<RecoveredRecord>), End> {
        let mut effects = Effects::default();
        let mut ids = OperationIds::default();
        let mut pending = Pending::default();
        let mut records = Vec::new();
        let recovery = self.read(recovery, &mut ids, &mut records)?;
        let mut opening = recovery.open(self.kept.first().map(|base| base.file));
        loop {
            let progress = opening.poll(self.now, &mut effects, &mut ids, &mut records)?;
            pending.take_from(&mut effects);
            match progress {
                Progress::More => continue,
                Progress::Done => break,
                Progress::Waiting => {}
            }
            let operation = pending.next(&mut self.random).expect("the opening waits for an operation");
            let result = self.carry_out(&operation)?;
            assert!(opening.handle(self.now, operation.id, &result)?, "the operation is the opening's");
        }
        let recovered = opening.finish();
        assert_eq!(
            recovered.last.0.max(recovered.wal.durable().0),
            recovered.wal.durable().0,
            "what was recovered is durable"
        );
        let mut process = Process { wal: recovered.wal, checkpoint: None, ids, pending, events: Vec::new() };
        let replayed = self.replay(Replay::new(recovered.replay), &mut process)?;
        let entries: Vec<_> = records.iter().filter(|found| found.location.is_some()).cloned().collect();
        assert_eq!(replayed, entries, "the second pass yields the entries of the first");
        Ok((process, records))
    }

    fn replay(&mut self, mut replay: Replay, process: &mut Process) -> Result<Vec<RecoveredRecord>, End> {
        let mut effects = Effects::default();
        let mut entries = Vec::new();
        loop {
            let progress = replay.poll(&mut effects, &mut process.ids, &mut entries)?;
            match progress {
                Progress::More => continue,
                Progress::Done => return Ok(entries),
                Progress::Waiting => {}
            }
            for operation in effects.disk.drain(..) {
                // Reads are not counted: a crash between them is a crash before the next write.
                let result = self.disk.run(operation.action);
                assert!(replay.handle(operation.id, &result)?);
            }
        }
    }

    /// Starts a process and holds what it found against the truth; what it did not find is forgotten.
    pub(super) fn start_and_check(&mut self) -> Result<Process, End> {
        let base = self.kept.last().copied();
        let (process, records) = self.start_from(base)?;
        self.check_from(base, &records);
        // From here on the node may act on all of it.
        self.durable = process.wal.durable();
        Ok(process)
    }

    pub(super) fn check(&mut self, records: &[RecoveredRecord]) {
        self.check_from(self.kept.last().copied(), records);
    }

    /// What was recovered from the log of a checkpoint against the truth.
    pub(super) fn check_from(&mut self, base: Option<Base>, records: &[RecoveredRecord]) {
        let needed = self.history.split_off(&base.map_or(WriteNumber(0), |base| base.write));
        let mut found: BTreeMap<WriteNumber, Vec<WalRecord>> = BTreeMap::new();
        let mut last = WriteNumber(0);
        for RecoveredRecord { write, record, location, payload } in records {
            assert_eq!(*payload, PayloadState::Intact);
            assert!(*write >= last, "records come in order");
            last = *write;
            found.entry(*write).or_default().push(record.clone());
            if let (Some(location), WalRecord::Entry(entry) | WalRecord::Fill(entry)) = (location, record) {
                self.read_back(entry, *location);
            }
        }
        // A start may carry what earlier ones wrote under a number of its own; order and bounds of writes stay.
        let mut at = 0;
        for (number, written) in &needed {
            let there = records[at..].iter().take(written.len()).map(|found| &found.record);
            if !written.iter().eq(there) {
                assert!(
                    *number > self.durable,
                    "write {number} was durable, but it was not recovered as it was written"
                );
                break;
            }
            at += written.len();
        }
        assert_eq!(at, records.len(), "what was recovered is a beginning of what was written");
        self.history.append(&mut found);
    }

    pub(super) fn read_back(&mut self, entry: &EntryRecord, location: crate::log::record::EntryLocation) {
        let read = EntryRead { group: entry.group, index: entry.index, term: entry.term, location };
        let bytes = match read.action() {
            None => Bytes::new(),
            Some(action) => match self.disk.run(action) {
                Ok(DiskOutput::Read(bytes)) => bytes,
                other => panic!("a read is answered by bytes, not {other:?}"),
            },
        };
        assert_eq!(read.check(bytes), Ok((entry.context.clone(), entry.data.clone())));
    }

    /// Names a checkpoint of everything up to now. It counts once that is durable.
    pub(super) fn begin_checkpoint(&mut self, process: &mut Process) {
        let base = Base { file: process.wal.current_file(), write: WriteNumber(process.wal.last_sealed().0 + 1) };
        let number = self.append(process, vec![WalRecord::CheckpointDone { checkpoint: Bytes::from_static(b"done") }]);
        process.checkpoint = Some((number, base));
    }

    /// Two checkpoints are kept, and the log from the older one on.
    pub(super) fn finish_checkpoint(&mut self, process: &mut Process) {
        let Some((_, base)) = process.checkpoint.take_if(|(number, _)| *number <= process.wal.durable()) else {
            return;
        };
        self.kept.push(base);
        if self.kept.len() > 2 {
            self.kept.remove(0);
        }
        process.wal.release_before(self.kept[0].file);
        self.history = self.history.split_off(&self.kept[0].write);
    }

    /// Random appends for a number of turns, with a checkpoint now and then.
    pub(super) fn work_with_checkpoints(&mut self, process: &mut Process, turns: u64) -> Result<(), End> {
        for _ in 0..turns {
            self.finish_checkpoint(process);
            if process.checkpoint.is_none() && self.random.below(12) == 0 {
                self.begin_checkpoint(process);
            }
            self.work(process, 1)?;
        }
        Ok(())
    }

    /// What the WAL takes on this disk.
    pub(super) fn wal_bytes(&self) -> u64 {
        self.wal_files().into_iter().map(|file| self.disk.file(file).len() as u64).sum()
    }

    /// Random appends for a number of turns.
    pub(super) fn work(&mut self, process: &mut Process, turns: u64) -> Result<(), End> {
        for _ in 0..turns {
            for _ in 0..self.random.below(3) {
                let records: Vec<WalRecord> =
                    (0..1 + self.random.below(4)).map(|_| random_record(&mut self.random)).collect();
                self.append(process, records);
            }
            self.turn(process)?;
            for _ in 0..self.random.below(3) {
                self.complete_one(process)?;
            }
        }
        Ok(())
    }

    pub(super) fn append(&mut self, process: &mut Process, records: Vec<WalRecord>) -> WriteNumber {
        let number = process.wal.append(records.clone());
        assert!(number > process.wal.durable(), "what was just appended is not durable");
        self.history.entry(number).or_default().extend(records);
        number
    }

    pub(super) fn turn(&mut self, process: &mut Process) -> Result<(), End> {
        let mut effects = Effects::default();
        process.wal.poll(self.now, &mut effects, &mut process.ids, &mut process.events);
        process.pending.take_from(&mut effects);
        Ok(())
    }

    /// Carries out one pending operation, if there is one.
    pub(super) fn complete_one(&mut self, process: &mut Process) -> Result<bool, End> {
        let Some(operation) = process.pending.next(&mut self.random) else { return Ok(false) };
        let result = self.carry_out(&operation)?;
        assert!(process.wal.handle(self.now, operation.id, &result, &mut process.events)?);
        self.durable = self.durable.max(process.wal.durable());
        Ok(true)
    }

    /// The next operation of this kind on the WAL fails.
    pub(super) fn fail(&mut self, process: &mut Process, kind: &str) -> Exit {
        loop {
            self.turn(process).unwrap();
            let operation = process.pending.next(&mut self.random).expect("something is to be done");
            let fails = match operation.action {
                DiskAction::Write { .. } => kind == "write",
                DiskAction::Sync { .. } => kind == "sync",
                _ => false,
            };
            let result = if fails { Err(DiskError::Io { errno: 5 }) } else { self.disk.run(operation.action) };
            match process.wal.handle(self.now, operation.id, &result, &mut process.events) {
                Ok(handled) => assert!(handled && !fails),
                Err(exit) => return exit,
            }
        }
    }

    /// Until nothing is left to do, marks included.
    pub(super) fn settle(&mut self, process: &mut Process) -> Result<(), End> {
        loop {
            self.turn(process)?;
            if self.complete_one(process)? {
                continue;
            }
            match process.wal.next_deadline() {
                Some(deadline) => self.now.monotonic = self.now.monotonic.max(deadline),
                None => return Ok(()),
            }
        }
    }

    pub(super) fn now(&self) -> Monotonic {
        self.now.monotonic
    }

    /// Lets time pass.
    pub(super) fn wait_until(&mut self, at: Monotonic) {
        self.now.monotonic = self.now.monotonic.max(at);
    }

    pub(super) fn cut_power(&mut self, mode: Mode) {
        self.disk.cut_power(mode, &mut self.random);
    }

    pub(super) fn wal_files(&self) -> Vec<FileName> {
        self.disk.files().into_iter().filter(|file| matches!(file, FileName::Wal(_))).collect()
    }
}

pub(super) fn random_bytes(random: &mut Stream, length: u64) -> Bytes {
    (0..length).map(|_| random.next_u64() as u8).collect::<Vec<u8>>().into()
}

pub(super) fn random_record(random: &mut Stream) -> WalRecord {
    let group = GroupId(random.below(5));
    let replica = ReplicaId(1 + random.below(3));
    let index = LogIndex(2 + random.below(100));
    let term = Term(1 + random.below(9));
    let length = match random.below(8) {
        0 => 0,
        1 => random.below(20_000),
        2 => 4096 * random.below(3),
        _ => random.below(300),
    };
    match random.below(12) {
        0 => WalRecord::Create { group, replica, creation: random_bytes(random, 40) },
        1 => WalRecord::Destroy { group, replica },
        2 => WalRecord::Switch { group, replica, state: random_bytes(random, length) },
        3 => WalRecord::Quarantine { group, replica, index, build: Bytes::from_static(b"kauri 0.1") },
        4 => WalRecord::CheckpointDone { checkpoint: random_bytes(random, 30) },
        5 | 6 => WalRecord::HardState { group, replica, term, vote: ReplicaId(random.below(3)), commit: index },
        kind => {
            let context_length = random.below(2) * 36;
            let entry = EntryRecord {
                group,
                index,
                term,
                kind: match random.below(3) {
                    0 => EntryKind::ConfChange,
                    1 => EntryKind::ConfChangeV2,
                    _ => EntryKind::Normal,
                },
                context: random_bytes(random, context_length),
                data: random_bytes(random, length),
            };
            if kind == 7 { WalRecord::Fill(entry) } else { WalRecord::Entry(entry) }
        }
    }
}

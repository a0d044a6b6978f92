//! The threads that carry out disk operations: one for the WAL, a few for everything else.
//!
//! Invariant: the operations of [`kauri_core::io::Effects::wal`] are carried out strictly in the order they were
//! queued, each after the one before it ended. All others run in any order.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc,
    },
    thread::JoinHandle,
};

use kauri_core::io::{DiskAction, DiskOperation, Input};

use super::{
    disk::Disk,
    event::{Events, tell},
    thread,
};

/// Threads besides the WAL's. Their work waits for the disk, not for a processor.
const THREADS: usize = 4;

/// What was asked of the disk since the start.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) wal_writes: AtomicU64,
    pub(crate) wal_syncs: AtomicU64,
    /// Of everything but the WAL's writes: segments, checkpoints, directories, files made ahead.
    pub(crate) other_syncs: AtomicU64,
}

impl Counts {
    fn count_wal(&self, action: &DiskAction) {
        if matches!(action, DiskAction::Write { .. }) {
            self.wal_writes.fetch_add(1, Relaxed);
        } else if matches!(action, DiskAction::Sync { .. }) {
            self.wal_syncs.fetch_add(1, Relaxed);
        }
    }

    fn count_other(&self, action: &DiskAction) {
        if matches!(action, DiskAction::Sync { .. } | DiskAction::SyncDirectory { .. }) {
            self.other_syncs.fetch_add(1, Relaxed);
        }
    }
}

/// The queues into the threads; they end when this is dropped, after what is queued.
pub(crate) struct DiskQueues {
    pub(crate) wal: mpsc::Sender<DiskOperation>,
    pub(crate) disk: mpsc::Sender<DiskOperation>,
}

/// The threads of a disk, and how they are told what to do.
pub(crate) struct Started {
    pub(crate) queues: DiskQueues,
    pub(crate) threads: Vec<JoinHandle<()>>,
    pub(crate) counts: Arc<Counts>,
}

pub(crate) fn start(node: &str, disk: &Arc<Disk>, events: &Events) -> io::Result<Started> {
    let counts = Arc::new(Counts::default());
    let (wal, wal_operations) = mpsc::channel::<DiskOperation>();
    let (other, operations) = mpsc::channel();
    let mut threads = Vec::with_capacity(1 + THREADS);
    threads.push({
        let (disk, events, counts) = (Arc::clone(disk), events.clone(), Arc::clone(&counts));
        thread::spawn(format!("{node}-wal"), events.clone(), move || {
            for operation in wal_operations {
                counts.count_wal(&operation.action);
                carry_out(&disk, operation, &events);
            }
        })?
    });
    let operations = Arc::new(Mutex::new(operations));
    for number in 0..THREADS {
        let (disk, events, operations) = (Arc::clone(disk), events.clone(), Arc::clone(&operations));
        let counts = Arc::clone(&counts);
        threads.push(thread::spawn(format!("{node}-disk-{number}"), events.clone(), move || {
            while let Some(operation) = next(&operations) {
                counts.count_other(&operation.action);
                carry_out(&disk, operation, &events);
            }
        })?);
    }
    Ok(Started { queues: DiskQueues { wal, disk: other }, threads, counts })
}

/// One thread waits in the queue, the others for the lock; which of them gets an operation does not matter.
fn next(operations: &Mutex<mpsc::Receiver<DiskOperation>>) -> Option<DiskOperation> {
    operations.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

fn carry_out(disk: &Disk, operation: DiskOperation, events: &Events) {
    let result = disk.carry_out(operation.action);
    tell(events, Input::Disk { operation: operation.id, result });
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use kauri_core::{
        ids::{FileSequence, OperationId},
        io::{DiskAction, DiskError, DiskOutput, FileName},
    };

    use crate::driver::{data_directory::DataDirectory, event::Event};

    fn results(events: &mpsc::Receiver<Event>, count: usize) -> Vec<(u64, Result<DiskOutput, DiskError>)> {
        let result = |event| match event {
            Event::Input(Input::Disk { operation, result }) => (operation.0, result),
            _ => panic!("disk threads report disk operations only"),
        };
        events.iter().take(count).map(result).collect()
    }

    #[test]
    fn the_wal_keeps_its_order() {
        let root = tempfile::tempdir().unwrap();
        let disk = Arc::new(Disk::new(DataDirectory::open(root.path()).unwrap()).unwrap());
        let (events, reports) = mpsc::channel();
        let Started { queues, threads, counts } = start("node-1", &disk, &events).unwrap();

        // Each write overwrites what the one before it wrote, and a read sees the last.
        let file = FileName::Wal(FileSequence(1));
        for id in 0..200 {
            let slices = vec![Bytes::copy_from_slice(&u64::to_be_bytes(id))];
            let action = match id % 3 {
                2 => DiskAction::Read { file, offset: 0, length: 8 },
                _ => DiskAction::Write { file, offset: 0, slices },
            };
            queues.wal.send(DiskOperation { id: OperationId(id), action }).unwrap();
        }
        let mut written = 0;
        for (position, (id, result)) in results(&reports, 200).into_iter().enumerate() {
            assert_eq!(id, position as u64);
            match result.unwrap() {
                DiskOutput::Done => written = id,
                DiskOutput::Read(bytes) => assert_eq!(bytes, &written.to_be_bytes()[..]),
                DiskOutput::List(_) => panic!("nothing was listed"),
            }
        }

        drop(queues);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(counts.wal_writes.load(Relaxed), 134, "reads are not counted");
        assert_eq!(counts.wal_syncs.load(Relaxed), 0, "nothing was synced");
    }

    #[test]
    fn every_other_operation_is_answered_once_and_errors_are_answers() {
        let root = tempfile::tempdir().unwrap();
        let disk = Arc::new(Disk::new(DataDirectory::open(root.path()).unwrap()).unwrap());
        let (events, reports) = mpsc::channel();
        let Started { queues, threads, .. } = start("node-1", &disk, &events).unwrap();
        for id in 0..50 {
            let file = FileName::Wal(FileSequence(id));
            let action = DiskAction::Read { file, offset: 0, length: 8 };
            queues.disk.send(DiskOperation { id: OperationId(id), action }).unwrap();
        }
        let mut answered = results(&reports, 50);
        answered.sort_by_key(|(id, _)| *id);
        for (expected, (id, result)) in answered.into_iter().enumerate() {
            assert_eq!(id, expected as u64);
            assert_eq!(result.unwrap_err(), DiskError::NotFound);
        }
        drop(queues);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}

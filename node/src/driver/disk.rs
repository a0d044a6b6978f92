//! Carries out single disk operations below one data directory.
//!
//! Invariant: whatever the operating system answers, an operation ends with a [`DiskOutput`] or a [`DiskError`], never
//! with a panic; and a file with writes that were not synced yet stays open, because the kernel reports a failed
//! write-back only to descriptors that were open when it failed.
//!
//! Any number of threads may carry out operations at the same time. Which must wait for which is the core's business.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, IoSlice},
    os::unix::fs::FileExt,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use kauri_core::io::{Directory, DiskAction, DiskError, DiskOutput, FileName};
use rustix::{
    buffer::spare_capacity,
    fs::{Advice, fadvise},
    io::{Errno, pread, pwritev, retry_on_intr},
};

use super::data_directory::{DataDirectory, create_durably};

/// Files kept open although nobody uses them right now.
const IDLE_FILES_MAX: usize = 256;
/// What one system call writes at most, in slices (Linux: UIO_MAXIOV).
const SLICES_MAX: usize = 1024;

static ZEROS: [u8; 1 << 20] = [0; 1 << 20];

/// The disk of a node: one data directory and the files open in it.
#[derive(Debug)]
pub struct Disk {
    directory: DataDirectory,
    open: Mutex<OpenFiles>,
}

#[derive(Debug, Default)]
struct OpenFiles {
    files: BTreeMap<FileName, OpenFile>,
    /// Counts uses, so that the least recently used file is known.
    uses: u64,
}

#[derive(Debug)]
struct OpenFile {
    file: Arc<File>,
    last_use: u64,
    /// Writes begun, and how many of them had begun when the last successful sync did.
    writes: u64,
    synced: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Missing {
    IsCreated,
    IsAnError,
}

impl Disk {
    pub fn new(directory: DataDirectory) -> io::Result<Self> {
        let disk = Self { directory, open: Mutex::default() };
        for directory in [Directory::Wal, Directory::Checkpoints, Directory::Images, Directory::Groups] {
            create_durably(&disk.directory_path(directory))?;
        }
        Ok(disk)
    }

    pub fn carry_out(&self, action: DiskAction) -> Result<DiskOutput, DiskError> {
        match action {
            DiskAction::Create { file, size } => self.create(file, size).map(|()| DiskOutput::Done),
            DiskAction::Write { file, offset, slices } => self.write(file, offset, &slices).map(|()| DiskOutput::Done),
            DiskAction::Sync { file } => self.sync(file).map(|()| DiskOutput::Done),
            DiskAction::SyncDirectory { directory } => {
                File::open(self.directory_path(directory)).and_then(|open| open.sync_all()).map(|()| DiskOutput::Done)
            }
            DiskAction::Read { file, offset, length } => self.read(file, offset, length).map(DiskOutput::Read),
            DiskAction::Truncate { file, length } => self.truncate(file, length).map(|()| DiskOutput::Done),
            DiskAction::Rename { from, to } => self.rename(from, to).map(|()| DiskOutput::Done),
            DiskAction::Remove { file } => self.remove(file).map(|()| DiskOutput::Done),
            DiskAction::List { directory } => self.list(directory).map(DiskOutput::List),
        }
        .map_err(|error| disk_error(&error))
    }

    fn create(&self, file: FileName, size: u64) -> io::Result<()> {
        let open = self.open(file, Missing::IsCreated)?;
        self.note_write(file);
        open.set_len(0)?;
        let mut written = 0;
        while written < size {
            let chunk = usize::try_from(size - written).unwrap_or(usize::MAX).min(ZEROS.len());
            open.write_all_at(&ZEROS[..chunk], written)?;
            written += chunk as u64;
        }
        Ok(())
    }

    fn write(&self, file: FileName, offset: u64, slices: &[Bytes]) -> io::Result<()> {
        let open = self.open(file, Missing::IsCreated)?;
        self.note_write(file);
        let mut slices: Vec<IoSlice<'_>> = slices.iter().map(|slice| IoSlice::new(slice)).collect();
        let mut rest = &mut slices[..];
        let mut at = offset;
        // Takes empty slices off the front, so that a write of nothing ends here.
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            let count = rest.len().min(SLICES_MAX);
            let written = retry_on_intr(|| pwritev(&*open, &rest[..count], at))?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            IoSlice::advance_slices(&mut rest, written);
            at += written as u64;
        }
        Ok(())
    }

    fn sync(&self, file: FileName) -> io::Result<()> {
        let open = self.open(file, Missing::IsAnError)?;
        let writes = self.lock().files.get(&file).map_or(0, |open| open.writes);
        open.sync_data().inspect_err(|_| forget_pages(&open))?;
        if let Some(open) = self.lock().files.get_mut(&file) {
            open.synced = open.synced.max(writes);
        }
        Ok(())
    }

    /// Allocates no more than the file holds.
    fn read(&self, file: FileName, offset: u64, length: usize) -> io::Result<Bytes> {
        let open = self.open(file, Missing::IsAnError)?;
        let available = open.metadata()?.len().saturating_sub(offset);
        let length = length.min(usize::try_from(available).unwrap_or(usize::MAX));
        let mut bytes: Vec<u8> = Vec::new();
        bytes.try_reserve_exact(length).map_err(|_| io::Error::from(Errno::NOMEM))?;
        while bytes.len() < length {
            let at = offset + bytes.len() as u64;
            // The vector may have been given more room than was asked for, hence the truncation below.
            if retry_on_intr(|| pread(&*open, spare_capacity(&mut bytes), at))? == 0 {
                break;
            }
        }
        bytes.truncate(length);
        Ok(Bytes::from(bytes))
    }

    fn truncate(&self, file: FileName, length: u64) -> io::Result<()> {
        let open = self.open(file, Missing::IsAnError)?;
        self.note_write(file);
        open.set_len(length)
    }

    fn rename(&self, from: FileName, to: FileName) -> io::Result<()> {
        fs::rename(self.file_path(from), self.file_path(to))?;
        let mut open = self.lock();
        open.files.remove(&to);
        if let Some(file) = open.files.remove(&from) {
            open.files.insert(to, file);
        }
        Ok(())
    }

    fn remove(&self, file: FileName) -> io::Result<()> {
        self.lock().files.remove(&file);
        match fs::remove_file(self.file_path(file)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    fn list(&self, directory: Directory) -> io::Result<Vec<(FileName, u64)>> {
        let entries = match fs::read_dir(self.directory_path(directory)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut files = Vec::new();
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let Some(file) = name.to_str().and_then(|name| FileName::parse(directory, name)) else { continue };
            let metadata = entry.metadata()?;
            if metadata.is_file() {
                files.push((file, metadata.len()));
            }
        }
        files.sort_by_key(|(file, _)| file.name());
        Ok(files)
    }

    /// The file, opened now or before.
    fn open(&self, file: FileName, missing: Missing) -> io::Result<Arc<File>> {
        let mut open = self.lock();
        if let Some(file) = open.touch(file) {
            return Ok(file);
        }
        let path = self.file_path(file);
        let options = || {
            let mut options = File::options();
            options.read(true).write(true).truncate(false).create(missing == Missing::IsCreated);
            options
        };
        let opened = match options().open(&path) {
            // A directory that does not exist yet: the first file of a group.
            Err(error) if error.kind() == io::ErrorKind::NotFound && missing == Missing::IsCreated => {
                create_durably(&self.directory_path(file.directory()))?;
                options().open(&path)?
            }
            result => result?,
        };
        Ok(open.insert(file, opened))
    }

    fn note_write(&self, file: FileName) {
        if let Some(open) = self.lock().files.get_mut(&file) {
            open.writes += 1;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, OpenFiles> {
        // Each change of the map is complete before anything can panic.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn directory_path(&self, directory: Directory) -> PathBuf {
        self.directory.path().join(directory.path())
    }

    fn file_path(&self, file: FileName) -> PathBuf {
        self.directory.path().join(file.path())
    }
}

impl OpenFiles {
    fn touch(&mut self, file: FileName) -> Option<Arc<File>> {
        self.uses += 1;
        let open = self.files.get_mut(&file)?;
        open.last_use = self.uses;
        Some(Arc::clone(&open.file))
    }

    fn insert(&mut self, name: FileName, file: File) -> Arc<File> {
        if self.files.len() >= IDLE_FILES_MAX {
            let idle = self.files.iter().filter(|(_, open)| open.is_idle());
            if let Some((&oldest, _)) = idle.min_by_key(|(_, open)| open.last_use) {
                self.files.remove(&oldest);
            }
        }
        let file = Arc::new(file);
        let open = OpenFile { file: Arc::clone(&file), last_use: self.uses, writes: 0, synced: 0 };
        self.files.insert(name, open);
        file
    }
}

impl OpenFile {
    fn is_idle(&self) -> bool {
        Arc::strong_count(&self.file) == 1 && self.writes == self.synced
    }
}

/// After a failed write-back Linux calls pages clean that never reached the disk, and goes on showing them. The process
/// is about to end; the next one must read what is on the disk, so the kernel is told to forget them.
fn forget_pages(file: &File) {
    // The sync has failed already, and that is what is reported: there is nothing to be done about this one.
    fadvise(file, 0, None, Advice::DontNeed).ok();
}

fn disk_error(error: &io::Error) -> DiskError {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOENT) => DiskError::NotFound,
        Some(Errno::NOSPC | Errno::DQUOT) => DiskError::Full,
        Some(errno) => DiskError::Io { errno: errno.raw_os_error() },
        // The few errors the standard library makes itself, such as a write that took nothing.
        None => DiskError::Io { errno: Errno::IO.raw_os_error() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kauri_core::{
        ids::{FileSequence, GroupId, Offset},
        io::SegmentFile,
    };

    const WAL: FileName = FileName::Wal(FileSequence(1));

    fn segment(base: i64) -> FileName {
        FileName::Segment { group: GroupId(3), base: Offset(base), kind: SegmentFile::Log }
    }

    struct Fixture {
        root: tempfile::TempDir,
        disk: Disk,
    }

    impl Fixture {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            let disk = Disk::new(DataDirectory::open(root.path()).unwrap()).unwrap();
            Self { root, disk }
        }

        fn done(&self, action: DiskAction) {
            let output = self.disk.carry_out(action.clone()).unwrap();
            assert!(matches!(output, DiskOutput::Done), "{action:?} returned {output:?}");
        }

        fn write(&self, file: FileName, offset: u64, slices: &[&'static [u8]]) {
            let slices = slices.iter().map(|slice| Bytes::from_static(slice)).collect();
            self.done(DiskAction::Write { file, offset, slices });
        }

        fn read(&self, file: FileName, offset: u64, length: usize) -> Result<Bytes, DiskError> {
            match self.disk.carry_out(DiskAction::Read { file, offset, length })? {
                DiskOutput::Read(bytes) => Ok(bytes),
                output @ (DiskOutput::Done | DiskOutput::List(_)) => panic!("a read returned {output:?}"),
            }
        }

        fn list(&self, directory: Directory) -> Vec<(FileName, u64)> {
            match self.disk.carry_out(DiskAction::List { directory }).unwrap() {
                DiskOutput::List(files) => files,
                output @ (DiskOutput::Done | DiskOutput::Read(_)) => panic!("a list returned {output:?}"),
            }
        }
    }

    #[test]
    fn slices_are_written_one_after_the_other() {
        let disk = Fixture::new();
        disk.write(WAL, 3, &[b"one", b"", b"two"]);
        assert_eq!(disk.read(WAL, 0, 100).unwrap(), &b"\0\0\0onetwo"[..], "fewer bytes only at the end of the file");
        assert_eq!(disk.read(WAL, 4, 3).unwrap(), &b"net"[..]);
        assert_eq!(disk.read(WAL, 9, 3).unwrap(), &b""[..]);
        assert_eq!(disk.read(WAL, u64::MAX, 3).unwrap(), &b""[..]);
        disk.write(WAL, 0, &[]);
        assert_eq!(disk.list(Directory::Wal), [(WAL, 9)]);
    }

    #[test]
    fn more_slices_than_one_system_call_takes() {
        let disk = Fixture::new();
        let slices: Vec<Bytes> = (0..2500u32).map(|n| Bytes::copy_from_slice(&n.to_be_bytes())).collect();
        disk.done(DiskAction::Write { file: WAL, offset: 0, slices: slices.clone() });
        assert_eq!(disk.read(WAL, 0, usize::MAX).unwrap(), slices.concat());
    }

    #[test]
    fn a_created_file_consists_of_written_zeros_whatever_it_was_before() {
        use std::os::unix::fs::MetadataExt;
        let disk = Fixture::new();
        disk.write(WAL, 0, &[b"older life"]);
        let size = (5 << 20) + 17;
        disk.done(DiskAction::Create { file: WAL, size });
        disk.done(DiskAction::Sync { file: WAL });
        let bytes = disk.read(WAL, 0, usize::MAX).unwrap();
        assert_eq!(bytes.len() as u64, size);
        assert!(bytes.iter().all(|&byte| byte == 0));
        let blocks = fs::metadata(disk.root.path().join(WAL.path())).unwrap().blocks();
        assert!(blocks * 512 >= size, "the file is not sparse");
    }

    #[test]
    fn the_directory_of_a_group_appears_with_its_first_file() {
        let disk = Fixture::new();
        assert_eq!(disk.list(Directory::Group(GroupId(3))), []);
        disk.write(segment(20), 0, &[b"b"]);
        disk.write(segment(3), 0, &[b"aa"]);
        fs::write(disk.root.path().join("groups/3/notes.txt"), "not ours").unwrap();
        disk.done(DiskAction::SyncDirectory { directory: Directory::Group(GroupId(3)) });
        assert_eq!(disk.list(Directory::Group(GroupId(3))), [(segment(3), 2), (segment(20), 1)]);
    }

    #[test]
    fn truncate_rename_and_remove() {
        let disk = Fixture::new();
        disk.write(FileName::Identity, 0, &[b"old"]);
        disk.write(FileName::IdentityNew, 0, &[b"new and longer"]);
        disk.done(DiskAction::Truncate { file: FileName::IdentityNew, length: 3 });
        disk.done(DiskAction::Rename { from: FileName::IdentityNew, to: FileName::Identity });
        assert_eq!(disk.read(FileName::Identity, 0, 100).unwrap(), &b"new"[..]);
        assert_eq!(disk.read(FileName::IdentityNew, 0, 1), Err(DiskError::NotFound));
        // The name is free for another file, not for the renamed one under its old name.
        disk.write(FileName::IdentityNew, 0, &[b"newer"]);
        assert_eq!(disk.read(FileName::Identity, 0, 100).unwrap(), &b"new"[..]);
        disk.done(DiskAction::Remove { file: FileName::Identity });
        disk.done(DiskAction::Remove { file: FileName::Identity });
        assert_eq!(disk.read(FileName::Identity, 0, 1), Err(DiskError::NotFound));
    }

    #[test]
    fn what_is_not_there_is_not_found_and_other_failures_keep_their_number() {
        let disk = Fixture::new();
        let fails = |action: DiskAction, error| assert_eq!(disk.disk.carry_out(action).unwrap_err(), error);
        let missing = FileName::Wal(FileSequence(9));
        fails(DiskAction::Read { file: missing, offset: 0, length: 1 }, DiskError::NotFound);
        fails(DiskAction::Sync { file: missing }, DiskError::NotFound);
        fails(DiskAction::Truncate { file: missing, length: 0 }, DiskError::NotFound);
        fails(DiskAction::Rename { from: missing, to: WAL }, DiskError::NotFound);
        fails(DiskAction::SyncDirectory { directory: Directory::Group(GroupId(8)) }, DiskError::NotFound);

        fs::create_dir(disk.root.path().join(missing.path())).unwrap();
        let is_directory = DiskError::Io { errno: Errno::ISDIR.raw_os_error() };
        fails(DiskAction::Write { file: missing, offset: 0, slices: vec![Bytes::from_static(b"x")] }, is_directory);
        fails(DiskAction::Remove { file: missing }, is_directory);
        assert_eq!(disk.list(Directory::Wal), [], "a directory is no file, whatever its name");
    }

    #[test]
    fn a_full_disk_is_told_apart() {
        assert_eq!(disk_error(&Errno::NOSPC.into()), DiskError::Full);
        assert_eq!(disk_error(&Errno::DQUOT.into()), DiskError::Full);
        assert_eq!(disk_error(&io::ErrorKind::WriteZero.into()), DiskError::Io { errno: 5 });
    }

    #[test]
    fn only_synced_files_are_closed_to_make_room() {
        let disk = Fixture::new();
        disk.write(segment(0), 0, &[b"x"]);
        for base in 1..=(IDLE_FILES_MAX as i64 + 10) {
            disk.write(segment(base), 0, &[b"x"]);
            disk.done(DiskAction::Sync { file: segment(base) });
        }
        let open = disk.disk.lock();
        assert!(open.files.len() <= IDLE_FILES_MAX + 1, "{} files are open", open.files.len());
        assert!(open.files.contains_key(&segment(0)), "its write was not synced");
    }
}

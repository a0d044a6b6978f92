//! The disk as a FUSE file system.
//!
//! Invariant: the kernel caches nothing (no data, no attributes, no names), so that after a cut it shows what the disk
//! has and nothing else. Handles from before a cut answer EIO for ever.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard},
    thread,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner,
    OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use rustix::{
    fs::{FallocateFlags, OFlags},
    io::Errno as OsErrno,
};

use crate::disk::{Attributes, Disk, DiskError, NodeId, NodeKind, SECTOR_BYTES};

/// For how long the kernel may believe what it was told.
const NO_TIME: Duration = Duration::ZERO;
const BLOCK_BYTES: u32 = 4096;

/// What the file system and whoever cuts its power share.
#[derive(Debug)]
pub(crate) struct Shared {
    state: Mutex<State>,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) disk: Disk,
    handles: BTreeMap<u64, Handle>,
    next_handle: u64,
}

#[derive(Debug)]
struct Handle {
    node: NodeId,
    append: bool,
    /// Whether every write is also a sync (O_SYNC, O_DSYNC).
    synchronous: bool,
    /// What a directory held when it was opened, with its kinds.
    listing: Vec<(OsString, NodeId, NodeKind)>,
}

#[derive(Debug)]
pub(crate) struct PowerFs {
    shared: Arc<Shared>,
    backing: PathBuf,
    /// How long a sync takes.
    sync_delay: Duration,
}

impl Shared {
    pub(crate) fn new(disk: Disk) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(State { disk, handles: BTreeMap::new(), next_handle: 1 }) })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        // A panic is a broken invariant: nothing may be answered after it.
        self.state.lock().expect("no holder of the lock panicked")
    }
}

impl State {
    /// Makes every handle one from before.
    pub(crate) fn forget_handles(&mut self) {
        self.handles.clear();
    }

    fn open(&mut self, node: NodeId, flags: OFlags, listing: Vec<(OsString, NodeId, NodeKind)>) -> u64 {
        self.disk.retain(node);
        let handle = self.next_handle;
        self.next_handle += 1;
        let append = flags.contains(OFlags::APPEND);
        // O_SYNC contains O_DSYNC.
        let synchronous = flags.contains(OFlags::DSYNC);
        self.handles.insert(handle, Handle { node, append, synchronous, listing });
        handle
    }

    fn handle(&self, handle: FileHandle) -> Result<&Handle, DiskError> {
        self.handles.get(&handle.0).ok_or(DiskError::Gone)
    }

    fn close(&mut self, handle: FileHandle) -> Result<(), DiskError> {
        match self.handles.remove(&handle.0) {
            Some(handle) => {
                self.disk.close(handle.node)?;
                self.disk.release(handle.node, 1)
            }
            None => Ok(()),
        }
    }

    /// An entry that the kernel is told of, which counts as a use.
    fn entry(&mut self, node: NodeId) -> Result<FileAttr, DiskError> {
        let attributes = attributes(&self.disk.attributes(node)?);
        self.disk.retain(node);
        Ok(attributes)
    }

    fn set_attributes(
        &mut self,
        node: NodeId,
        mode: Option<u32>,
        size: Option<u64>,
        modified: Option<TimeOrNow>,
    ) -> Result<FileAttr, DiskError> {
        if let Some(mode) = mode {
            self.disk.set_mode(node, mode)?;
        }
        if let Some(size) = size {
            self.disk.set_length(node, size)?;
        }
        match modified {
            Some(TimeOrNow::SpecificTime(time)) => self.disk.set_modified(node, time)?,
            Some(TimeOrNow::Now) => self.disk.set_modified(node, SystemTime::now())?,
            None => {}
        }
        Ok(attributes(&self.disk.attributes(node)?))
    }

    fn allocate(&mut self, handle: FileHandle, offset: u64, length: u64, mode: i32) -> Result<(), Errno> {
        let node = self.handle(handle).map_err(errno)?.node;
        let mode = u32::try_from(mode).ok().and_then(FallocateFlags::from_bits).ok_or(Errno::EOPNOTSUPP)?;
        let extend = !mode.contains(FallocateFlags::KEEP_SIZE);
        let end = offset.checked_add(length).ok_or(Errno::EFBIG)?;
        let kind = mode - FallocateFlags::KEEP_SIZE;
        if kind.is_empty() {
            if extend && end > self.disk.attributes(node).map_err(errno)?.length {
                self.disk.set_length(node, end).map_err(errno)?;
            }
            Ok(())
        } else if kind == FallocateFlags::ZERO_RANGE || kind == FallocateFlags::PUNCH_HOLE && !extend {
            self.disk.zero(node, offset, length, extend).map_err(errno)
        } else {
            Err(Errno::EOPNOTSUPP)
        }
    }
}

impl PowerFs {
    pub(crate) fn new(shared: Arc<Shared>, backing: PathBuf, sync_delay: Duration) -> Self {
        Self { shared, backing, sync_delay }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.lock()
    }

    fn create_node(&self, parent: INodeNo, name: &OsStr, kind: NodeKind, mode: u32, umask: u32, reply: ReplyEntry) {
        let mut state = self.lock();
        let created = state.disk.create(node(parent), name, kind, mode & !umask);
        match created.and_then(|created| state.entry(created)) {
            Ok(attributes) => reply.entry(&NO_TIME, &attributes, Generation(0)),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn sync_handle(&self, handle: FileHandle) -> Result<(), DiskError> {
        thread::sleep(self.sync_delay);
        let mut state = self.lock();
        let node = state.handle(handle)?.node;
        state.disk.sync(node)
    }
}

impl Filesystem for PowerFs {
    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let mut state = self.lock();
        let found = state.disk.lookup(node(parent), name);
        match found.and_then(|found| state.entry(found)) {
            Ok(attributes) => reply.entry(&NO_TIME, &attributes, Generation(0)),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn forget(&self, _request: &Request, inode: INodeNo, lookups: u64) {
        if let Err(error) = self.lock().disk.release(node(inode), lookups) {
            eprintln!("powerfs: a node that is not used any more cannot be removed: {error}");
        }
    }

    fn getattr(&self, _request: &Request, inode: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        match self.lock().disk.attributes(node(inode)) {
            Ok(found) => reply.attr(&NO_TIME, &attributes(&found)),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn setattr(
        &self,
        _request: &Request,
        inode: INodeNo,
        mode: Option<u32>,
        _user: Option<u32>,
        _group: Option<u32>,
        size: Option<u64>,
        _accessed: Option<TimeOrNow>,
        modified: Option<TimeOrNow>,
        _changed: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _created: Option<SystemTime>,
        _status_changed: Option<SystemTime>,
        _backed_up: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        match self.lock().set_attributes(node(inode), mode, size, modified) {
            Ok(attributes) => reply.attr(&NO_TIME, &attributes),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn mknod(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _device: u32,
        reply: ReplyEntry,
    ) {
        if rustix::fs::FileType::from_raw_mode(mode) == rustix::fs::FileType::RegularFile {
            self.create_node(parent, name, NodeKind::File, mode, umask, reply);
        } else {
            reply.error(Errno::EPERM);
        }
    }

    fn mkdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        self.create_node(parent, name, NodeKind::Directory, mode, umask, reply);
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        finish(self.lock().disk.remove(node(parent), name, NodeKind::File), reply);
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        finish(self.lock().disk.remove(node(parent), name, NodeKind::Directory), reply);
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let keep = flags == RenameFlags::RENAME_NOREPLACE;
        if keep || flags.is_empty() {
            let mut state = self.lock();
            finish(state.disk.rename((node(parent), name), (node(new_parent), new_name), keep), reply);
        } else {
            reply.error(Errno::EINVAL);
        }
    }

    fn open(&self, _request: &Request, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let mut state = self.lock();
        match state.disk.attributes(node(inode)) {
            Ok(found) => {
                let handle = state.open(found.node, open_flags(flags.0), Vec::new());
                reply.opened(FileHandle(handle), FopenFlags::FOPEN_DIRECT_IO);
            }
            Err(error) => reply.error(errno(error)),
        }
    }

    fn create(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let flags = open_flags(flags);
        let mut state = self.lock();
        let created = match state.disk.create(node(parent), name, NodeKind::File, mode & !umask) {
            // Somebody was faster.
            Err(DiskError::Exists) if !flags.contains(OFlags::EXCL) => state.disk.lookup(node(parent), name),
            created => created,
        };
        match created.and_then(|created| state.entry(created)) {
            Ok(attributes) => {
                let handle = state.open(node(attributes.ino), flags, Vec::new());
                let handle = FileHandle(handle);
                reply.created(&NO_TIME, &attributes, Generation(0), handle, FopenFlags::FOPEN_DIRECT_IO);
            }
            Err(error) => reply.error(errno(error)),
        }
    }

    fn read(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let mut state = self.lock();
        let found = state.handle(handle).map(|handle| handle.node);
        match found.and_then(|found| state.disk.read(found, offset, size as usize)) {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn write(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let bytes = Bytes::copy_from_slice(data);
        let mut state = self.lock();
        let found = state.handle(handle).map(|handle| (handle.node, handle.append, handle.synchronous));
        let written = found.and_then(|(found, append, synchronous)| {
            let disk = &mut state.disk;
            if append { disk.append(found, bytes) } else { disk.write(found, offset, bytes) }.map(|()| synchronous)
        });
        drop(state);
        let written = written.and_then(|synchronous| if synchronous { self.sync_handle(handle) } else { Ok(()) });
        match written {
            Ok(()) => reply.written(u32::try_from(data.len()).expect("the kernel counts in 32 bits")),
            Err(error) => reply.error(errno(error)),
        }
    }

    /// A close makes nothing durable.
    fn flush(&self, _request: &Request, _inode: INodeNo, handle: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        finish(self.lock().handle(handle).map(|_| ()), reply);
    }

    fn release(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        finish(self.lock().close(handle), reply);
    }

    /// fdatasync is no less than fsync: the length of a file is part of its data.
    fn fsync(&self, _request: &Request, _inode: INodeNo, handle: FileHandle, _data_only: bool, reply: ReplyEmpty) {
        finish(self.sync_handle(handle), reply);
    }

    fn opendir(&self, _request: &Request, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let mut state = self.lock();
        let opened =
            listing(&state.disk, node(inode)).map(|listing| state.open(node(inode), open_flags(flags.0), listing));
        match opened {
            Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::empty()),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn readdir(&self, _request: &Request, _inode: INodeNo, handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let state = self.lock();
        let listing = match state.handle(handle) {
            Ok(handle) => &handle.listing,
            Err(error) => return reply.error(errno(error)),
        };
        for (next, (name, found, kind)) in (1..).zip(listing).skip(usize::try_from(offset).unwrap_or(usize::MAX)) {
            if reply.add(INodeNo(found.0), next, file_type(*kind), name) {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        finish(self.lock().close(handle), reply);
    }

    fn fsyncdir(&self, _request: &Request, _inode: INodeNo, handle: FileHandle, _data_only: bool, reply: ReplyEmpty) {
        finish(self.sync_handle(handle), reply);
    }

    fn statfs(&self, _request: &Request, _inode: INodeNo, reply: ReplyStatfs) {
        match rustix::fs::statvfs(&self.backing) {
            Ok(found) => reply.statfs(
                found.f_blocks,
                found.f_bfree,
                found.f_bavail,
                found.f_files,
                found.f_ffree,
                u32::try_from(found.f_bsize).unwrap_or(BLOCK_BYTES),
                u32::try_from(found.f_namemax).unwrap_or(255),
                u32::try_from(found.f_frsize).unwrap_or(BLOCK_BYTES),
            ),
            Err(error) => reply.error(Errno::from_i32(error.raw_os_error())),
        }
    }

    fn fallocate(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        match self.lock().allocate(handle, offset, length, mode) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(error),
        }
    }
}

fn listing(disk: &Disk, directory: NodeId) -> Result<Vec<(OsString, NodeId, NodeKind)>, DiskError> {
    let entries = disk.list(directory)?;
    let itself = (OsString::from("."), directory, NodeKind::Directory);
    let parent = (OsString::from(".."), disk.parent(directory)?, NodeKind::Directory);
    Ok([itself, parent].into_iter().chain(entries).collect())
}

fn node(inode: INodeNo) -> NodeId {
    NodeId(inode.0)
}

/// Flags that this file system does not know mean nothing to it.
fn open_flags(flags: i32) -> OFlags {
    OFlags::from_bits_retain(flags as u32)
}

fn file_type(kind: NodeKind) -> FileType {
    match kind {
        NodeKind::File => FileType::RegularFile,
        NodeKind::Directory => FileType::Directory,
    }
}

fn attributes(found: &Attributes) -> FileAttr {
    FileAttr {
        ino: INodeNo(found.node.0),
        size: found.length,
        blocks: found.length.div_ceil(SECTOR_BYTES),
        atime: found.modified,
        mtime: found.modified,
        ctime: found.modified,
        crtime: found.modified,
        kind: file_type(found.kind),
        perm: found.mode as u16,
        nlink: found.links,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        rdev: 0,
        blksize: BLOCK_BYTES,
        flags: 0,
    }
}

fn finish(result: Result<(), DiskError>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(error)),
    }
}

fn errno(error: DiskError) -> Errno {
    match error {
        DiskError::NotFound => Errno::ENOENT,
        DiskError::Exists => Errno::EEXIST,
        DiskError::NotADirectory => Errno::ENOTDIR,
        DiskError::IsADirectory => Errno::EISDIR,
        DiskError::NotEmpty => Errno::ENOTEMPTY,
        DiskError::Invalid => Errno::EINVAL,
        DiskError::Gone => Errno::EIO,
        DiskError::Backing(error) => {
            eprintln!("powerfs: {error}");
            let code = OsErrno::from_io_error(&error).unwrap_or(OsErrno::IO);
            Errno::from_i32(code.raw_os_error())
        }
    }
}

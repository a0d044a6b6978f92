//! The self-test: what is written to a mount, and what is there after a power cut.
//!
//! Needs /dev/fuse and the right to mount, and fails without.
#![expect(clippy::disallowed_methods, reason = "a mount is waited for in real time")]

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read, Write},
    os::unix::{
        fs::{FileExt, OpenOptionsExt},
        net::UnixStream,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::fs::{FallocateFlags, OFlags};

const PATIENCE: Duration = Duration::from_secs(20);

/// A mounted directory. What the mount shows is below `path`.
struct Mount {
    path: PathBuf,
    socket: PathBuf,
    process: Child,
    directory: tempfile::TempDir,
}

impl Mount {
    fn new(options: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (backing, path) = (directory.path().join("backing"), directory.path().join("mount"));
        fs::create_dir(&backing).unwrap();
        fs::create_dir(&path).unwrap();
        let socket = directory.path().join("control");
        let mut process = Command::new(env!("CARGO_BIN_EXE_powerfs"))
            .arg("mount")
            .args([&backing, &path])
            .arg("--control")
            .arg(&socket)
            .arg("--while-input")
            .args(options)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let start = Instant::now();
        while UnixStream::connect(&socket).is_err() {
            let ended = process.try_wait().unwrap();
            assert!(ended.is_none(), "powerfs cannot mount here: {ended:?}");
            assert!(start.elapsed() < PATIENCE, "powerfs does not mount");
            std::thread::yield_now();
        }
        Self { path, socket, process, directory }
    }

    fn command(&self, command: &str) -> String {
        let mut stream = UnixStream::connect(&self.socket).unwrap();
        writeln!(stream, "{command}").unwrap();
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).unwrap();
        answer.trim_end().strip_prefix("ok").unwrap_or_else(|| panic!("{command}: {answer}")).trim().to_owned()
    }

    fn cut(&self) {
        self.command("cut nothing 0");
    }

    fn file(&self, name: &str) -> File {
        File::options().read(true).write(true).create(true).truncate(false).open(self.path.join(name)).unwrap()
    }

    fn sync_root(&self) {
        File::open(&self.path).unwrap().sync_all().unwrap();
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path.join(name)).unwrap()
    }

    fn names(&self) -> Vec<String> {
        names(&self.path)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        self.process.wait().unwrap();
        assert_eq!(names(&self.path), [""; 0], "what is mounted no more is not seen");
        assert!(self.directory.path().exists());
    }
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn bytes_written_without_a_sync_are_gone_and_with_a_sync_they_stay() {
    let mount = Mount::new(&[]);
    for (name, sync) in [("fsync", File::sync_all as fn(&File) -> _), ("fdatasync", File::sync_data)] {
        let mut file = mount.file(name);
        file.write_all(b"synced").unwrap();
        sync(&file).unwrap();
        file.write_all(b", not synced").unwrap();
        file.write_all_at(b"SYNC", 0).unwrap();
        assert_eq!(mount.read(name), b"SYNCed, not synced", "it is there as long as there is power");
    }
    mount.sync_root();
    mount.cut();
    assert_eq!(mount.read("fsync"), b"synced");
    assert_eq!(mount.read("fdatasync"), b"synced");
}

#[test]
fn writes_to_a_file_opened_for_synchronous_writes_stay() {
    let mount = Mount::new(&[]);
    for (name, flag) in [("sync", OFlags::SYNC), ("dsync", OFlags::DSYNC)] {
        let mut options = File::options();
        options.write(true).create(true).truncate(false).custom_flags(flag.bits() as i32);
        let mut file = options.open(mount.path.join(name)).unwrap();
        file.write_all(b"synced ").unwrap();
        file.write_all(b"too").unwrap();
    }
    mount.sync_root();
    mount.cut();
    assert_eq!(mount.read("sync"), b"synced too");
    assert_eq!(mount.read("dsync"), b"synced too");
}

#[test]
fn a_file_created_without_a_sync_of_the_directory_is_gone() {
    let mount = Mount::new(&[]);
    mount.file("before").sync_all().unwrap();
    mount.sync_root();
    let mut file = mount.file("after");
    file.write_all(b"data").unwrap();
    file.sync_all().unwrap();
    fs::create_dir(mount.path.join("directory")).unwrap();
    assert_eq!(mount.names(), ["after", "before", "directory"]);
    mount.cut();
    assert_eq!(mount.names(), ["before"]);
}

#[test]
fn a_rename_lasts_when_the_directory_is_synced() {
    let mount = Mount::new(&[]);
    for (name, bytes) in [("identity", b"old"), ("identity.new", b"new")] {
        let mut file = mount.file(name);
        file.write_all(bytes).unwrap();
        file.sync_all().unwrap();
    }
    mount.sync_root();
    let rename = || fs::rename(mount.path.join("identity.new"), mount.path.join("identity")).unwrap();
    rename();
    assert_eq!((mount.names(), mount.read("identity")), (vec!["identity".to_owned()], b"new".to_vec()));
    mount.cut();
    assert_eq!(mount.read("identity"), b"old");
    assert_eq!(mount.read("identity.new"), b"new");
    rename();
    mount.sync_root();
    mount.cut();
    assert_eq!((mount.names(), mount.read("identity")), (vec!["identity".to_owned()], b"new".to_vec()));
}

#[test]
fn a_removal_lasts_when_the_directory_is_synced() {
    let mount = Mount::new(&[]);
    let mut file = mount.file("file");
    file.write_all(b"data").unwrap();
    file.sync_all().unwrap();
    mount.sync_root();
    fs::remove_file(mount.path.join("file")).unwrap();
    let mut bytes = Vec::new();
    file.write_all_at(b"D", 0).unwrap();
    File::read_to_end(&mut { file }, &mut bytes).unwrap();
    assert_eq!(mount.names(), [""; 0]);
    mount.cut();
    assert_eq!(mount.read("file"), b"data");
    fs::remove_file(mount.path.join("file")).unwrap();
    mount.sync_root();
    mount.cut();
    assert_eq!(mount.names(), [""; 0]);
}

#[test]
fn what_was_open_at_the_cut_answers_errors_for_ever() {
    let mount = Mount::new(&[]);
    let file = mount.file("file");
    file.sync_all().unwrap();
    mount.sync_root();
    let directory = File::open(&mount.path).unwrap();
    mount.cut();
    let is_input_output_error = |result: std::io::Result<()>| result.unwrap_err().raw_os_error() == Some(5);
    assert!(is_input_output_error(file.write_all_at(b"x", 0)));
    assert!(is_input_output_error(file.read_exact_at(&mut [0], 0)));
    assert!(is_input_output_error(file.sync_all()));
    assert!(is_input_output_error(directory.sync_all()));
    mount.file("file").write_all(b"again").unwrap();
    assert_eq!(mount.read("file"), b"again");
}

#[test]
fn without_power_nothing_works() {
    let mount = Mount::new(&[]);
    mount.file("file").sync_all().unwrap();
    mount.sync_root();
    mount.command("off torn 1");
    for result in [fs::write(mount.path.join("new"), b"x"), fs::read_dir(&mount.path).map(drop)] {
        assert_eq!(result.unwrap_err().raw_os_error(), Some(5));
    }
    mount.command("on");
    assert_eq!(mount.names(), ["file"]);
}

#[test]
fn preallocated_files_and_direct_writes() {
    let mount = Mount::new(&[]);
    let path = mount.path.join("wal");
    let mut options = File::options();
    options.read(true).write(true).create_new(true).custom_flags(OFlags::DIRECT.bits() as i32);
    let file = options.open(&path).unwrap();
    rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 1 << 20).unwrap();
    file.sync_all().unwrap();
    mount.sync_root();
    // Vectors of pieces of any length, as a WAL is written.
    let pieces: Vec<Vec<u8>> = (0..700).map(|number| vec![number as u8; number % 97]).collect();
    let slices: Vec<_> = pieces.iter().map(|piece| std::io::IoSlice::new(piece)).collect();
    let mut written = 0;
    let whole = pieces.concat();
    while written < whole.len() {
        let mut rest = slices.clone();
        let mut rest = &mut rest[..];
        std::io::IoSlice::advance_slices(&mut rest, written);
        let count = rest.len().min(1024);
        written += rustix::io::pwritev(&file, &rest[..count], 4096 + written as u64).unwrap();
    }
    file.sync_data().unwrap();
    file.write_all_at(&[7; 4096], 512 << 10).unwrap();
    rustix::fs::fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 4096, 100).unwrap();
    mount.cut();
    let found = mount.read("wal");
    assert_eq!(found.len(), 1 << 20);
    assert_eq!(found[4096..4096 + whole.len()], whole[..]);
    assert!(found[..4096].iter().chain(&found[4096 + whole.len()..]).all(|byte| *byte == 0));
}

#[test]
fn appending_truncating_and_large_writes() {
    let mount = Mount::new(&[]);
    let large: Vec<u8> = (0..5_000_000_u32).map(|number| ((number * 7) >> 3) as u8).collect();
    fs::write(mount.path.join("large"), &large).unwrap();
    assert_eq!(mount.read("large"), large);
    File::options().append(true).open(mount.path.join("large")).unwrap().write_all(b"end").unwrap();
    let file = mount.file("large");
    file.sync_all().unwrap();
    mount.sync_root();
    assert_eq!(fs::metadata(mount.path.join("large")).unwrap().len(), 5_000_003);
    fs::write(mount.path.join("large"), b"short").unwrap();
    assert_eq!(mount.read("large"), b"short");
    mount.cut();
    assert_eq!(mount.read("large")[..], [&large[..], b"end"].concat());
}

#[test]
fn torn_cuts_keep_any_sectors_and_what_was_synced() {
    let mount = Mount::new(&[]);
    let file = mount.file("file");
    file.write_all_at(&[1; 64 << 10], 0).unwrap();
    file.sync_all().unwrap();
    mount.sync_root();
    let mut kinds = std::collections::BTreeSet::new();
    for seed in 0..30 {
        let file = mount.file("file");
        file.write_all_at(&[1; 64 << 10], 0).unwrap();
        file.sync_all().unwrap();
        file.write_all_at(&[2; 4 << 10], 8 << 10).unwrap();
        mount.command(&format!("cut torn {seed}"));
        let found = mount.read("file");
        let twos = found.iter().filter(|byte| **byte == 2).count();
        assert_eq!(twos % 512, 0);
        assert!(found[..8 << 10].iter().chain(&found[12 << 10..]).all(|byte| *byte == 1));
        kinds.insert(twos);
    }
    assert!(kinds.len() > 3 && kinds.contains(&0) && kinds.contains(&4096), "{kinds:?}");
}

#[test]
fn old_data_is_written_back_if_asked_for() {
    let mount = Mount::new(&["--write-back", "1", "--commit", "1"]);
    mount.file("file").write_all(b"data").unwrap();
    let start = Instant::now();
    while mount.command("status") != "file_changes=0 bytes=0 entry_changes=0" {
        assert!(start.elapsed() < PATIENCE, "nothing is written back");
        std::thread::yield_now();
    }
    mount.cut();
    assert_eq!(mount.read("file"), b"data");
}

#[test]
fn directories_are_listed_whole() {
    let mount = Mount::new(&["--like", "ext4"]);
    let expected: Vec<String> = (0..2000).map(|number| format!("a name of some length {number:04}")).collect();
    expected.iter().for_each(|name| drop(mount.file(name)));
    assert_eq!(mount.names(), expected);
    mount.file("a name of some length 0000").sync_all().unwrap();
    mount.cut();
    assert_eq!(mount.names(), expected, "like ext4, any sync makes all names last");
}

#[test]
fn a_process_that_is_asked_to_end_unmounts() {
    let mut mount = Mount::new(&[]);
    mount.file("file").write_all(b"data").unwrap();
    let process = rustix::process::Pid::from_child(&mount.process);
    rustix::process::kill_process(process, rustix::process::Signal::TERM).unwrap();
    assert!(mount.process.wait().unwrap().success());
    assert_eq!(mount.names(), [""; 0]);
}

#[test]
fn locks_work() {
    let mount = Mount::new(&[]);
    let (one, other) = (mount.file("lock"), mount.file("lock"));
    one.try_lock().unwrap();
    assert!(other.try_lock().is_err());
    drop(one);
    other.try_lock().unwrap();
}

#[test]
fn commands_are_understood_or_refused() {
    let mount = Mount::new(&[]);
    let powerfs = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_powerfs"))
            .args(arguments)
            .arg("--control")
            .arg(&mount.socket)
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    mount.file("file").write_all(b"data").unwrap();
    assert_eq!(powerfs(&["status"]).1, "file_changes=1 bytes=4 entry_changes=1\n");
    assert_eq!(powerfs(&["cut"]).1, "unsynced=2 survived=0\n");
    let (code, _, sentence) = powerfs(&["cut", "--keep", "everything"]);
    assert_eq!(code, Some(1));
    assert_eq!(sentence, "powerfs: a cut keeps nothing, prefix or torn, not everything\n");
    assert_eq!(powerfs(&["cot"]).0, Some(2));
    assert_eq!(powerfs(&["unmount"]).0, Some(0));
}

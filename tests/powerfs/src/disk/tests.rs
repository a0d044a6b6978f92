//! Stories about disks, without FUSE.

use std::{collections::BTreeMap, ffi::OsStr, path::Path};

use bytes::Bytes;

use super::{Disk, DiskError, Keep, LIMBO, Likeness, NodeId, NodeKind, Unsynced};
use crate::random::Random;

const ROOT: NodeId = NodeId::ROOT;

struct Fixture {
    directory: tempfile::TempDir,
    disk: Disk,
}

impl Fixture {
    fn new() -> Self {
        Self::with(Likeness::Posix)
    }

    fn with(like: Likeness) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let disk = Disk::open(directory.path().to_owned(), like).unwrap();
        Self { directory, disk }
    }

    fn file(&mut self, directory: NodeId, name: &str, bytes: &'static [u8]) -> NodeId {
        let file = self.disk.create(directory, OsStr::new(name), NodeKind::File, 0o644).unwrap();
        self.disk.write(file, 0, Bytes::from_static(bytes)).unwrap();
        file
    }

    fn directory(&mut self, directory: NodeId, name: &str) -> NodeId {
        self.disk.create(directory, OsStr::new(name), NodeKind::Directory, 0o755).unwrap()
    }

    fn rename(&mut self, from: (NodeId, &str), to: (NodeId, &str)) {
        self.disk.rename((from.0, OsStr::new(from.1)), (to.0, OsStr::new(to.1)), false).unwrap();
    }

    fn remove(&mut self, directory: NodeId, name: &str, kind: NodeKind) {
        self.disk.remove(directory, OsStr::new(name), kind).unwrap();
    }

    fn sync(&mut self, nodes: &[NodeId]) {
        nodes.iter().for_each(|node| self.disk.sync(*node).unwrap());
    }

    /// Cuts the power; what is there then: directories end with a slash.
    fn cut(&mut self, keep: Keep, seed: u64) -> BTreeMap<String, Vec<u8>> {
        self.disk.cut(keep, seed).unwrap();
        assert!(matches!(self.disk.attributes(ROOT), Err(DiskError::Gone)), "there is no power");
        self.disk.switch_on();
        assert_eq!(self.disk.unsynced(), Unsynced::default());
        let found = self.tree();
        assert_eq!(found, on_disk(self.directory.path()), "the backing directory holds the same");
        found
    }

    fn after_cut(&mut self) -> BTreeMap<String, Vec<u8>> {
        self.cut(Keep::Nothing, 0)
    }

    fn tree(&mut self) -> BTreeMap<String, Vec<u8>> {
        let mut found = BTreeMap::new();
        let mut directories = vec![(ROOT, String::new())];
        while let Some((directory, path)) = directories.pop() {
            for (name, node, kind) in self.disk.list(directory).unwrap() {
                let path = format!("{path}{}", name.to_str().unwrap());
                match kind {
                    NodeKind::File => {
                        found.insert(path, self.disk.read(node, 0, usize::MAX).unwrap());
                    }
                    NodeKind::Directory => {
                        found.insert(format!("{path}/"), Vec::new());
                        directories.push((node, format!("{path}/")));
                    }
                }
            }
        }
        found
    }
}

fn on_disk(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut directories = vec![(root.to_owned(), String::new())];
    while let Some((directory, path)) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            let path = format!("{path}{}", entry.file_name().to_str().unwrap());
            if entry.file_type().unwrap().is_file() {
                found.insert(path, std::fs::read(entry.path()).unwrap());
            } else if path != LIMBO {
                found.insert(format!("{path}/"), Vec::new());
                directories.push((entry.path(), format!("{path}/")));
            }
        }
    }
    found
}

fn tree<const N: usize>(entries: [(&str, &[u8]); N]) -> BTreeMap<String, Vec<u8>> {
    entries.into_iter().map(|(path, bytes)| (path.to_owned(), bytes.to_owned())).collect()
}

#[test]
fn data_and_names_last_each_by_its_own_sync() {
    let mut fixture = Fixture::new();
    let both = fixture.file(ROOT, "both", b"data");
    fixture.file(ROOT, "name only", b"data");
    fixture.sync(&[both, ROOT]);
    let data = fixture.file(ROOT, "data only", b"data");
    fixture.sync(&[data]);
    fixture.file(ROOT, "nothing", b"data");
    assert_eq!(fixture.tree().len(), 4);
    assert_eq!(fixture.after_cut(), tree([("both", b"data"), ("name only", b"")]));
}

#[test]
fn what_was_synced_before_its_directory_comes_with_it() {
    let mut fixture = Fixture::new();
    let one = fixture.directory(ROOT, "one");
    let two = fixture.directory(one, "two");
    let file = fixture.file(two, "file", b"data");
    fixture.sync(&[file, two, one]);
    assert_eq!(on_disk(fixture.directory.path()), tree([]), "nobody can find it yet");
    fixture.sync(&[ROOT]);
    assert_eq!(fixture.after_cut(), tree([("one/", b""), ("one/two/", b""), ("one/two/file", b"data")]));
}

#[test]
fn a_rename_replaces_a_file_when_the_directory_is_synced() {
    for synced in [false, true] {
        let mut fixture = Fixture::new();
        let old = fixture.file(ROOT, "identity", b"old");
        fixture.sync(&[old, ROOT]);
        let new = fixture.file(ROOT, "identity.new", b"new");
        fixture.sync(&[new]);
        fixture.rename((ROOT, "identity.new"), (ROOT, "identity"));
        assert_eq!(fixture.tree(), tree([("identity", b"new")]));
        if synced {
            fixture.sync(&[ROOT]);
        }
        let expected: &[u8] = if synced { b"new" } else { b"old" };
        assert_eq!(fixture.after_cut(), tree([("identity", expected)]));
    }
}

#[test]
fn a_rename_before_the_data_is_synced_leaves_an_empty_file() {
    let mut fixture = Fixture::new();
    let old = fixture.file(ROOT, "identity", b"old");
    fixture.sync(&[old, ROOT]);
    fixture.file(ROOT, "identity.new", b"new");
    fixture.rename((ROOT, "identity.new"), (ROOT, "identity"));
    fixture.sync(&[ROOT]);
    assert_eq!(fixture.after_cut(), tree([("identity", b"")]));
}

#[test]
fn a_rename_between_directories_is_durable_in_both_or_in_none() {
    for synced in 0..2 {
        let mut fixture = Fixture::new();
        let directories = [fixture.directory(ROOT, "from"), fixture.directory(ROOT, "to")];
        let file = fixture.file(directories[0], "file", b"data");
        fixture.sync(&[file, directories[0], ROOT]);
        fixture.rename((directories[0], "file"), (directories[1], "renamed"));
        fixture.sync(&[directories[synced]]);
        assert_eq!(fixture.after_cut(), tree([("from/", b""), ("to/", b""), ("to/renamed", b"data")]));
    }
}

#[test]
fn what_is_removed_comes_back_unless_the_directory_is_synced() {
    for synced in [false, true] {
        let mut fixture = Fixture::new();
        let directory = fixture.directory(ROOT, "directory");
        let file = fixture.file(directory, "file", b"data");
        fixture.sync(&[file, directory, ROOT]);
        fixture.remove(directory, "file", NodeKind::File);
        fixture.remove(ROOT, "directory", NodeKind::Directory);
        assert_eq!(fixture.tree(), tree([]));
        if synced {
            fixture.sync(&[ROOT]);
            assert_eq!(fixture.after_cut(), tree([]));
        } else {
            assert_eq!(fixture.after_cut(), tree([("directory/", b""), ("directory/file", b"data")]));
        }
    }
}

#[test]
fn a_removed_file_is_there_for_those_who_have_it_open() {
    let mut fixture = Fixture::new();
    let file = fixture.file(ROOT, "file", b"data");
    fixture.disk.retain(file);
    fixture.sync(&[file, ROOT]);
    fixture.remove(ROOT, "file", NodeKind::File);
    fixture.sync(&[ROOT]);
    fixture.disk.append(file, Bytes::from_static(b" and more")).unwrap();
    assert_eq!(fixture.disk.read(file, 0, 100).unwrap(), b"data and more");
    fixture.disk.release(file, 1).unwrap();
    assert!(matches!(fixture.disk.read(file, 0, 1), Err(DiskError::Gone)));
    assert_eq!(std::fs::read_dir(fixture.directory.path().join(LIMBO)).unwrap().count(), 0, "nothing is left of it");
}

#[test]
fn lengths_last_with_the_data() {
    let mut fixture = Fixture::new();
    let file = fixture.file(ROOT, "file", b"0123456789");
    fixture.sync(&[file, ROOT]);
    fixture.disk.set_length(file, 4).unwrap();
    fixture.disk.set_length(file, 6).unwrap();
    assert_eq!(fixture.tree(), tree([("file", b"0123\0\0")]));
    fixture.sync(&[file]);
    fixture.disk.set_length(file, 0).unwrap();
    fixture.disk.append(file, Bytes::from_static(b"x")).unwrap();
    assert_eq!(fixture.after_cut(), tree([("file", b"0123\0\0")]));
}

#[test]
fn like_ext4_any_sync_makes_all_names_last() {
    let mut fixture = Fixture::with(Likeness::Ext4);
    let synced = fixture.file(ROOT, "synced", b"data");
    fixture.file(ROOT, "other", b"data");
    fixture.sync(&[synced]);
    fixture.file(ROOT, "later", b"data");
    assert_eq!(fixture.after_cut(), tree([("other", b""), ("synced", b"data")]));
}

#[test]
fn like_ext4_a_file_that_replaces_another_lasts_with_its_data() {
    let mut fixture = Fixture::with(Likeness::Ext4);
    for name in ["renamed over", "emptied"] {
        let file = fixture.file(ROOT, name, b"old");
        fixture.sync(&[file]);
    }
    fixture.file(ROOT, "new", b"new");
    fixture.rename((ROOT, "new"), (ROOT, "renamed over"));
    let emptied = fixture.disk.lookup(ROOT, OsStr::new("emptied")).unwrap();
    fixture.disk.set_length(emptied, 0).unwrap();
    fixture.disk.append(emptied, Bytes::from_static(b"new")).unwrap();
    fixture.disk.close(emptied).unwrap();
    fixture.disk.sync_all_entries().unwrap();
    assert_eq!(fixture.after_cut(), tree([("emptied", b"new"), ("renamed over", b"new")]));
}

#[test]
fn what_is_old_is_written_back() {
    let mut fixture = Fixture::new();
    fixture.file(ROOT, "old", b"data");
    fixture.disk.write_back().unwrap();
    fixture.file(ROOT, "young", b"data");
    fixture.disk.write_back().unwrap();
    fixture.disk.sync_all_entries().unwrap();
    assert_eq!(fixture.after_cut(), tree([("old", b"data"), ("young", b"")]));
}

#[test]
fn a_directory_cannot_move_into_itself() {
    let mut fixture = Fixture::new();
    let one = fixture.directory(ROOT, "one");
    let two = fixture.directory(one, "two");
    let moved = fixture.disk.rename((ROOT, OsStr::new("one")), (two, OsStr::new("one")), false);
    assert!(matches!(moved, Err(DiskError::Invalid)));
    // Not either when a cut loses the moves in between.
    for seed in 0..100 {
        let mut fixture = Fixture::new();
        let (one, two) = (fixture.directory(ROOT, "one"), fixture.directory(ROOT, "two"));
        fixture.sync(&[ROOT]);
        fixture.rename((ROOT, "one"), (two, "one"));
        fixture.rename((two, "one"), (ROOT, "one"));
        fixture.rename((ROOT, "two"), (one, "two"));
        fixture.cut(Keep::Torn, seed);
    }
}

#[test]
fn a_prefix_keeps_the_order() {
    let mut lengths = std::collections::BTreeSet::new();
    for seed in 0..200 {
        let mut fixture = Fixture::new();
        let file = fixture.file(ROOT, "file", b"");
        fixture.sync(&[ROOT]);
        for number in 0..10 {
            fixture.disk.append(file, vec![number; 2000].into()).unwrap();
        }
        let found = fixture.cut(Keep::Prefix, seed);
        let expected: Vec<u8> = (0..10).flat_map(|number| [number; 2000]).collect();
        let length = found["file"].len();
        assert_eq!(found["file"], expected[..length]);
        assert!(length.is_multiple_of(512) || length.is_multiple_of(2000), "{length} bytes");
        lengths.insert(length);
    }
    assert!(lengths.len() > 20 && lengths.contains(&0) && lengths.contains(&20_000));
}

/// Random changes and syncs against a plain model: the tree is the model's at any time, and after a cut what was synced
/// is there, whatever survived of the rest.
#[test]
fn a_disk_is_a_tree_until_a_cut_and_keeps_what_was_synced() {
    for seed in 0..300 {
        let mut random = Random::new(seed);
        let mut fixture = Fixture::new();
        let directory = fixture.directory(ROOT, "d");
        let mut model: BTreeMap<String, Vec<u8>> = tree([("d/", b"")]);
        for number in 0..60_u64 {
            let (parent, prefix) = if random.coin() { (ROOT, "") } else { (directory, "d/") };
            let name = format!("f{}", random.below(4));
            let path = format!("{prefix}{name}");
            let found = fixture.disk.lookup(parent, OsStr::new(&name)).ok();
            match (random.below(6), found) {
                (0..=2, found) => {
                    let file = found.unwrap_or_else(|| fixture.file(parent, &name, b""));
                    let offset = random.below(2000);
                    let bytes = vec![number as u8; random.below(1000) as usize + 1];
                    let plain = model.entry(path).or_default();
                    plain.resize(plain.len().max(offset as usize + bytes.len()), 0);
                    plain[offset as usize..offset as usize + bytes.len()].copy_from_slice(&bytes);
                    fixture.disk.write(file, offset, bytes.into()).unwrap();
                }
                (3, Some(_)) => {
                    let (to, to_prefix) = if random.coin() { (ROOT, "") } else { (directory, "d/") };
                    let to_name = format!("f{}", random.below(4));
                    fixture.rename((parent, &name), (to, &to_name));
                    let bytes = model.remove(&path).unwrap();
                    model.insert(format!("{to_prefix}{to_name}"), bytes);
                }
                (4, Some(_)) => {
                    fixture.remove(parent, &name, NodeKind::File);
                    model.remove(&path);
                }
                (5, Some(file)) => fixture.sync(&[file]),
                (_, _) => fixture.sync(&[parent]),
            }
            assert_eq!(fixture.tree(), model, "seed {seed}");
        }
        let files: Vec<NodeId> = [ROOT, directory]
            .into_iter()
            .flat_map(|parent| fixture.disk.list(parent).unwrap())
            .map(|(_, node, _)| node)
            .collect();
        if seed % 2 == 0 {
            fixture.sync(&files);
            fixture.sync(&[ROOT]);
            fixture.file(directory, "unsynced", b"data");
            fixture.remove(directory, "unsynced", NodeKind::File);
            let found = fixture.cut(Keep::Torn, seed);
            let expected = |found: &BTreeMap<String, Vec<u8>>| {
                let files = found.iter().filter(|(path, _)| *path != "d/unsynced");
                files.map(|(path, bytes)| (path.clone(), bytes.clone())).collect::<BTreeMap<_, _>>()
            };
            assert_eq!(expected(&found), model, "seed {seed}");
        } else {
            // Nothing is known of what survives, but that it is a tree which the backing directory has as well.
            let keep = if seed % 4 == 1 { Keep::Torn } else { Keep::Prefix };
            fixture.cut(keep, seed);
        }
    }
}

//! Entries whose payloads are no longer in memory.

use super::cluster::Cluster;
use super::member::command;
use crate::limits;

/// Three members of which 3 missed everything; the leader 1 holds no payload in memory.
fn lagging() -> Cluster {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.isolate(3);
    for data in ["a", "b", "c", "d"] {
        cluster.propose(1, data);
        cluster.settle();
    }
    let cached = cluster.group(1).cached_bytes();
    assert_eq!(cached, 4 * command("a").0.len() + 4);
    assert_eq!(cluster.group(1).evict(usize::MAX), cached);
    assert_eq!(cluster.group(1).cached_bytes(), 0);
    cluster
}

#[test]
fn a_lagging_member_is_served_from_disk() {
    let mut cluster = lagging();
    cluster.heal();
    cluster.tick(2 * limits::HEARTBEAT_TICKS);
    assert_eq!(cluster.applied(3), ["a", "b", "c", "d"]);
    assert_eq!(cluster.group(1).cached_bytes(), 0, "what was read back is gone again");
}

#[test]
fn one_read_serves_all_that_wait_for_it_and_a_failed_one_is_repeated() {
    let mut cluster = lagging();
    cluster.member(1).holds_fetches = true;
    cluster.heal();
    cluster.tick(2 * limits::HEARTBEAT_TICKS);
    assert_eq!(cluster.member(1).fetches.len(), 1, "however often it was tried");
    assert_eq!(cluster.applied(3), [""; 0]);
    let fetch = cluster.member(1).fetches.pop_front().unwrap();
    assert_eq!(fetch.locations.len(), 4, "all that fits into a message");
    cluster.group(1).fetch_failed(fetch.first);
    cluster.settle();
    cluster.tick(2 * limits::HEARTBEAT_TICKS);
    assert_eq!(cluster.member(1).fetches.len(), 1);
    cluster.member(1).holds_fetches = false;
    cluster.member(1).answer_fetches();
    cluster.settle();
    assert_eq!(cluster.applied(3), ["a", "b", "c", "d"]);
}

#[test]
fn entries_are_applied_from_disk_after_a_restart() {
    let mut cluster = lagging();
    cluster.heal();
    cluster.tick(2 * limits::HEARTBEAT_TICKS);
    for id in 1..=3 {
        cluster.member(id).crash(0);
        cluster.member(id).start();
    }
    assert_eq!(cluster.applied(2), [""; 0]);
    cluster.elect(2);
    cluster.tick(2 * limits::HEARTBEAT_TICKS);
    for id in 1..=3 {
        assert_eq!(cluster.applied(id), ["a", "b", "c", "d"]);
    }
}

/// The entries that are being read are replaced meanwhile: what comes back belongs to nobody.
#[test]
fn a_read_that_comes_back_too_late_is_ignored() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.isolate(1);
    for data in ["lost 1", "lost 2"] {
        cluster.propose(1, data);
    }
    cluster.settle();
    // After a restart, 1 has the entries on disk only; it leads again, while nobody knows them, and reads them.
    cluster.member(1).crash(0);
    cluster.member(1).start();
    cluster.member(1).holds_fetches = true;
    cluster.heal();
    cluster.elect(1);
    assert_eq!(cluster.member(1).fetches.len(), 1);
    let first = cluster.member(1).fetches[0].first;

    cluster.isolate(1);
    cluster.elect(2);
    for data in ["kept 1", "kept 2", "kept 3"] {
        cluster.propose(2, data);
    }
    cluster.settle();
    cluster.heal();
    cluster.tick(2 * limits::HEARTBEAT_TICKS);
    assert!(cluster.group(1).last_index() > first);
    cluster.member(1).holds_fetches = false;
    cluster.member(1).answer_fetches();
    cluster.tick(2 * limits::HEARTBEAT_TICKS);
    assert_eq!(cluster.applied(1), ["kept 1", "kept 2", "kept 3"]);
    assert_eq!(cluster.applied(3), ["kept 1", "kept 2", "kept 3"]);
}

#[test]
fn what_is_not_applied_stays_in_memory() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    cluster.member(1).holds_apply = true;
    cluster.propose(1, "a");
    cluster.settle();
    assert_eq!(cluster.group(1).evict(usize::MAX), 0);
    assert!(cluster.group(1).cached_bytes() > 0);
}

/// raft-rs lists everything committed when it campaigns; payloads on disk must not matter to it.
#[test]
fn rule_18_raft_never_waits_for_a_payload_itself() {
    let mut cluster = lagging();
    cluster.member(1).crash(0);
    cluster.member(1).holds_fetches = true;
    cluster.member(1).start();
    cluster.isolate(2);
    cluster.cut.remove(&(1, 3));
    cluster.cut.remove(&(3, 1));
    cluster.elect(1);
    assert!(cluster.group(1).applied() < cluster.group(1).commit_index(), "nothing could be applied yet");
}

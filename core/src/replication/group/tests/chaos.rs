//! Everything at once: elections, lost, repeated and reordered messages, slow disks, crashes that keep a prefix of what
//! was not synced, checkpoints, state transfers, changes of membership. From one seed, twice, with the same trace.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use prost::Message as _;
use raft::prelude::Message;

use super::super::{Membership, MembershipStep, SnapshotOffer, SnapshotOutcome};
use super::member::{AppliedEntry, State};
use super::member::{Member, command, fnv};
use crate::{
    ids::{LogIndex, NodeId, ReplicaId, Term},
    rng::Stream,
};

#[derive(Debug)]
enum Event {
    Tick(u64),
    Deliver(Message),
    Synced { id: u64, boot: u64, writes: usize },
    Fetched { id: u64, boot: u64 },
    Install { id: u64, boot: u64, offer: SnapshotOffer },
    Report { leader: u64, about: u64, outcome: SnapshotOutcome },
    Restart(u64),
    Fault,
    Propose,
    Reconfigure,
    Heal,
}

struct World {
    now: u64,
    /// Event number breaks ties.
    events: BTreeMap<(u64, u64), Event>,
    next_event: u64,
    random: Stream,
    members: BTreeMap<u64, Member>,
    boots: BTreeMap<u64, u64>,
    syncing: BTreeSet<u64>,
    destroyed: BTreeSet<u64>,
    next_id: u64,
    cut: BTreeSet<(u64, u64)>,
    faults: bool,
    trace: u64,
    committed: BTreeMap<LogIndex, AppliedEntry>,
    commands: u64,
    tally: Tally,
}

/// What a run met, so that a test of everything really tests it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    applied: u64,
    crashes: u64,
    elections: u64,
    installs: u64,
    changes: u64,
    joint: u64,
    fetches: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let membership = Membership::new([1, 2, 3].map(ReplicaId), []);
        let members = (1..=3).map(|id| (id, Member::created(id, &membership, seed))).collect();
        let mut world = Self {
            now: 0,
            events: BTreeMap::new(),
            next_event: 0,
            random: Stream::new(seed, NodeId(0), "chaos", 0),
            members,
            boots: (1..=3).map(|id| (id, 0)).collect(),
            syncing: BTreeSet::new(),
            destroyed: BTreeSet::new(),
            next_id: 4,
            cut: BTreeSet::new(),
            faults: true,
            trace: 0xcbf2_9ce4_8422_2325,
            committed: BTreeMap::new(),
            commands: 0,
            tally: Tally::default(),
        };
        for id in 1..=3 {
            world.members.get_mut(&id).unwrap().holds_fetches = true;
            world.at(id, Event::Tick(id));
        }
        world.at(500, Event::Fault);
        world.at(50, Event::Propose);
        world.at(8_000, Event::Reconfigure);
        world
    }

    fn at(&mut self, delay: u64, event: Event) {
        self.next_event += 1;
        self.events.insert((self.now + delay, self.next_event), event);
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.random.below(bound)
    }

    fn run(&mut self, until: u64) {
        while let Some(((time, _), event)) = self.events.pop_first() {
            if time > until {
                self.events.insert((time, 0), event);
                self.now = until;
                return;
            }
            self.now = time;
            self.handle(event);
        }
    }

    fn running(&mut self, id: u64) -> Option<&mut Member> {
        self.members.get_mut(&id).filter(|member| member.is_running())
    }

    fn running_in(&mut self, id: u64, boot: u64) -> Option<&mut Member> {
        if self.boots[&id] != boot { None } else { self.running(id) }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Tick(id) => {
                if self.destroyed.contains(&id) {
                    return;
                }
                self.at(100, Event::Tick(id));
                if let Some(member) = self.running(id) {
                    let group = member.group();
                    group.tick();
                    if group.has_unacknowledged() {
                        group.beat();
                    }
                    self.pump(id);
                }
            }
            Event::Deliver(message) => {
                let id = message.to;
                if let Some(member) = self.running(id) {
                    // Refusals are part of life here: strangers, full followers.
                    let _ = member.group().step(message);
                    self.pump(id);
                }
            }
            Event::Synced { id, boot, writes } => {
                self.syncing.remove(&id);
                if let Some(member) = self.running_in(id, boot) {
                    member.sync(writes);
                    self.pump(id);
                }
            }
            Event::Fetched { id, boot } => {
                if let Some(member) = self.running_in(id, boot) {
                    member.answer_fetches();
                    self.tally.fetches += 1;
                    self.pump(id);
                }
            }
            Event::Install { id, boot, offer } => {
                let mut outcome = SnapshotOutcome::Failed;
                if let Some(member) = self.running_in(id, boot) {
                    if member.install(&offer) {
                        self.tally.installs += 1;
                        *self.boots.get_mut(&id).unwrap() += 1;
                    }
                    outcome = SnapshotOutcome::Installed;
                    self.pump(id);
                }
                self.at(20, Event::Report { leader: offer.from.0, about: id, outcome });
            }
            Event::Report { leader, about, outcome } => {
                if let Some(member) = self.running(leader) {
                    member.group().report_snapshot(ReplicaId(about), outcome);
                    self.pump(leader);
                }
            }
            Event::Restart(id) => {
                if !self.destroyed.contains(&id)
                    && let Some(member) = self.members.get_mut(&id).filter(|member| !member.is_running())
                {
                    member.start();
                    *self.boots.get_mut(&id).unwrap() += 1;
                    self.pump(id);
                }
            }
            Event::Fault => self.fault(),
            Event::Heal => self.cut.clear(),
            Event::Propose => self.propose(),
            Event::Reconfigure => self.reconfigure(),
        }
    }

    fn leader(&self) -> Option<u64> {
        let leaders = self.members.iter().filter(|(_, member)| member.is_leader());
        leaders.max_by_key(|(_, member)| member.group.as_ref().map(|group| group.term())).map(|(&id, _)| id)
    }

    fn propose(&mut self) {
        let delay = 5 + self.below(60);
        self.at(delay, Event::Propose);
        let Some(leader) = self.leader() else { return };
        let count = 1 + self.below(3);
        let mut commands = Vec::new();
        for _ in 0..count {
            self.commands += 1;
            let mut data = self.commands.to_le_bytes().to_vec();
            data.resize(8 + self.random.below(40_000) as usize, 0);
            commands.push(command(data));
        }
        // Busy and handing over are answers too.
        let _ = self.members.get_mut(&leader).unwrap().group().propose(commands);
        self.pump(leader);
    }

    fn reconfigure(&mut self) {
        let delay = 1_000 + self.below(6_000);
        self.at(delay, Event::Reconfigure);
        let Some(leader) = self.leader() else { return };
        let group = self.members[&leader].group.as_ref().unwrap();
        let membership = group.membership().clone();
        let learners: Vec<_> = membership.learners.iter().copied().collect();
        let removable: Vec<_> = membership.voters.iter().copied().filter(|voter| voter.0 != leader).collect();
        let mut steps = Vec::new();
        if let Some(&learner) = learners.first() {
            if group.has_caught_up(learner) {
                steps.push(MembershipStep::Promote(learner));
                if membership.voters.len() >= 3 {
                    let victim = removable[self.random.below(removable.len() as u64) as usize];
                    steps.push(MembershipStep::Remove(victim));
                }
            }
        } else {
            let id = self.next_id;
            self.next_id += 1;
            let known: Vec<u64> = self.members.keys().copied().filter(|id| !self.destroyed.contains(id)).collect();
            let mut newcomer = Member::newcomer(id, known, self.random.next_u64());
            newcomer.holds_fetches = true;
            self.members.insert(id, newcomer);
            self.boots.insert(id, 0);
            self.at(1, Event::Tick(id));
            steps.push(MembershipStep::AddLearner(ReplicaId(id)));
            // As the metadata image would.
            for member in self.members.values_mut().filter(|member| member.is_running()) {
                member.group().introduce(ReplicaId(id));
            }
        }
        let proposed = self.members.get_mut(&leader).unwrap().group().propose_membership(&steps).is_ok();
        if let (false, Some(MembershipStep::AddLearner(id))) = (proposed, steps.first()) {
            self.destroyed.insert(id.0);
            self.members.get_mut(&id.0).unwrap().group = None;
        }
        self.tally.changes += u64::from(proposed);
        self.pump(leader);
    }

    fn fault(&mut self) {
        let delay = 300 + self.below(2_500);
        if !self.faults {
            return;
        }
        self.at(delay, Event::Fault);
        let running: Vec<u64> =
            self.members.iter().filter(|(_, member)| member.is_running()).map(|(&id, _)| id).collect();
        if running.is_empty() {
            return;
        }
        let id = running[self.random.below(running.len() as u64) as usize];
        match self.below(8) {
            0..=2 => self.crash(id),
            3 => running.into_iter().for_each(|id| self.crash(id)),
            4 => {
                for &other in &running {
                    self.cut.insert((id, other));
                    if self.random.below(2) == 0 {
                        self.cut.insert((other, id));
                    }
                }
                let delay = 500 + self.below(6_000);
                self.at(delay, Event::Heal);
            }
            5 => {
                let kept = self.below(20);
                let member = self.members.get_mut(&id).unwrap();
                member.checkpoint(kept);
                member.group().evict(usize::MAX);
                self.pump(id);
            }
            6 => {
                if let Some(leader) = self.leader() {
                    let voters = self.members[&leader].group.as_ref().unwrap().membership().voters.clone();
                    if let Some(to) = voters.into_iter().find(|voter| voter.0 != leader) {
                        let _ = self.members.get_mut(&leader).unwrap().group().transfer_leader(to);
                        self.pump(leader);
                    }
                }
            }
            _ => {
                // The failure detector believes that somebody is down.
                let group = self.members.get_mut(&id).unwrap().group();
                group.ignore_lease(true);
                group.campaign();
                self.pump(id);
                for other in running {
                    if let Some(member) = self.running(other) {
                        member.group().ignore_lease(other != id);
                    }
                }
            }
        }
    }

    fn crash(&mut self, id: u64) {
        let member = self.members.get_mut(&id).unwrap();
        let kept = self.random.below(member.disk.unsynced() as u64 + 1) as usize;
        member.crash(kept);
        self.tally.crashes += 1;
        *self.boots.get_mut(&id).unwrap() += 1;
        self.syncing.remove(&id);
        let delay = 50 + self.below(4_000);
        self.at(delay, Event::Restart(id));
    }

    /// Takes everything `id` has to do and turns it into events.
    fn pump(&mut self, id: u64) {
        let boot = self.boots[&id];
        let Some(member) = self.members.get_mut(&id).filter(|member| member.is_running()) else { return };
        member.pump();
        let applied = std::mem::take(&mut member.applied);
        let outbox: Vec<_> = member.outbox.drain(..).collect();
        member.provide_snapshots();
        let offers: Vec<_> = member.offers.drain(..).collect();
        let elections = member.roles.drain(..).filter(|change| change.leader == Some(member.id)).count();
        let memberships: Vec<_> = member.memberships.drain(..).collect();
        let fetches = member.fetches.len();
        let unsynced = member.disk.unsynced();
        let term = member.group().term();

        self.tally.elections += elections as u64;
        for entry in applied {
            self.check_applied(id, entry);
        }
        for message in outbox {
            self.send(message);
        }
        for offer in offers {
            let delay = 100 + self.below(3_000);
            self.at(delay, Event::Install { id, boot, offer });
        }
        if fetches > 0 {
            let delay = 1 + self.below(30);
            self.at(delay, Event::Fetched { id, boot });
        }
        if unsynced > 0 && self.syncing.insert(id) {
            let delay = 1 + self.below(25);
            let writes = 1 + self.below(unsynced as u64) as usize;
            self.at(delay, Event::Synced { id, boot, writes });
        }
        for change in memberships {
            self.tally.joint += u64::from(change.membership.is_joint());
            if change.removed {
                self.destroyed.insert(id);
                self.members.get_mut(&id).unwrap().group = None;
            }
        }
        self.note(&[id, term.0, self.now]);
    }

    fn note(&mut self, numbers: &[u64]) {
        for number in numbers {
            self.trace = fnv(self.trace, &number.to_le_bytes());
        }
    }

    fn send(&mut self, message: Message) {
        let frame = Bytes::from(message.encode_to_vec());
        self.trace = fnv(self.trace, &frame[..frame.len().min(64)]);
        self.note(&[self.now, frame.len() as u64]);
        if self.cut.contains(&(message.from, message.to)) {
            return;
        }
        let copies = match self.below(100) {
            0..=2 if self.faults => 0,
            3..=4 if self.faults => 2,
            _ => 1,
        };
        for _ in 0..copies {
            let delay = if self.below(50) == 0 { self.below(800) } else { 1 + self.below(8) };
            self.at(delay, Event::Deliver(Message::decode(frame.clone()).unwrap()));
        }
    }

    /// Whoever applies an index applies the same there, and reaches the same state.
    fn check_applied(&mut self, id: u64, entry: AppliedEntry) {
        self.note(&[id, entry.index.0, entry.term.0, entry.state.hash]);
        self.tally.applied += 1;
        match self.committed.get(&entry.index) {
            Some(first) => {
                assert_eq!((first.term, first.state), (entry.term, entry.state), "{id} at {}", entry.index);
            }
            None => {
                let before = self.committed.last_key_value().map(|(_, entry)| entry.state).unwrap_or_default();
                assert_eq!(entry.state.commands, before.commands + 1, "{id} at {}", entry.index);
                self.committed.insert(entry.index, entry);
            }
        }
    }
}

fn run(seed: u64) -> (u64, Tally) {
    let mut world = World::new(seed);
    world.run(60_000);

    // Peace: everybody that belongs to the group comes to the same state.
    world.faults = false;
    world.cut.clear();
    for member in world.members.values_mut().filter(|member| member.is_running()) {
        member.group().ignore_lease(false);
    }
    world.run(90_000);
    world.events.retain(|_, event| !matches!(event, Event::Propose | Event::Reconfigure));
    world.run(110_000);
    let leader = world.leader().unwrap_or_else(|| panic!("seed {seed}: somebody leads"));
    let (state, term): (State, Term) = {
        let leader = &world.members[&leader];
        (leader.state, leader.group.as_ref().unwrap().term())
    };
    let membership = world.members[&leader].group.as_ref().unwrap().membership().clone();
    assert!(!membership.is_joint(), "seed {seed}: no change is left half done");
    for replica in membership.members() {
        let member = &world.members[&replica.0];
        assert_eq!(member.state, state, "seed {seed}: replica {replica} follows");
        assert_eq!(member.group.as_ref().unwrap().term(), term, "seed {seed}");
    }
    (world.trace, world.tally)
}

#[test]
fn replicas_agree_under_chaos_and_a_seed_always_gives_the_same_trace() {
    let mut total = Tally::default();
    for seed in 1..=16 {
        let (trace, tally) = run(seed);
        assert_eq!((trace, tally), run(seed), "seed {seed} gives one trace");
        assert!(tally.applied > 500, "seed {seed}: {tally:?}");
        total.applied += tally.applied;
        total.crashes += tally.crashes;
        total.elections += tally.elections;
        total.installs += tally.installs;
        total.changes += tally.changes;
        total.joint += tally.joint;
        total.fetches += tally.fetches;
    }
    let met = [total.crashes, total.elections, total.installs, total.changes, total.joint, total.fetches];
    assert!(met.iter().all(|&count| count >= 32), "the runs meet everything: {total:?}");
}

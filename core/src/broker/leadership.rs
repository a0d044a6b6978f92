//! Who leads: campaigns where a leader is missing, gossip about leaders, spreading leadership over nodes.
//!
//! Invariant: nothing here affects safety. A node acts on its own observation of its peers only.

use std::collections::{BTreeMap, BTreeSet};

use super::{Broker, Replica, replica::Machine};
use crate::{
    ids::{GroupId, LogIndex, NodeId, ReplicaId, Term},
    limits::{self, PEER_GROUP_WINDOW_BYTES},
    metadata::{MetadataCommand, commands::SetNodeLiveness},
    replication::{
        group::ReplicationState,
        peer::{
            Peers,
            campaign::{Campaign, Electorate, majority_up},
        },
    },
    time::{Monotonic, Now, earliest},
};

/// A preferred leader takes over when it has been able to for this long.
const PREFERRED_AFTER: std::time::Duration = std::time::Duration::from_secs(2);
/// A preferred leader that does not take over is asked again after twice the time, up to two minutes.
const PREFERRED_DOUBLINGS_MAX: u32 = 6;
/// Leaderships handed over per round of duties, so that a node that comes back is not flooded.
const TRANSFERS_MAX: usize = 50;
/// Duties are looked at once in so many ticks.
const DUTY_TICKS: u64 = 5;
/// A new leader of the metadata group lets all nodes connect before it calls one of them down: it may just have started.
const CONNECT_MAX: std::time::Duration = std::time::Duration::from_secs(2);
/// A node that went down is still named to clients for so long: Kafka's is the session of a broker.
const LISTED_AFTER_DOWN: std::time::Duration = std::time::Duration::from_secs(30);
/// Entries that an in-sync replica may be behind.
const IN_SYNC_LAG_ENTRIES_MAX: u64 = 1000;
/// And bytes: what a group may have on its way to a node, and as much again.
const IN_SYNC_LAG_BYTES_MAX: usize = 2 * PEER_GROUP_WINDOW_BYTES;
/// A new leader has heard of nobody. It takes the replicas of nodes that are up to be in sync until it has, for so long.
const IN_SYNC_UNHEARD_MAX: std::time::Duration = std::time::Duration::from_secs(2);

/// What the leader of the metadata group proposed about nodes.
#[derive(Debug, Default)]
pub(super) struct Liveness {
    /// Nodes about which a command is under way. One that is refused, as while leadership is handed over, is proposed
    /// again.
    proposed: BTreeSet<NodeId>,
    /// Since when this node leads the metadata group.
    since: Option<Monotonic>,
    /// Nodes that went down, as the metadata have it, and when this node saw that.
    went_down: BTreeMap<NodeId, Monotonic>,
    /// Those of them that clients are still told about.
    pub(super) lately_down: BTreeSet<NodeId>,
}

/// Where a leader is missed.
#[derive(Debug, Default)]
pub(super) struct Campaigns {
    /// Groups that may have a campaign; whoever ends one leaves it to the next look to take it out.
    groups: BTreeSet<GroupId>,
    /// When the first campaign is due, or earlier.
    pub(super) at: Option<Monotonic>,
    /// Other nodes are up than before: whoever waited for one that is gone moves up at once.
    view_changed: bool,
}

impl Broker {
    /// After a start no leader is known anywhere.
    pub(super) fn start_campaigns(&mut self, now: Now) {
        let groups: Vec<GroupId> = self.replicas.keys().copied().collect();
        for group in groups {
            self.miss_leader(now, group, false);
        }
    }

    /// The group's leader is gone as far as this node can see, or none is known.
    pub(super) fn miss_leader(&mut self, now: Now, group: GroupId, ignore_lease: bool) {
        // A replica that is held leaves it to the others.
        let Some(replica) = self.replicas.get_mut(&group).filter(|replica| replica.hold.is_none()) else { return };
        if ignore_lease {
            replica.group.ignore_lease(true);
        }
        // Whoever is about to stop votes, and leaves it to the others to lead.
        if replica.campaign.is_none() && !self.shutdown.has_begun() {
            let electorate = electorate(&self.peers, replica);
            let campaign = electorate.start(now, &mut self.jitter);
            self.campaigns.at = earliest(self.campaigns.at, campaign.next_deadline());
            self.campaigns.groups.insert(group);
            replica.campaign = Some(campaign);
        }
    }

    pub(super) fn campaign_where_due(&mut self, now: Now) {
        let view_changed = std::mem::take(&mut self.campaigns.view_changed);
        if !view_changed && self.campaigns.at.is_none_or(|at| at > now.monotonic) {
            return;
        }
        let mut next = None;
        let Self { campaigns, replicas, peers, jitter, dirty, shutdown, .. } = self;
        campaigns.groups.retain(|id| {
            let Some(replica) = replicas.get_mut(id) else { return false };
            let Some(mut campaign) = replica.campaign.take().filter(|_| !shutdown.has_begun()) else { return false };
            if view_changed || campaign.next_deadline().is_some_and(|at| at <= now.monotonic) {
                let electorate = electorate(peers, replica);
                if campaign.poll(now.monotonic, &electorate.as_ref(), jitter) && !replica.stands_still() {
                    replica.group.campaign();
                    dirty.insert(*id);
                }
            }
            next = earliest(next, campaign.next_deadline());
            replica.campaign = Some(campaign);
            true
        });
        campaigns.at = next;
    }

    /// A group's term, role or leader changed here.
    pub(super) fn follow_leader(&mut self, now: Now, id: GroupId, term: Term, leader: Option<NodeId>, leads: bool) {
        let replica = self.replicas.get_mut(&id).expect("the caller looked it up");
        if leader.is_some_and(|node| self.peers.is_up(node)) {
            replica.campaign = None;
            replica.group.ignore_lease(false);
        }
        if leads {
            let in_sync = in_sync(&self.peers, replica, now);
            self.leaders.announce(id, term, in_sync);
        } else {
            if let Some(known) = self.leaders.leader(id)
                && known.node == self.config.node
            {
                let term = known.term;
                self.leaders.withdraw(id, term);
            }
            if leader.is_none() {
                self.miss_leader(now, id, false);
            }
        }
    }

    /// A peer cannot be reached: the groups it leads need another leader.
    pub(super) fn peer_down(&mut self, now: Now, node: NodeId) {
        self.campaigns.view_changed = true;
        let groups: Vec<GroupId> = self
            .replicas
            .iter()
            .filter(|(_, replica)| replica.leader_node() == Some(node))
            .map(|(id, _)| *id)
            .collect();
        for group in groups {
            self.miss_leader(now, group, true);
        }
        self.unreachable(node);
        self.calls.peer_lost(node);
    }

    /// A peer is reachable again: if it still leads its groups, nobody needs to campaign.
    pub(super) fn peer_up(&mut self, node: NodeId) {
        self.campaigns.view_changed = true;
        for replica in self.replicas.values_mut() {
            if replica.leader_node() == Some(node) {
                replica.campaign = None;
                replica.group.ignore_lease(false);
            }
        }
    }

    pub(super) fn unreachable(&mut self, node: NodeId) {
        for (id, replica) in &mut self.replicas {
            if replica.group.is_leader() {
                for (member, _) in replica.places.ranked().filter(|(_, at)| *at == node) {
                    replica.group.unreachable(member);
                    self.dirty.insert(*id);
                }
            }
        }
    }

    /// What is looked after now and then.
    pub(super) fn tick_duties(&mut self, now: Now) {
        if !self.ticks.is_multiple_of(DUTY_TICKS) {
            return;
        }
        self.announce_in_sync(now);
        self.prefer_leaders(now);
        self.tend_memberships();
        self.watch_nodes(now);
        for replica in self.replicas.values_mut().filter(|replica| !replica.stands_still()) {
            if let Some(record) = replica.group.commit_record() {
                self.wal.append([record]);
            }
        }
    }

    fn announce_in_sync(&mut self, now: Now) {
        for (id, replica) in &self.replicas {
            if replica.group.is_leader() {
                self.leaders.announce(*id, replica.group.term(), in_sync(&self.peers, replica, now));
            }
        }
    }

    /// Hands leadership to the preferred replica once it is up and has everything.
    fn prefer_leaders(&mut self, now: Now) {
        let mut transfers = 0;
        for (id, replica) in &mut self.replicas {
            let voters = &replica.group.membership().voters;
            let preferred = replica.places.ranked().find(|(member, _)| voters.contains(member));
            let Some((preferred, node)) = preferred.filter(|(_, node)| *node != self.config.node) else { continue };
            let progress = replica.group.progress_of(preferred);
            let able = replica.is_serving()
                && self.peers.is_up(node)
                && progress.is_some_and(|progress| {
                    progress.state == ReplicationState::Replicate && has_most(replica, progress.matched)
                });
            if !able || self.shutdown.has_begun() {
                replica.preferred_since = None;
                continue;
            }
            let since = *replica.preferred_since.get_or_insert(now.monotonic);
            // While leadership is handed over nothing is proposed. Who does not take it, perhaps because its disk hangs,
            // is asked ever more rarely.
            let pause = PREFERRED_AFTER * (1 << replica.preferred_offers.min(PREFERRED_DOUBLINGS_MAX));
            // So does one that is held before an entry: it is not heard of.
            let is_heard = progress.is_some_and(|progress| progress.recently_active);
            if now.monotonic.since(since) >= pause && transfers < TRANSFERS_MAX && is_heard {
                transfers += 1;
                replica.preferred_since = None;
                replica.preferred_offers += 1;
                // A refusal means that this replica stopped leading meanwhile.
                let _ = replica.group.transfer_leader(preferred);
                self.dirty.insert(*id);
            }
        }
    }

    /// The leader of the metadata group tells it which nodes are up.
    fn watch_nodes(&mut self, now: Now) {
        for node in self.image.nodes() {
            if node.is_live() {
                self.liveness.went_down.remove(&node.id);
            } else {
                self.liveness.went_down.entry(node.id).or_insert(now.monotonic);
            }
        }
        let lately = |since: &Monotonic| now.monotonic.since(*since) < LISTED_AFTER_DOWN;
        self.liveness.lately_down =
            self.liveness.went_down.iter().filter(|(_, since)| lately(since)).map(|(node, _)| *node).collect();
        let Some(replica) = self.replicas.get(&GroupId::METADATA) else { return };
        if !replica.is_serving() {
            self.liveness.since = None;
            return;
        }
        let since = *self.liveness.since.get_or_insert(now.monotonic);
        let had_time = now.monotonic.since(since) >= CONNECT_MAX;
        let mut changes = Vec::new();
        for node in self.image.nodes() {
            let Some(registration) = &node.registration else { continue };
            // A process with another directory is not this node yet.
            let up = self.peers.is_up_with(node.id, node.directory);
            let is_asked = self.liveness.proposed.contains(&node.id);
            if up != node.up
                && !is_asked
                && if up { self.peers.boot_of(node.id) == Some(registration.boot) } else { had_time }
            {
                changes.push(SetNodeLiveness { node: node.id, boot: registration.boot, up });
            }
        }
        for change in changes {
            let node = change.node;
            self.liveness.proposed.insert(node);
            self.propose_metadata(MetadataCommand::SetNodeLiveness(change), super::replica::Owner::Liveness(node));
        }
    }

    /// What was proposed about a node is applied, or will not be by this leader.
    pub(super) fn liveness_settled(&mut self, node: NodeId) {
        self.liveness.proposed.remove(&node);
    }
}

/// Nodes that are up and whose replicas have nearly everything, the leader's own included. Whether a node is up is asked
/// of its connections: an idle group beats too rarely to know.
fn in_sync(peers: &Peers, replica: &Replica, now: Now) -> Vec<NodeId> {
    let is_new = replica.led_since.is_some_and(|since| now.monotonic.since(since) < IN_SYNC_UNHEARD_MAX);
    let progress = replica.group.progress();
    let voters = progress.iter().filter(|member| replica.group.membership().is_voter(member.replica));
    let keeps_up = voters.filter_map(|member| {
        let node = replica.node_of(member.replica)?;
        let keeps_up = if member.matched.0 == 0 { is_new } else { has_most(replica, member.matched) };
        (member.replica == replica.group.replica() || keeps_up && peers.is_up(node)).then_some(node)
    });
    keeps_up.collect()
}

/// Whether a member that has the leader's log up to here has nearly everything.
fn has_most(replica: &Replica, matched: LogIndex) -> bool {
    replica.group.lacks_at_most(matched, IN_SYNC_LAG_ENTRIES_MAX, IN_SYNC_LAG_BYTES_MAX)
}

/// The voters of a group and what this node sees of them.
struct Seen {
    voters: Vec<(ReplicaId, bool)>,
    own: ReplicaId,
    electable: bool,
}

impl Seen {
    fn as_ref(&self) -> Electorate<'_> {
        Electorate { voters: &self.voters, own: self.own, electable: self.electable }
    }

    fn start(&self, now: Now, jitter: &mut crate::rng::Stream) -> Campaign {
        Campaign::new(now.monotonic, &self.as_ref(), jitter)
    }
}

fn electorate(peers: &Peers, replica: &Replica) -> Seen {
    let membership = replica.group.membership();
    let up = |id: ReplicaId| replica.node_of(id).is_some_and(|node| peers.is_up(node));
    // The preferred leader campaigns first. Voters without a place are gone with their disks, or newer than the metadata
    // that this node has.
    let (placed, voters) = (&replica.places, &membership.voters);
    let ranked = placed.ranked().map(|(member, _)| member).filter(|member| membership.is_voter(*member));
    let others = voters.union(&membership.voters_outgoing).copied().filter(|member| placed.node_of(*member).is_none());
    let voters: Vec<(ReplicaId, bool)> = ranked.chain(others).map(|member| (member, up(member))).collect();
    let electable = majority_up(membership.voters.iter().copied(), up)
        && majority_up(membership.voters_outgoing.iter().copied(), up);
    Seen { voters, own: replica.group.replica(), electable }
}

impl Broker {
    /// What a new leader has to have in its log before it serves. `false`: something was proposed, ask again when it
    /// is applied.
    pub(super) fn prepare_leader(&mut self, now: Now, id: GroupId) -> bool {
        let Some(replica) = self.replicas.get_mut(&id) else { return false };
        match &replica.machine {
            Machine::Metadata(state) => {
                let Some(cluster) = self.identity.cluster else { return false };
                let Some(command) = state.on_leader(cluster, &replica.creation) else { return true };
                if replica.configured.is_none() {
                    replica.configured = Some(crate::ids::ImageVersion(0));
                    self.propose_first(now, id, command.kind(), command.encode());
                }
                false
            }
            Machine::Partition(partition) => {
                let Some((topic, _)) = self.image.topic_of_group(id) else { return false };
                let Some(command) = partition.state.configure(topic.configs_version, &topic.configs) else {
                    return true;
                };
                if replica.configured.is_none_or(|version| version < topic.configs_version) {
                    replica.configured = Some(topic.configs_version);
                    let kind = command.kind();
                    self.propose_first(now, id, kind, command.into_data());
                }
                false
            }
        }
    }

    /// Proposes a command ahead of everything that waits for the group to serve.
    fn propose_first(&mut self, now: Now, id: GroupId, kind: u8, data: bytes::Bytes) {
        let Some(replica) = self.replicas.get_mut(&id) else { return };
        let header = crate::command::CommandHeader {
            kind,
            level: crate::command::FEATURE_LEVEL,
            origin: replica.group.replica(),
            token: crate::command::WaiterToken::NONE,
            stamp: now.wall,
        };
        if replica.group.propose(vec![(header.encode(), data)]).is_err() {
            // Leadership is being handed over, or much is not applied yet: the next tick asks again, not this turn.
            replica.configured = None;
            return;
        }
        self.dirty.insert(id);
    }
}

const _: () = assert!(limits::HEARTBEAT_TICKS as u64 > DUTY_TICKS);

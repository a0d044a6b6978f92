//! Who leads what, as nodes tell each other.
//!
//! Leadership changes far more often than topics do, and losing track of it costs a client one more request, nothing
//! else: so it does not go through the metadata group. The node of a leader tells all other nodes what changed, and
//! everything it leads when it connects to one.
//!
//! Invariant: what is known of a group never goes backwards. A higher term wins; within a term, which has one leader
//! only, the leader numbers what it says. Deleted groups never come back.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::image::MetadataImage;
use crate::{
    codec::{CodecError, Decoder, Encode},
    ids::{GroupId, LeaderEpoch, NodeId, Term},
    limits::{CLUSTER_NODES_MAX, CLUSTER_PARTITIONS_MAX, LEADER_RECORDS_MAX},
};

/// What is known of a group's leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    pub term: Term,
    /// Counts what the leader said in this term.
    pub sequence: u32,
    /// Who leads or, in this term, led.
    pub node: NodeId,
    /// False once the node has stepped down and no later term is known.
    pub leads: bool,
    /// Nodes whose replicas keep up, the leader's own included; sorted.
    pub in_sync: Vec<NodeId>,
}

/// The table of one node.
#[derive(Clone, Debug)]
pub struct Leaders {
    own: NodeId,
    known: BTreeMap<GroupId, Leader>,
    /// Groups of which the other nodes have to hear from us.
    unsent: BTreeSet<GroupId>,
    generation: u64,
}

const VERSION: u8 = 1;

impl Leader {
    pub fn epoch(&self) -> LeaderEpoch {
        LeaderEpoch::from_term(self.term)
    }

    fn position(&self) -> (Term, u32) {
        (self.term, self.sequence)
    }
}

impl Leaders {
    pub fn new(own: NodeId) -> Self {
        Self { own, known: BTreeMap::new(), unsent: BTreeSet::new(), generation: 0 }
    }

    /// What is known of a group. The record stays when its leader stepped down: its term is a lower bound for the
    /// next one, which clients must not see go down.
    pub fn record(&self, group: GroupId) -> Option<&Leader> {
        self.known.get(&group)
    }

    /// The leader of a group, as far as is known.
    pub fn leader(&self, group: GroupId) -> Option<&Leader> {
        self.record(group).filter(|leader| leader.leads)
    }

    /// Changes whenever anything in the table does: answers made from it are good until then.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// A replica of this node leads `group`, with these nodes in sync. Called when it starts to lead and whenever the
    /// in-sync nodes change.
    pub fn announce(&mut self, group: GroupId, term: Term, mut in_sync: Vec<NodeId>) {
        in_sync.sort_unstable();
        in_sync.dedup();
        self.say(group, term, true, in_sync);
    }

    /// A replica of this node that led `group` in `term` does so no longer.
    pub fn withdraw(&mut self, group: GroupId, term: Term) {
        self.say(group, term, false, Vec::new());
    }

    fn say(&mut self, group: GroupId, term: Term, leads: bool, in_sync: Vec<NodeId>) {
        let sequence = match self.known.get(&group) {
            // Gossip was faster than the group's own messages: somebody leads in a later term already.
            Some(known) if known.term > term => return,
            Some(known) if known.term == term => {
                assert_eq!(known.node, self.own, "a term has one leader");
                if known.leads == leads && known.in_sync == in_sync {
                    return;
                }
                known.sequence + 1
            }
            Some(_) | None if !leads => return,
            Some(_) | None => 0,
        };
        self.known.insert(group, Leader { term, sequence, node: self.own, leads, in_sync });
        self.unsent.insert(group);
        self.generation += 1;
    }

    /// These groups are deleted for good.
    pub fn forget(&mut self, groups: impl IntoIterator<Item = GroupId>) {
        for group in groups {
            self.generation += u64::from(self.known.remove(&group).is_some());
            self.unsent.remove(&group);
        }
    }

    /// What this node has to tell all others since the last call, as messages. A node that is not connected now gets
    /// the digest when it is.
    pub fn take_delta(&mut self) -> Vec<Bytes> {
        if self.unsent.is_empty() {
            return Vec::new();
        }
        let groups = std::mem::take(&mut self.unsent);
        // A group may have got a later leader elsewhere since; that is then not ours to tell.
        let records = groups.iter().filter_map(|group| self.known.get(group).map(|leader| (*group, leader)));
        self.messages(records.filter(|(_, leader)| leader.node == self.own))
    }

    /// Everything this node leads, for a node that just connected.
    pub fn digest(&self) -> Vec<Bytes> {
        let own = self.known.iter().filter(|(_, leader)| leader.node == self.own && leader.leads);
        self.messages(own.map(|(group, leader)| (*group, leader)))
    }

    fn messages<'a>(&self, records: impl Iterator<Item = (GroupId, &'a Leader)>) -> Vec<Bytes> {
        let records: Vec<_> = records.collect();
        let message = |records: &[(GroupId, &Leader)]| {
            let mut out = vec![VERSION];
            out.put_i32(self.own.0);
            out.put_count(records.len());
            for (group, leader) in records {
                out.put_u64(group.0);
                out.put_u64(leader.term.0);
                out.put_u32(leader.sequence);
                out.put_bool(leader.leads);
                out.put_count(leader.in_sync.len());
                for node in &leader.in_sync {
                    out.put_i32(node.0);
                }
            }
            Bytes::from(out)
        };
        records.chunks(LEADER_RECORDS_MAX).map(message).collect()
    }

    /// Takes what `from` said. Groups that `image` proves to be deleted are left out; groups that it does not know yet
    /// are not, because gossip may be faster than the metadata. The groups whose record changed.
    pub fn merge(&mut self, from: NodeId, message: &[u8], image: &MetadataImage) -> Result<Vec<GroupId>, CodecError> {
        let mut changed = Vec::new();
        for (group, leader) in decode(from, message)? {
            let news = self.known.get(&group).is_none_or(|known| known.position() < leader.position());
            let room = self.known.len() < CLUSTER_PARTITIONS_MAX || self.known.contains_key(&group);
            if news && room && !image.is_deleted(group) {
                self.known.insert(group, leader);
                self.generation += 1;
                changed.push(group);
            }
        }
        Ok(changed)
    }
}

/// The records of a message. Only what the sender says of itself counts.
fn decode(sender: NodeId, message: &[u8]) -> Result<Vec<(GroupId, Leader)>, CodecError> {
    let mut from = Decoder::new(message);
    from.version("a message about leaders", VERSION)?;
    if NodeId(from.i32()?) != sender {
        return Err(CodecError::Value("the sender of a message about leaders"));
    }
    let records = from.list(25, |from| {
        let group = GroupId(from.u64()?);
        let term = Term(from.u64()?);
        let sequence = from.u32()?;
        let leads = from.bool()?;
        let in_sync = from.list(4, |from| Ok(NodeId(from.i32()?)))?;
        // What is no leader epoch was never a term of ours.
        if i32::try_from(term.0).is_err() || in_sync.len() > CLUSTER_NODES_MAX {
            return Err(CodecError::Value("a record about a leader"));
        }
        Ok((group, Leader { term, sequence, node: sender, leads, in_sync }))
    })?;
    from.finish()?;
    Ok(records)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GROUP: GroupId = GroupId(7);

    fn nodes(nodes: &[i32]) -> Vec<NodeId> {
        nodes.iter().map(|node| NodeId(*node)).collect()
    }

    fn tell(from: &[Bytes], sender: i32, to: &mut Leaders) -> Vec<GroupId> {
        let image = MetadataImage::empty();
        from.iter().flat_map(|message| to.merge(NodeId(sender), message, &image).unwrap()).collect()
    }

    #[test]
    fn golden_bytes() {
        let mut one = Leaders::new(NodeId(1));
        one.announce(GROUP, Term(3), nodes(&[2, 1, 2]));
        #[rustfmt::skip]
        let golden = [
            &[1][..], &[0, 0, 0, 1], &[0, 0, 0, 1],
            &[0, 0, 0, 0, 0, 0, 0, 7], &[0, 0, 0, 0, 0, 0, 0, 3], &[0; 4], &[1],
            &[0, 0, 0, 2], &[0, 0, 0, 1], &[0, 0, 0, 2],
        ]
        .concat();
        assert_eq!(one.take_delta(), [Bytes::from(golden)]);
    }

    #[test]
    fn others_hear_of_a_leader_and_of_its_successor() {
        let mut one = Leaders::new(NodeId(1));
        let mut two = Leaders::new(NodeId(2));
        let mut three = Leaders::new(NodeId(3));
        one.announce(GROUP, Term(4), nodes(&[1, 2]));
        let first = one.take_delta();
        assert_eq!(tell(&first, 1, &mut three), [GROUP]);
        assert_eq!(three.leader(GROUP).unwrap().node, NodeId(1));
        assert_eq!(three.leader(GROUP).unwrap().epoch(), LeaderEpoch(4));

        two.announce(GROUP, Term(5), nodes(&[2]));
        tell(&two.take_delta(), 2, &mut three);
        assert_eq!(three.leader(GROUP).unwrap().node, NodeId(2));
        assert!(tell(&first, 1, &mut three).is_empty(), "an old message changes nothing");
        assert_eq!(three.leader(GROUP).unwrap().node, NodeId(2));

        // The one who was replaced hears of it before its own replica does.
        tell(&two.digest(), 2, &mut one);
        one.announce(GROUP, Term(4), nodes(&[1]));
        one.withdraw(GROUP, Term(4));
        assert_eq!(one.leader(GROUP).unwrap().node, NodeId(2));
        assert!(one.take_delta().is_empty());
        assert!(one.digest().is_empty());
    }

    #[test]
    fn who_steps_down_is_no_leader_and_its_term_is_remembered() {
        let mut one = Leaders::new(NodeId(1));
        let mut two = Leaders::new(NodeId(2));
        one.announce(GROUP, Term(4), nodes(&[1]));
        let announced = one.take_delta();
        one.withdraw(GROUP, Term(4));
        tell(&one.take_delta(), 1, &mut two);
        tell(&announced, 1, &mut two);
        assert_eq!(two.leader(GROUP), None, "messages may overtake each other");
        assert_eq!(two.record(GROUP).unwrap().epoch(), LeaderEpoch(4));
        assert!(one.digest().is_empty());
        one.withdraw(GroupId(8), Term(4));
        assert_eq!(one.record(GroupId(8)), None, "who never led has nothing to withdraw");
    }

    #[test]
    fn only_changes_are_told() {
        let mut one = Leaders::new(NodeId(1));
        one.announce(GROUP, Term(4), nodes(&[1, 2]));
        one.take_delta();
        let generation = one.generation();
        one.announce(GROUP, Term(4), nodes(&[2, 1]));
        assert!(one.take_delta().is_empty());
        assert_eq!(one.generation(), generation);
        one.announce(GROUP, Term(4), nodes(&[1]));
        assert_eq!(one.take_delta().len(), 1);
        assert_ne!(one.generation(), generation);
    }

    #[test]
    fn deleted_groups_do_not_come_back() {
        let mut one = Leaders::new(NodeId(1));
        one.announce(GROUP, Term(4), nodes(&[1]));
        let announced = one.take_delta();
        let mut image = MetadataImage::empty();
        std::sync::Arc::make_mut(&mut image.deleted).insert(GROUP, GROUP);
        let mut two = Leaders::new(NodeId(2));
        tell(&announced, 1, &mut two);
        two.forget([GROUP]);
        assert_eq!(two.merge(NodeId(1), &announced[0], &image), Ok(Vec::new()));
        assert_eq!(two.record(GROUP), None);
    }

    #[test]
    fn a_large_digest_comes_in_pieces() {
        let mut one = Leaders::new(NodeId(1));
        for group in 0..LEADER_RECORDS_MAX as u64 + 1 {
            one.announce(GroupId(group), Term(1), nodes(&[1]));
        }
        let digest = one.digest();
        assert_eq!(digest.len(), 2);
        let mut two = Leaders::new(NodeId(2));
        assert_eq!(tell(&digest, 1, &mut two).len(), LEADER_RECORDS_MAX + 1);
    }

    #[test]
    fn a_node_speaks_for_itself_only() {
        let mut one = Leaders::new(NodeId(1));
        one.announce(GROUP, Term(4), nodes(&[1]));
        let mut two = Leaders::new(NodeId(2));
        assert!(two.merge(NodeId(3), &one.take_delta()[0], &MetadataImage::empty()).is_err());
        assert_eq!(two.record(GROUP), None);
    }

    proptest! {
        #[test]
        fn nothing_goes_backwards_and_all_agree_in_the_end(
            // Leaders of growing terms on three nodes; messages arrive in any order, some twice, some never.
            steps in proptest::collection::vec((0usize..3, 0u64..3, any::<bool>()), 1..40),
            deliveries in proptest::collection::vec((any::<prop::sample::Index>(), 0usize..3), 0..80),
        ) {
            let mut tables: Vec<Leaders> = (0..3).map(|node| Leaders::new(NodeId(node))).collect();
            let mut sent: Vec<(i32, Bytes)> = Vec::new();
            let mut terms = [1u64; 2];
            let mut leader = [0usize; 2];
            for (node, group, steps_down) in steps {
                let group = (group % 2) as usize;
                let id = GroupId(group as u64);
                if leader[group] != node {
                    terms[group] += 1;
                    leader[group] = node;
                }
                if steps_down {
                    tables[node].withdraw(id, Term(terms[group]));
                } else {
                    tables[node].announce(id, Term(terms[group]), nodes(&[node as i32]));
                }
                sent.extend(tables[node].take_delta().into_iter().map(|message| (node as i32, message)));
            }
            let image = MetadataImage::empty();
            for (pick, to) in deliveries {
                if let Some((from, message)) = (!sent.is_empty()).then(|| &sent[pick.index(sent.len())])
                    && *from != to as i32
                {
                    let before = tables[to].clone();
                    tables[to].merge(NodeId(*from), message, &image).unwrap();
                    for (group, leader) in &before.known {
                        prop_assert!(tables[to].known[group].position() >= leader.position());
                    }
                }
            }
            for (from, message) in &sent {
                for (to, table) in tables.iter_mut().enumerate() {
                    if *from != to as i32 {
                        table.merge(NodeId(*from), message, &image).unwrap();
                    }
                }
            }
            prop_assert_eq!(&tables[0].known, &tables[1].known);
            prop_assert_eq!(&tables[1].known, &tables[2].known);
        }

        #[test]
        fn hostile_bytes_are_errors(mut bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            if bytes.len() > 5 {
                bytes[..5].copy_from_slice(&[1, 0, 0, 0, 1]);
            }
            let _ = Leaders::new(NodeId(2)).merge(NodeId(1), &bytes, &MetadataImage::empty());
        }
    }
}

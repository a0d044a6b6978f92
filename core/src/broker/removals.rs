//! The files of groups that were removed from this node.
//!
//! Invariant: nothing of a group is removed before the record of its end is durable: until then a start takes the group
//! up again, and would find its files damaged. Few groups are worked on at the same time, however many go at once, and a
//! completion goes to the one removal that asked for it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::{
    ids::{GroupId, OperationId, WriteNumber},
    io::{DiskError, DiskOutput, Effects, Exit, OperationIds},
    limits::REMOVALS_MAX,
    log::segment::Removal,
};

#[derive(Debug, Default)]
pub(super) struct Removals {
    all: BTreeMap<GroupId, Removal>,
    /// Those that were not begun, with the write that holds the record, in order.
    waiting: VecDeque<(WriteNumber, GroupId)>,
    begun: BTreeSet<GroupId>,
    /// Those of the begun ones that can go on.
    due: BTreeSet<GroupId>,
    operations: BTreeMap<OperationId, GroupId>,
}

impl Removals {
    /// After a start, which knows the records of these: a crash may have interrupted their removal.
    pub(super) fn new(groups: impl Iterator<Item = GroupId>) -> Self {
        let mut removals = Self::default();
        groups.for_each(|group| removals.add(WriteNumber(0), Removal::new(group)));
        removals
    }

    /// `write` holds the record of the group's end; no earlier call named a later one.
    pub(super) fn add(&mut self, write: WriteNumber, removal: Removal) {
        assert!(self.waiting.back().is_none_or(|(last, _)| *last <= write), "records come in the order of writes");
        let group = removal.group();
        self.waiting.push_back((write, group));
        let before = self.all.insert(group, removal);
        assert!(before.is_none(), "a group ends once");
    }

    /// Every write up to `durable` is on disk.
    pub(super) fn poll(&mut self, durable: WriteNumber, effects: &mut Effects, ids: &mut OperationIds) {
        loop {
            while self.begun.len() < REMOVALS_MAX
                && let Some(&(write, group)) = self.waiting.front()
                && write <= durable
            {
                self.waiting.pop_front();
                self.begun.insert(group);
                self.due.insert(group);
            }
            let Some(group) = self.due.pop_first() else { return };
            let removal = self.all.get_mut(&group).expect("what is due is not over");
            let first = effects.disk.len();
            removal.poll(effects, ids);
            self.operations.extend(effects.disk[first..].iter().map(|operation| (operation.id, group)));
            if removal.is_done() {
                self.all.remove(&group);
                self.begun.remove(&group);
            }
        }
    }

    /// An operation that a removal began; others are passed over.
    pub(super) fn handle(&mut self, operation: OperationId, result: Result<DiskOutput, DiskError>) -> Result<(), Exit> {
        match self.operations.remove(&operation) {
            Some(group) => self.handle_of(group, operation, result),
            None => Ok(()),
        }
    }

    /// An operation that the log of a removed group began.
    pub(super) fn handle_of(
        &mut self,
        group: GroupId,
        operation: OperationId,
        result: Result<DiskOutput, DiskError>,
    ) -> Result<(), Exit> {
        if let Some(removal) = self.all.get_mut(&group) {
            removal.handle(operation, result)?;
            self.went_on(group);
        }
        Ok(())
    }

    /// A read that the log of a removed group had planned is over: `give_back` tells the removal.
    pub(super) fn read_ended(&mut self, group: GroupId, give_back: impl FnOnce(&mut Removal)) {
        if let Some(removal) = self.all.get_mut(&group) {
            give_back(removal);
            self.went_on(group);
        }
    }

    fn went_on(&mut self, group: GroupId) {
        if self.begun.contains(&group) {
            self.due.insert(group);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::DiskAction;

    fn listed(effects: &mut Effects) -> Vec<(OperationId, String)> {
        let operations = effects.disk.drain(..);
        operations
            .map(|operation| match operation.action {
                DiskAction::List { directory } => (operation.id, directory.path()),
                other => panic!("nothing but listings: {other:?}"),
            })
            .collect()
    }

    #[test]
    fn files_go_only_when_the_record_of_the_end_is_durable() {
        let (mut effects, mut ids) = (Effects::default(), OperationIds::default());
        let mut removals = Removals::default();
        removals.add(WriteNumber(4), Removal::new(GroupId(7)));
        removals.add(WriteNumber(5), Removal::new(GroupId(3)));
        removals.poll(WriteNumber(3), &mut effects, &mut ids);
        assert!(effects.disk.is_empty());
        removals.poll(WriteNumber(4), &mut effects, &mut ids);
        assert_eq!(listed(&mut effects)[0].1, "groups/7");
        removals.poll(WriteNumber(5), &mut effects, &mut ids);
        assert_eq!(listed(&mut effects)[0].1, "groups/3");
    }

    #[test]
    fn few_groups_are_removed_at_a_time_and_all_in_the_end() {
        let (mut effects, mut ids) = (Effects::default(), OperationIds::default());
        let mut removals = Removals::new((0..1000).map(GroupId));
        let mut listings = 0;
        loop {
            removals.poll(WriteNumber(0), &mut effects, &mut ids);
            let operations = listed(&mut effects);
            assert!(operations.len() <= REMOVALS_MAX);
            if operations.is_empty() {
                break;
            }
            listings += operations.len();
            for (id, _) in operations {
                removals.handle(id, Ok(DiskOutput::List(Vec::new()))).unwrap();
            }
        }
        assert_eq!(listings, 1000);
        assert!(removals.all.is_empty() && removals.operations.is_empty() && removals.begun.is_empty());
    }
}

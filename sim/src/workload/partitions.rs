//! Which topic and index each partition of the workload is.

use kauri_protocol::Str;

use crate::{history::Partition, plan::Workload};

/// All partitions of a workload, counted over its topics.
#[derive(Clone, Debug)]
pub(super) struct Partitions {
    /// Name of the topic, and the number of its first partition.
    topics: Vec<(Str, u32)>,
    count: u32,
}

impl Partitions {
    pub(super) fn of(workload: &Workload) -> Self {
        let mut count = 0;
        let mut topics = Vec::new();
        for topic in &workload.topics {
            topics.push((Str::from(topic.name.clone()), count));
            count += topic.partitions;
        }
        Self { topics, count }
    }

    pub(super) fn count(&self) -> u32 {
        self.count
    }

    pub(super) fn all(&self) -> impl Iterator<Item = Partition> + use<> {
        (0..self.count).map(Partition)
    }

    pub(super) fn topics(&self) -> impl Iterator<Item = &Str> {
        self.topics.iter().map(|(name, _)| name)
    }

    /// Topic and index of a partition.
    pub(super) fn name(&self, partition: Partition) -> (&Str, i32) {
        let topic = self.topics.partition_point(|(_, first)| *first <= partition.0) - 1;
        let (name, first) = &self.topics[topic];
        (name, i32::try_from(partition.0 - first).expect("few partitions"))
    }

    pub(super) fn find(&self, topic: &str, index: i32) -> Option<Partition> {
        let place = self.topics.iter().position(|(name, _)| name.as_str() == topic)?;
        let first = self.topics[place].1;
        let end = self.topics.get(place + 1).map_or(self.count, |(_, first)| *first);
        let partition = first.checked_add(u32::try_from(index).ok()?)?;
        (partition < end).then_some(Partition(partition))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Plan;

    #[test]
    fn every_partition_is_found_under_its_name() {
        for seed in 0..20 {
            let workload = Plan::draw(seed).workload;
            let partitions = Partitions::of(&workload);
            for partition in partitions.all() {
                let (topic, index) = partitions.name(partition);
                assert_eq!(partitions.find(topic, index), Some(partition));
            }
            let last = i32::try_from(workload.topics[0].partitions).unwrap();
            assert_eq!(partitions.find(&workload.topics[0].name, last), None);
            assert_eq!(partitions.find("nothing", 0), None);
        }
    }
}

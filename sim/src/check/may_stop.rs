//! A partition that does not work after the chaos has a proof that it may not, and stops loudly.
//!
//! Within the budget nothing may stop, no node either. Over budget, exactly the groups may of which the damage left no
//! intact copy, or no majority of replicas that know themselves; all others must work. And whoever stops says so.

use std::collections::{BTreeMap, BTreeSet};

use kauri_core::ids::GroupId;

use crate::{failure::Failure, history::Partition};

/// What there is to judge, besides that some clients wait.
#[derive(Clone, Debug, Default)]
pub struct Stopped<'a> {
    /// Groups that may stop, and why.
    pub forfeited: BTreeMap<GroupId, String>,
    /// Groups of which some node says that they lost an entry.
    pub said: BTreeSet<GroupId>,
    /// Groups of partitions, as far as any node knows.
    pub groups: BTreeMap<Partition, GroupId>,
    /// For each client that waits: the partitions it waits for.
    pub stuck: Vec<Vec<Partition>>,
    /// Nodes whose process ended because of its disk and did not serve since, with what it said.
    pub loud: Vec<(usize, &'a str)>,
}

/// For a run within the budget: damage was dealt, and everything must have been repaired.
pub fn within_budget(stopped: &Stopped<'_>) -> Result<(), Failure> {
    if let Some(group) = stopped.said.first() {
        let explanation = format!("group {group} lost an entry, as a node says");
        return Err(Failure::new("stopped_within_budget", explanation));
    }
    match stopped.loud.first() {
        None => Ok(()),
        Some((node, exit)) => {
            Err(Failure::new("stopped_within_budget", format!("node {node} does not serve any more: {exit}")))
        }
    }
}

/// For a run over budget in which some clients wait.
pub fn over_budget(stopped: &Stopped<'_>) -> Result<(), Failure> {
    let forfeited = &stopped.forfeited;
    if !forfeited.contains_key(&GroupId::METADATA) {
        for partitions in &stopped.stuck {
            let innocent = partitions
                .iter()
                .find(|partition| !stopped.groups.get(partition).is_some_and(|group| forfeited.contains_key(group)));
            if let Some(partition) = innocent {
                let explanation =
                    format!("{partition} stopped, though nothing that it needs was damaged beyond repair");
                return Err(Failure::new("may_stop", explanation));
            }
            if partitions.is_empty() {
                let explanation = "a client waits, and for no partition that was damaged beyond repair";
                return Err(Failure::new("may_stop", explanation));
            }
        }
    }
    if stopped.loud.is_empty() && stopped.said.is_empty() && !stopped.stuck.is_empty() {
        let why = forfeited.values().next().map_or("", String::as_str);
        return Err(Failure::new("silent_stop", format!("no node said that something is lost: {why}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn story() -> Stopped<'static> {
        Stopped {
            forfeited: BTreeMap::from([(GroupId(7), "no copy of entry 3".to_owned())]),
            said: BTreeSet::new(),
            groups: BTreeMap::from([(Partition(0), GroupId(7)), (Partition(1), GroupId(8))]),
            stuck: vec![vec![Partition(0)]],
            loud: vec![(1, "damaged")],
        }
    }

    #[test]
    fn what_lost_its_last_copy_may_stop_if_someone_says_so() {
        assert_eq!(over_budget(&story()), Ok(()));
        let silent = Stopped { loud: Vec::new(), ..story() };
        let failure = over_budget(&silent).unwrap_err();
        assert_eq!(failure.explanation, "no node said that something is lost: no copy of entry 3");
        let said = Stopped { loud: Vec::new(), said: BTreeSet::from([GroupId(7)]), ..story() };
        assert_eq!(over_budget(&said), Ok(()), "its other partitions go on, so the process does");
    }

    #[test]
    fn nothing_else_may_stop() {
        let more = Stopped { stuck: vec![vec![Partition(0), Partition(1)]], ..story() };
        assert_eq!(over_budget(&more).unwrap_err().checker, "may_stop");
        let unknown = Stopped { stuck: vec![vec![Partition(2)]], ..story() };
        assert_eq!(over_budget(&unknown).unwrap_err().checker, "may_stop");
        let nothing = Stopped { stuck: vec![Vec::new()], ..story() };
        assert_eq!(over_budget(&nothing).unwrap_err().checker, "may_stop");
    }

    #[test]
    fn without_metadata_everything_may_stop() {
        let forfeited = BTreeMap::from([(GroupId::METADATA, "gone".to_owned())]);
        let stopped = Stopped { forfeited, stuck: vec![vec![Partition(1)], Vec::new()], ..story() };
        assert_eq!(over_budget(&stopped), Ok(()));
    }

    #[test]
    fn within_the_budget_every_node_works_again() {
        assert_eq!(within_budget(&Stopped::default()), Ok(()));
        let failure = within_budget(&story()).unwrap_err();
        assert_eq!(failure.explanation, "node 1 does not serve any more: damaged");
    }
}

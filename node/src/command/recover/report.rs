//! What `kauri recover` prints: the plan, and what came of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    path::Path,
};

use kauri_core::{
    ids::{GroupId, LogIndex, ReplicaId},
    recover::{
        NotRebuilt, Plan, Rebuilt, Unfit,
        plan::{Alone, CopyFinding, GroupPlan, Member, Verdict},
    },
};
use serde_json::{Value, json};

use crate::command::failure::Failure;

pub(super) type Outcomes = BTreeMap<GroupId, Result<Rebuilt, NotRebuilt>>;

/// Names of groups in a sentence.
const NAMES_MAX: usize = 10;

pub(super) fn unfit(unfit: &Unfit, paths: &[&Path]) -> Failure {
    let path = |number: usize| paths[number].to_owned();
    match *unfit {
        Unfit::Twice { first, second } => Failure::SameDirectory { first: path(first), second: path(second) },
        Unfit::Clusters { first, second, .. } => {
            Failure::DirectoriesOfClusters { first: path(first), second: path(second) }
        }
    }
}

/// What was found, and what would be done about it.
pub(super) fn text(plan: &Plan, paths: &[&Path]) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    write_text(plan, paths, &mut out).expect("a string takes everything");
    out
}

/// What the operator does when it is done.
pub(super) fn next(plan: &Plan, paths: &[&Path]) -> String {
    let mut out = String::new();
    write_next(plan, paths, &mut out).expect("a string takes everything");
    out
}

fn write_text(plan: &Plan, paths: &[&Path], out: &mut String) -> std::fmt::Result {
    for (directory, path) in plan.directories.iter().zip(paths) {
        write!(out, "{}: node {}", path.display(), directory.node)?;
        if let Some(reason) = &directory.unreadable {
            write!(out, "; NOT USABLE: {reason}")?;
        }
        if directory.replaced {
            write!(out, "; another directory took its place in the cluster, so it can only lend payloads")?;
        }
        writeln!(out)?;
    }
    let sound = plan.groups.iter().filter(|group| group.verdict == Verdict::Sound).count();
    writeln!(out, "{sound} of {} groups have a majority here and need nothing.", plan.groups.len())?;
    for group in &plan.groups {
        match &group.verdict {
            Verdict::Sound => {}
            Verdict::NoCopy => {
                write_members(plan, group, paths, out)?;
                writeln!(out, "  LOST: no copy that could go on is in these directories")?;
            }
            Verdict::Alone(alone) => {
                write_members(plan, group, paths, out)?;
                write_alone(plan, group, alone, paths, out)?;
            }
        }
    }
    if !plan.absent.is_empty() {
        let names = some_names(plan, plan.absent.iter().copied());
        writeln!(
            out,
            "\nNo directory has a copy of {names}: lost, unless another directory has one. A topic that is lost can be \
                       deleted and created again."
        )?;
    }
    if plan.alone().next().is_none() {
        writeln!(out, "There is nothing to do.")?;
    }
    Ok(())
}

fn write_next(plan: &Plan, paths: &[&Path], out: &mut String) -> std::fmt::Result {
    let hosts: BTreeSet<usize> = plan.alone().map(|(_, alone)| alone.directory).collect();
    let given_up: BTreeSet<usize> = plan.alone().flat_map(|(_, alone)| alone.given_up.iter().copied()).collect();
    let list = |numbers: &BTreeSet<usize>| {
        let all = numbers
            .iter()
            .map(|number| format!("node {} with {}", plan.directories[*number].node, paths[*number].display()));
        all.collect::<Vec<_>>().join(", ")
    };
    writeln!(out, "\nAfterwards:")?;
    writeln!(out, "  1. Start {}.", list(&hosts))?;
    writeln!(
        out,
        "  2. Start the other nodes with empty data directories; they are refilled under new replica ids. Never start a node \
         with a directory that is not named here: its replicas are shut out for good."
    )?;
    let idle: BTreeSet<usize> = given_up.difference(&hosts).copied().collect();
    if !idle.is_empty() {
        writeln!(
            out,
            "  3. Copies of groups named above are given up on {}. One after the other, when `kauri topic describe` shows \
             everything else in sync: stop it, empty its directory, start it again.",
            list(&idle)
        )?;
    }
    let both: BTreeSet<usize> = given_up.intersection(&hosts).copied().collect();
    if !both.is_empty() {
        writeln!(
            out,
            "  {}. The same for copies that are given up on {}, after everything else is in sync.",
            if idle.is_empty() { 3 } else { 4 },
            list(&both)
        )?;
    }
    Ok(())
}

fn write_members(plan: &Plan, group: &GroupPlan, paths: &[&Path], out: &mut String) -> std::fmt::Result {
    writeln!(out, "\n{}", name(plan, group.group))?;
    for member in &group.members {
        write!(out, "  {}", replica(plan, group.group, member.replica))?;
        if !member.votes {
            write!(out, ", which does not vote")?;
        }
        match &member.copy {
            None => writeln!(out, ": in none of these directories")?,
            Some(copy) => {
                write!(
                    out,
                    ": {}, term {}, entries up to {}, {} of them known to be committed",
                    paths[copy.directory].display(),
                    copy.term,
                    copy.last,
                    copy.commit
                )?;
                if !copy.damaged.is_empty() {
                    write!(out, "; damaged: {}", ranges(&copy.damaged))?;
                }
                if !copy.lost.is_empty() {
                    write!(out, ", of which nobody here has {}", ranges(&copy.lost))?;
                }
                writeln!(out)?;
            }
        }
    }
    Ok(())
}

fn write_alone(plan: &Plan, group: &GroupPlan, alone: &Alone, paths: &[&Path], out: &mut String) -> std::fmt::Result {
    let end = alone.end.0;
    let whole: Vec<&Member> = group.members.iter().filter(|member| member.votes).collect();
    let sound = whole.iter().filter(|member| member.copy.as_ref().is_some_and(|copy| copy.lost.is_empty())).count();
    writeln!(
        out,
        "  {sound} of {} voters can go on. {} goes on alone, in {}, in term {}.",
        whole.len(),
        capital(&replica(plan, group.group, alone.replica)),
        paths[alone.directory].display(),
        alone.term
    )?;
    write!(out, "  kept: every entry up to {end}")?;
    let offsets = plan.offsets(group.group);
    match offsets {
        Some(offsets) if offsets.end.0 > 0 => {
            writeln!(out, ", which are the records up to offset {}", offsets.end.0 - 1)?;
        }
        Some(_) => writeln!(out, ", in which there is no record")?,
        None => writeln!(out)?,
    }
    if !alone.fills.is_empty() {
        let indexes: Vec<LogIndex> = alone.fills.keys().copied().collect();
        let from: BTreeSet<String> =
            alone.fills.values().map(|(number, _)| paths[*number].display().to_string()).collect();
        let from: Vec<String> = from.into_iter().collect();
        writeln!(out, "  filled from {}: {}", from.join(", "), ranges(&indexes))?;
    }
    if group.commit > end {
        writeln!(out, "  LOST: entries {} to {}, which were committed", end.next(), group.commit)?;
    }
    if let Some((first, last)) = alone.dropped {
        writeln!(
            out,
            "  given up: entries {first} to {last} of this copy, with {} records beside those whose payload is damaged: \
             nothing can be applied behind the first one",
            offsets.map_or(0, |offsets| offsets.given_up)
        )?;
    }
    match (alone.all_here, alone.dropped.is_some() || group.commit > end) {
        (true, true) => {}
        (true, false) => writeln!(out, "  lost: nothing; every member is here, and this copy ends latest")?,
        (false, _) => {
            write!(out, "  MAY BE LOST: whatever members that are not here acknowledged behind entry {end}")?;
            match offsets {
                Some(offsets) => writeln!(out, ", records from offset {} on", offsets.end)?,
                None => writeln!(out)?,
            }
        }
    }
    Ok(())
}

pub(super) fn outcomes(plan: &Plan, outcomes: &Outcomes) -> String {
    let mut out = String::from("\nDone:\n");
    for (group, outcome) in outcomes {
        let name = name(plan, *group);
        match outcome {
            Ok(Rebuilt { end, next_offset: Some(next) }) => {
                out.push_str(&format!("  {name}: goes on behind entry {end}; its next offset is {next}\n"));
            }
            Ok(Rebuilt { end, next_offset: None }) => out.push_str(&format!("  {name}: goes on behind entry {end}\n")),
            Err(reason) => out.push_str(&format!("  {name}: NOT RECOVERED, nothing was changed: {reason}\n")),
        }
    }
    out
}

pub(super) fn json(plan: &Plan, paths: &[&Path], outcomes: Option<&Outcomes>) -> String {
    let path = |number: usize| paths[number].display().to_string();
    let directories = plan.directories.iter().enumerate().map(|(number, directory)| {
        json!({
            "path": path(number),
            "node": directory.node.0,
            "id": directory.id.to_string(),
            "unusable": directory.unreadable.as_ref().map(ToString::to_string),
            "replaced": directory.replaced,
        })
    });
    let groups = plan.groups.iter().map(|group| {
        let members = group.members.iter().map(|member| {
            json!({
                "replica": member.replica.0,
                "node": plan.node_of(group.group, member.replica).map(|node| node.0),
                "votes": member.votes,
                "copy": member.copy.as_ref().map(|copy| copy_json(copy, &path(copy.directory))),
            })
        });
        let mut object = json!({
            "group": group.group.0,
            "members": members.collect::<Vec<Value>>(),
            "commit": group.commit.0,
        });
        if let Some(name) = plan.name(group.group) {
            object["topic"] = name.topic.as_str().into();
            object["partition"] = name.partition.0.into();
        }
        object["verdict"] = match &group.verdict {
            Verdict::Sound => "sound".into(),
            Verdict::NoCopy => "lost".into(),
            Verdict::Alone(_) => "goes on alone".into(),
        };
        if let Verdict::Alone(alone) = &group.verdict {
            object["alone"] = json!({
                "path": path(alone.directory),
                "replica": alone.replica.0,
                "term": alone.term.0,
                "last_kept": alone.end.0.0,
                "next_offset": plan.offsets(group.group).map(|offsets| offsets.end.0),
                "records_given_up": plan.offsets(group.group).map(|offsets| offsets.given_up),
                "committed_lost": (group.commit > alone.end.0).then(|| json!([alone.end.0.0 + 1, group.commit.0])),
                "given_up": alone.dropped.map(|(first, last)| json!([first.0, last.0])),
                "more_may_be_lost": !alone.all_here,
                "filled": alone.fills.iter().map(|(index, (number, _))| json!({"index": index.0, "path": path(*number)}))
                    .collect::<Vec<Value>>(),
                "copies_given_up": alone.given_up.iter().map(|number| path(*number)).collect::<Vec<_>>(),
            });
        }
        object
    });
    let absent = plan.absent.iter().map(|group| {
        let name = plan.name(*group);
        json!({
            "group": group.0,
            "topic": name.map(|name| name.topic.as_str()),
            "partition": name.map(|name| name.partition.0),
        })
    });
    let mut object = json!({
        "directories": directories.collect::<Vec<Value>>(),
        "groups": groups.collect::<Vec<Value>>(),
        "absent": absent.collect::<Vec<Value>>(),
        "needed": plan.alone().next().is_some(),
    });
    if let Some(outcomes) = outcomes {
        let outcomes = outcomes.iter().map(|(group, outcome)| match outcome {
            Ok(Rebuilt { end, next_offset }) => json!({
                "group": group.0,
                "recovered": true,
                "last_kept": end.0,
                "next_offset": next_offset.map(|offset| offset.0),
            }),
            Err(reason) => json!({ "group": group.0, "recovered": false, "reason": reason.to_string() }),
        });
        object["outcomes"] = outcomes.collect::<Vec<Value>>().into();
    }
    format!("{object}\n")
}

fn copy_json(copy: &CopyFinding, path: &str) -> Value {
    let numbers = |indexes: &[LogIndex]| indexes.iter().map(|index| index.0).collect::<Vec<u64>>();
    json!({
        "path": path,
        "term": copy.term.0,
        "last": copy.last.0,
        "commit": copy.commit.0,
        "applied": copy.applied.0,
        "damaged": numbers(&copy.damaged),
        "lost": numbers(&copy.lost),
    })
}

fn name(plan: &Plan, group: GroupId) -> String {
    match plan.name(group) {
        Some(name) => format!("{name} (group {group})"),
        None if group == GroupId::METADATA => "the metadata group (group 0)".to_owned(),
        None => format!("group {group}"),
    }
}

fn some_names(plan: &Plan, groups: impl ExactSizeIterator<Item = GroupId>) -> String {
    let more = groups.len().saturating_sub(NAMES_MAX);
    let mut names: Vec<String> = groups.take(NAMES_MAX).map(|group| name(plan, group)).collect();
    if more > 0 {
        names.push(format!("and {more} more"));
    }
    names.join(", ")
}

fn replica(plan: &Plan, group: GroupId, replica: ReplicaId) -> String {
    match plan.node_of(group, replica) {
        Some(node) => format!("replica {replica} on node {node}"),
        None => format!("replica {replica}"),
    }
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

/// Ascending indexes, as few words as it takes.
fn ranges(indexes: &[LogIndex]) -> String {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for LogIndex(index) in indexes.iter().copied() {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == index => *last = index,
            Some(_) | None => ranges.push((index, index)),
        }
    }
    let more = ranges.len().saturating_sub(NAMES_MAX);
    let words = ranges.into_iter().take(NAMES_MAX);
    let mut words: Vec<String> = words
        .map(|(first, last)| if first == last { first.to_string() } else { format!("{first} to {last}") })
        .collect();
    if more > 0 {
        words.push(format!("and {more} more ranges"));
    }
    let noun = if indexes.len() == 1 { "entry" } else { "entries" };
    format!("{noun} {}", words.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_are_told_in_ranges() {
        let indexes = |numbers: &[u64]| ranges(&numbers.iter().map(|number| LogIndex(*number)).collect::<Vec<_>>());
        assert_eq!(indexes(&[7]), "entry 7");
        assert_eq!(indexes(&[2, 3, 4, 9]), "entries 2 to 4, 9");
        let many: Vec<u64> = (0..12).map(|number| number * 2).collect();
        assert!(indexes(&many).ends_with("18, and 2 more ranges"));
    }
}

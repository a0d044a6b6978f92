//! Plans as text: one line for each part, so that a plan can be saved, edited, compared and replayed.

use std::{fmt, str::FromStr};

use super::{
    ClientKind, Configuration, ConsumerPlan, CrashKind, DiskBudget, DiskFault, Fault, Moment, NetworkPlan, NodePlan,
    Plan, ProbePlan, ProducerPlan, TimedFault, TopicPlan, TurnCost, Workload, disk_fault,
    fields::{Fields, LineError},
};
use crate::{
    dice::Chance,
    disk::{PowerMode, queue::DiskSpeed},
    network::{PathQuality, SocketLimits},
    time::Span,
};

/// Why a text is no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    #[error("line {line}: {error}")]
    Line { line: usize, error: LineError },
    #[error("no line begins with \"{0}\"")]
    Missing(&'static str),
    #[error("a fault names node or site {0}, which does not exist")]
    NoSuchSite(usize),
    #[error("a plan needs at least one node that votes, one topic and one producer")]
    Empty,
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}", self.seed)?;
        writeln!(f, "chaos {}", self.chaos)?;
        writeln!(f, "heal {}", self.heal)?;
        let Configuration { wal_file_bytes, wal_budget_bytes, checkpoint_interval, segment_bytes } = self.configuration;
        writeln!(
            f,
            "configuration wal_file_bytes={wal_file_bytes} wal_budget_bytes={wal_budget_bytes} \
             checkpoint_interval={checkpoint_interval} segment_bytes={segment_bytes}"
        )?;
        let PathQuality { delay, loss, fragment, bytes_per_microsecond } = &self.network.quality;
        writeln!(
            f,
            "network delay={delay} loss={} fragment={} bytes_per_microsecond={bytes_per_microsecond}",
            loss.0, fragment.0
        )?;
        let SocketLimits { buffer_bytes, give_up: (low, high), dial_timeout } = &self.network.sockets;
        writeln!(f, "sockets buffer_bytes={buffer_bytes} give_up={low}..{high} dial_timeout={dial_timeout}")?;
        for (from, to, delay) in &self.network.delays {
            writeln!(f, "path way={from}>{to} delay={delay}")?;
        }
        for node in &self.nodes {
            writeln!(f, "node {node}")?;
        }
        for TopicPlan { name, partitions, replicas } in &self.workload.topics {
            writeln!(f, "topic name={name} partitions={partitions} replicas={replicas}")?;
        }
        for ProducerPlan { client, pause, value_bytes } in &self.workload.producers {
            writeln!(f, "producer client={} pause={pause} value_bytes={value_bytes}", client.name())?;
        }
        for ConsumerPlan { client, fetch_bytes_max } in &self.workload.consumers {
            writeln!(f, "consumer client={} fetch_bytes_max={fetch_bytes_max}", client.name())?;
        }
        for ProbePlan { pause } in &self.workload.probes {
            writeln!(f, "probe pause={pause}")?;
        }
        let DiskBudget { disks, over } = self.budget;
        writeln!(f, "budget disks={disks} over={over}")?;
        for TimedFault { at, fault } in &self.faults {
            writeln!(f, "at {at} {fault}")?;
        }
        Ok(())
    }
}

impl fmt::Display for NodePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { voter, disk, power, wall_offset_milliseconds, wall_drift_ppm, monotonic_rate_ppm, turns } = self;
        let DiskSpeed { operation, sync, bytes_per_microsecond, depth, sector_bytes } = disk;
        let TurnCost { turn, input, inputs_max } = turns;
        write!(
            f,
            "voter={voter} operation={operation} sync={sync} bytes_per_microsecond={bytes_per_microsecond} \
             depth={depth} sector={sector_bytes} power={} wall={wall_offset_milliseconds} drift={wall_drift_ppm} rate={monotonic_rate_ppm} \
             turn={turn} input={input} inputs_max={inputs_max}",
            power.letter()
        )
    }
}

struct Ways<'a>(&'a [(usize, usize)]);

impl fmt::Display for Ways<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, (from, to)) in self.0.iter().enumerate() {
            let comma = if place == 0 { "" } else { "," };
            write!(f, "{comma}{from}>{to}")?;
        }
        Ok(())
    }
}

fn joined(nodes: &[usize]) -> String {
    let nodes: Vec<String> = nodes.iter().map(ToString::to_string).collect();
    nodes.join(",")
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Crash { nodes, kind, down } => {
                write!(f, "crash nodes={} kind={} down={down}", joined(nodes), kind.name())
            }
            Self::Aimed { node, moment, count, kind, down, within } => write!(
                f,
                "aimed node={node} moment={} count={count} kind={} down={down} within={within}",
                moment.name(),
                kind.name()
            ),
            Self::Shutdown { node, down } => write!(f, "shutdown node={node} down={down}"),
            Self::Pause { node, lasting } => write!(f, "pause node={node} for={lasting}"),
            Self::SlowNode { node, factor, lasting } => {
                write!(f, "slow-node node={node} factor={factor} for={lasting}")
            }
            Self::SlowDisk { node, factor, lasting } => {
                write!(f, "slow-disk node={node} factor={factor} for={lasting}")
            }
            Self::DiskStall { node, lasting } => write!(f, "disk-stall node={node} for={lasting}"),
            Self::Disk { node, fault } => write!(f, "{}", disk_fault::Of(*node, fault)),
            Self::Cut { ways, lasting } => write!(f, "cut ways={} for={lasting}", Ways(ways)),
            Self::Clog { ways, lasting } => write!(f, "clog ways={} for={lasting}", Ways(ways)),
            Self::Loss { ways, loss, lasting } => write!(f, "loss ways={} ppm={} for={lasting}", Ways(ways), loss.0),
            Self::Poison { nodes, number, lasting } => {
                write!(f, "poison nodes={} number={number} for={lasting}", joined(nodes))
            }
            Self::Reset { a, b } => write!(f, "reset a={a} b={b}"),
            Self::ClockJump { node, milliseconds } => write!(f, "clock-jump node={node} milliseconds={milliseconds}"),
        }
    }
}

impl CrashKind {
    fn name(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Power => "power",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Process, Self::Power].into_iter().find(|kind| kind.name() == text)
    }
}

impl ClientKind {
    fn name(self) -> &'static str {
        match self {
            Self::Sdk => "sdk",
            Self::Plain => "plain",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Sdk, Self::Plain].into_iter().find(|kind| kind.name() == text)
    }
}

impl Moment {
    const ALL: [Self; 7] = [
        Self::WalWritten,
        Self::WalSynced,
        Self::VoteWritten,
        Self::VoteSynced,
        Self::OtherDone,
        Self::AnyDone,
        Self::AnyBegun,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::WalWritten => "wal-written",
            Self::WalSynced => "wal-synced",
            Self::VoteWritten => "vote-written",
            Self::VoteSynced => "vote-synced",
            Self::OtherDone => "other-done",
            Self::AnyDone => "any-done",
            Self::AnyBegun => "any-begun",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|moment| moment.name() == text)
    }
}

fn way(text: &str) -> Option<(usize, usize)> {
    let (from, to) = text.split_once('>')?;
    Some((from.parse().ok()?, to.parse().ok()?))
}

fn ways(text: &str) -> Option<Vec<(usize, usize)>> {
    text.split(',').map(way).collect()
}

fn list(text: &str) -> Option<Vec<usize>> {
    text.split(',').map(|number| number.parse().ok()).collect()
}

fn range(text: &str) -> Option<(Span, Span)> {
    let (low, high) = text.split_once("..")?;
    let (low, high) = (low.parse().ok()?, high.parse().ok()?);
    (low <= high).then_some((low, high))
}

fn fault<'a>(kind: &str, words: impl Iterator<Item = &'a str>) -> Result<Fault, LineError> {
    let mut f = Fields::parse(words)?;
    let fault = match kind {
        "crash" => Fault::Crash {
            nodes: f.take_with("nodes", list)?,
            kind: f.take_with("kind", CrashKind::parse)?,
            down: f.take("down")?,
        },
        "aimed" => Fault::Aimed {
            node: f.take("node")?,
            moment: f.take_with("moment", Moment::parse)?,
            count: f.take_with("count", |count| count.parse().ok().filter(|count| *count > 0))?,
            kind: f.take_with("kind", CrashKind::parse)?,
            down: f.take("down")?,
            within: f.take("within")?,
        },
        "shutdown" => Fault::Shutdown { node: f.take("node")?, down: f.take("down")? },
        "pause" => Fault::Pause { node: f.take("node")?, lasting: f.take("for")? },
        "slow-node" => Fault::SlowNode { node: f.take("node")?, factor: f.take("factor")?, lasting: f.take("for")? },
        "slow-disk" => Fault::SlowDisk { node: f.take("node")?, factor: f.take("factor")?, lasting: f.take("for")? },
        "disk-stall" => Fault::DiskStall { node: f.take("node")?, lasting: f.take("for")? },
        "cut" => Fault::Cut { ways: f.take_with("ways", ways)?, lasting: f.take("for")? },
        "clog" => Fault::Clog { ways: f.take_with("ways", ways)?, lasting: f.take("for")? },
        "loss" => {
            Fault::Loss { ways: f.take_with("ways", ways)?, loss: Chance(f.take("ppm")?), lasting: f.take("for")? }
        }
        "poison" => {
            Fault::Poison { nodes: f.take_with("nodes", list)?, number: f.take("number")?, lasting: f.take("for")? }
        }
        "reset" => Fault::Reset { a: f.take("a")?, b: f.take("b")? },
        "clock-jump" => Fault::ClockJump { node: f.take("node")?, milliseconds: f.take("milliseconds")? },
        other => match DiskFault::parse(other, &mut f)? {
            Some(fault) => Fault::Disk { node: f.take("node")?, fault },
            None => return Err(LineError::Kind(other.to_owned())),
        },
    };
    f.end()?;
    Ok(fault)
}

/// A plan of which not every line was read.
#[derive(Default)]
struct Parts {
    seed: Option<u64>,
    chaos: Option<Span>,
    heal: Option<Span>,
    configuration: Option<Configuration>,
    quality: Option<PathQuality>,
    sockets: Option<SocketLimits>,
    delays: Vec<(usize, usize, crate::network::Delay)>,
    nodes: Vec<NodePlan>,
    topics: Vec<TopicPlan>,
    producers: Vec<ProducerPlan>,
    consumers: Vec<ConsumerPlan>,
    probes: Vec<ProbePlan>,
    budget: Option<DiskBudget>,
    faults: Vec<TimedFault>,
}

impl Parts {
    fn line(&mut self, line: &str) -> Result<(), LineError> {
        let mut words = line.split_whitespace();
        let kind = words.next().ok_or(LineError::Short)?;
        let mut value = |key: &'static str| {
            let text = words.next().ok_or(LineError::Short)?;
            Ok::<_, LineError>((key, text))
        };
        match kind {
            "seed" => {
                let (key, text) = value("seed")?;
                self.seed = Some(text.parse().map_err(|_| LineError::Value { key, value: text.to_owned() })?);
                return Ok(());
            }
            "chaos" | "heal" => {
                let (key, text) = value(if kind == "chaos" { "chaos" } else { "heal" })?;
                let span = text.parse().map_err(|_| LineError::Value { key, value: text.to_owned() })?;
                *(if kind == "chaos" { &mut self.chaos } else { &mut self.heal }) = Some(span);
                return Ok(());
            }
            "at" => {
                let (key, text) = value("at")?;
                let at = text.parse().map_err(|_| LineError::Value { key, value: text.to_owned() })?;
                let kind = words.next().ok_or(LineError::Short)?;
                self.faults.push(TimedFault { at, fault: fault(kind, words)? });
                return Ok(());
            }
            _ => {}
        }
        let mut f = Fields::parse(words)?;
        match kind {
            "configuration" => {
                self.configuration = Some(Configuration {
                    wal_file_bytes: f.take("wal_file_bytes")?,
                    wal_budget_bytes: f.take("wal_budget_bytes")?,
                    checkpoint_interval: f.take("checkpoint_interval")?,
                    segment_bytes: f.take("segment_bytes")?,
                });
            }
            "network" => {
                self.quality = Some(PathQuality {
                    delay: f.take("delay")?,
                    loss: Chance(f.take("loss")?),
                    fragment: Chance(f.take("fragment")?),
                    bytes_per_microsecond: positive(&mut f, "bytes_per_microsecond")?,
                });
            }
            "sockets" => {
                self.sockets = Some(SocketLimits {
                    buffer_bytes: f.take("buffer_bytes")?,
                    give_up: f.take_with("give_up", range)?,
                    dial_timeout: f.take("dial_timeout")?,
                });
            }
            "path" => {
                let (from, to) = f.take_with("way", way)?;
                self.delays.push((from, to, f.take("delay")?));
            }
            "node" => self.nodes.push(node(&mut f)?),
            "topic" => self.topics.push(TopicPlan {
                name: f.take("name")?,
                partitions: f.take("partitions")?,
                replicas: f.take("replicas")?,
            }),
            "producer" => {
                self.producers.push(ProducerPlan {
                    client: f.take_with("client", ClientKind::parse)?,
                    pause: f.take("pause")?,
                    value_bytes: f.take("value_bytes")?,
                });
            }
            "consumer" => self.consumers.push(ConsumerPlan {
                client: f.take_with("client", ClientKind::parse)?,
                fetch_bytes_max: f.take("fetch_bytes_max")?,
            }),
            "budget" => self.budget = Some(DiskBudget { disks: f.take("disks")?, over: f.take("over")? }),
            "probe" => self.probes.push(ProbePlan { pause: f.take("pause")? }),
            other => return Err(LineError::Kind(other.to_owned())),
        }
        f.end()
    }
}

fn positive(f: &mut Fields<'_>, key: &'static str) -> Result<u64, LineError> {
    f.take_with(key, |value| value.parse().ok().filter(|value| *value > 0))
}

fn node(f: &mut Fields<'_>) -> Result<NodePlan, LineError> {
    let power = |text: &str| PowerMode::ALL.into_iter().find(|mode| mode.letter().to_string() == text);
    Ok(NodePlan {
        voter: f.take("voter")?,
        disk: DiskSpeed {
            operation: f.take("operation")?,
            sync: f.take("sync")?,
            bytes_per_microsecond: positive(f, "bytes_per_microsecond")?,
            depth: f.take_with("depth", |depth| depth.parse().ok().filter(|depth| *depth > 0))?,
            sector_bytes: f
                .take_with("sector", |bytes| bytes.parse().ok().filter(|bytes| matches!(bytes, 512 | 4_096)))?,
        },
        power: f.take_with("power", power)?,
        wall_offset_milliseconds: f.take("wall")?,
        wall_drift_ppm: f.take("drift")?,
        monotonic_rate_ppm: f
            .take_with("rate", |rate| rate.parse().ok().filter(|rate| (-500_000..=500_000).contains(rate)))?,
        turns: TurnCost { turn: f.take("turn")?, input: f.take("input")?, inputs_max: positive(f, "inputs_max")? },
    })
}

impl FromStr for Plan {
    type Err = PlanError;

    /// Reads what `Display` wrote. Empty lines and lines that begin with `#` are skipped.
    fn from_str(text: &str) -> Result<Self, PlanError> {
        let mut parts = Parts::default();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if !line.is_empty() && !line.starts_with('#') {
                parts.line(line).map_err(|error| PlanError::Line { line: number + 1, error })?;
            }
        }
        let mut plan = Self {
            seed: parts.seed.ok_or(PlanError::Missing("seed"))?,
            nodes: parts.nodes,
            configuration: parts.configuration.ok_or(PlanError::Missing("configuration"))?,
            network: NetworkPlan {
                quality: parts.quality.ok_or(PlanError::Missing("network"))?,
                delays: parts.delays,
                sockets: parts.sockets.ok_or(PlanError::Missing("sockets"))?,
            },
            workload: Workload {
                topics: parts.topics,
                producers: parts.producers,
                consumers: parts.consumers,
                probes: parts.probes,
            },
            budget: parts.budget.unwrap_or_default(),
            chaos: parts.chaos.ok_or(PlanError::Missing("chaos"))?,
            heal: parts.heal.ok_or(PlanError::Missing("heal"))?,
            faults: parts.faults,
        };
        plan.faults.sort_by_key(|fault| fault.at);
        plan.check()?;
        Ok(plan)
    }
}

impl Plan {
    fn check(&self) -> Result<(), PlanError> {
        let workload = &self.workload;
        let voters = self.nodes.iter().filter(|node| node.voter).count();
        if voters == 0 || workload.topics.is_empty() || workload.producers.is_empty() {
            return Err(PlanError::Empty);
        }
        for TimedFault { fault, .. } in &self.faults {
            let (nodes, sites) = fault.places();
            let wrong = nodes
                .into_iter()
                .find(|node| *node >= self.nodes.len())
                .or_else(|| sites.into_iter().find(|site| *site >= self.sites()));
            if let Some(wrong) = wrong {
                return Err(PlanError::NoSuchSite(wrong));
            }
        }
        Ok(())
    }
}

impl Fault {
    /// The nodes and the sites it names.
    fn places(&self) -> (Vec<usize>, Vec<usize>) {
        match self {
            Self::Crash { nodes, .. } | Self::Poison { nodes, .. } => (nodes.clone(), Vec::new()),
            Self::Aimed { node, .. }
            | Self::Shutdown { node, .. }
            | Self::Pause { node, .. }
            | Self::SlowNode { node, .. }
            | Self::SlowDisk { node, .. }
            | Self::DiskStall { node, .. }
            | Self::Disk { node, .. }
            | Self::ClockJump { node, .. } => (vec![*node], Vec::new()),
            Self::Cut { ways, .. } | Self::Clog { ways, .. } | Self::Loss { ways, .. } => {
                (Vec::new(), ways.iter().flat_map(|(from, to)| [*from, *to]).collect())
            }
            Self::Reset { a, b } => (Vec::new(), vec![*a, *b]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_drawn_plan_is_read_back_as_it_was_printed() {
        for seed in 0..300 {
            let plan = Plan::draw(seed);
            assert_eq!(plan.to_string().parse(), Ok(plan), "seed {seed}");
        }
    }

    #[test]
    fn a_mistake_is_named_with_its_line() {
        let text = Plan::draw(1).to_string();
        let broken = text.replace("seed 1\n", "seed 1\n\n# a comment\nat 3s pause node=0\n");
        let error = broken.parse::<Plan>().unwrap_err();
        assert_eq!(error.to_string(), "line 4: \"for\" is missing");
        let broken = format!("{text}at 3s pause node=77 for=1s\n");
        assert_eq!(broken.parse::<Plan>(), Err(PlanError::NoSuchSite(77)));
    }
}

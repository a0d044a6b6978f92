//! Failure detection for each pair of nodes: frames heard and links lost go in, up and down per pair come out.
//!
//! Both nodes of a pair send a frame at least each [`limits::PING_INTERVAL`]. A frame carries a number of its sender
//! (its *ping*) and echoes the newest ping heard from the receiver. An echo proves both directions: our ping got
//! there, and its echo came back. A pair is up only while such proofs are fresh.
//!
//! Invariants: a node acts on its own observation only (nothing one peer says about another enters here), and Raft's
//! safety never depends on a verdict. A wrong verdict costs an election, nothing else.
//!
//! Does not send anything, knows no link and no group.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    ids::{BootNumber, NodeId},
    limits,
    time::{Monotonic, earliest},
};

#[cfg(test)]
mod tests;

/// Raft's own election timeout: silence for this long makes followers campaign without any verdict of ours.
pub const ELECTION_TIMEOUT: Duration = limits::TICK.saturating_mul(limits::ELECTION_TICKS as u32);

/// A number of a sender that grows with each turn in which it sends: the nanoseconds of its monotonic clock. Opaque
/// to everybody else, who only echoes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ping(pub u64);

/// The newest ping heard from the receiver of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Echo {
    /// The boot number of the process that sent the ping; another process has another clock.
    pub boot: BootNumber,
    pub ping: Ping,
    /// How long ago the ping was heard when the frame was made.
    pub hold: Duration,
}

/// What a frame tells the detector about its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    pub boot: BootNumber,
    pub ping: Ping,
    pub echo: Option<Echo>,
}

/// What the next frame to a peer has to carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    pub ping: Ping,
    pub echo: Option<Echo>,
}

/// What happened to a link with a peer, either one that we dialled or one that it dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkChange {
    /// An established link is gone.
    Lost,
    /// An attempt to connect failed.
    DialFailed,
}

/// A change of what we believe about a pair of which we are one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Up(NodeId),
    Down(NodeId),
}

/// All pairs of this node.
#[derive(Debug)]
pub struct Detector {
    boot: BootNumber,
    pairs: BTreeMap<NodeId, Pair>,
    last_turn: Option<Monotonic>,
    verdicts: Vec<Verdict>,
}

#[derive(Debug)]
struct Pair {
    state: State,
    boot: Option<BootNumber>,
    /// The newest ping of the peer's present process, and when it came.
    heard: Option<(Ping, Monotonic)>,
    /// The newest ping of ours that went out, and the newest that was echoed.
    sent: Option<Ping>,
    echoed: Option<Ping>,
    /// Both directions worked at this time; before the first echo, the time we started to look.
    proven: Monotonic,
    /// A connection was lost and nothing proves yet that the pair survived it.
    relink: Option<Relink>,
    /// How often the limit is doubled, and since when the pair is up without another alarm.
    doublings: u32,
    calm_since: Monotonic,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Not heard of since we look at it, and not for long enough to say so.
    Starting,
    Up,
    Down {
        since: Monotonic,
        cause: Cause,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// No fresh echo, or a lost connection: may turn out to be a false alarm.
    Silence,
    /// Never seen, or another process by now: nothing false about it.
    Certain,
}

#[derive(Clone, Copy, Debug)]
struct Relink {
    lost: Monotonic,
    deadline: Monotonic,
}

impl Detector {
    /// `boot` is our own boot number.
    pub fn new(boot: BootNumber) -> Self {
        Self { boot, pairs: BTreeMap::new(), last_turn: None, verdicts: Vec::new() }
    }

    /// Looks at exactly these peers from now on. Peers that are no longer named are forgotten without a verdict.
    pub fn set_peers(&mut self, now: Monotonic, peers: impl IntoIterator<Item = NodeId>) {
        self.observe(now);
        let mut before = std::mem::take(&mut self.pairs);
        self.pairs =
            peers.into_iter().map(|node| (node, before.remove(&node).unwrap_or_else(|| Pair::new(now)))).collect();
        self.verdicts.retain(|verdict| match verdict {
            Verdict::Up(node) | Verdict::Down(node) => self.pairs.contains_key(node),
        });
    }

    /// What the next frame to this peer carries. Only for frames that really leave in this turn.
    pub fn stamp(&mut self, now: Monotonic, node: NodeId) -> Stamp {
        let ping = Ping(now.0);
        let Some(pair) = self.pairs.get_mut(&node) else { return Stamp { ping, echo: None } };
        pair.sent = Some(ping);
        let echo =
            pair.boot.zip(pair.heard).map(|(boot, (ping, heard_at))| Echo { boot, ping, hold: now.since(heard_at) });
        Stamp { ping, echo }
    }

    /// This peer runs as the process of that boot number; an earlier one than known changes nothing.
    pub fn handle_boot(&mut self, now: Monotonic, node: NodeId, boot: BootNumber) {
        self.observe(now);
        let Some(pair) = self.pairs.get_mut(&node) else { return };
        if pair.boot.is_some_and(|known| boot > known) {
            if pair.state == State::Up {
                self.verdicts.push(Verdict::Down(node));
            }
            pair.restarted(now);
        }
        pair.boot = pair.boot.max(Some(boot));
    }

    /// This peer runs from another data directory by now, whose boot numbers say nothing about those before.
    pub fn handle_replacement(&mut self, now: Monotonic, node: NodeId, boot: BootNumber) {
        self.observe(now);
        let Some(pair) = self.pairs.get_mut(&node) else { return };
        if pair.state == State::Up {
            self.verdicts.push(Verdict::Down(node));
        }
        pair.restarted(now);
        pair.boot = Some(boot);
    }

    /// A frame of this peer arrived. Frames of an earlier process of the peer change nothing.
    pub fn handle_frame(&mut self, now: Monotonic, node: NodeId, heard: &Heard) {
        self.handle_boot(now, node, heard.boot);
        let Some(pair) = self.pairs.get_mut(&node) else { return };
        if pair.boot != Some(heard.boot) {
            return;
        }
        if pair.heard.is_none_or(|(newest, _)| heard.ping > newest) {
            pair.heard = Some((heard.ping, now));
        }
        if let Some(echo) = heard.echo.filter(|echo| echo.boot == self.boot)
            && pair.prove(now, &echo)
        {
            self.verdicts.push(Verdict::Up(node));
        }
    }

    /// A link with this peer changed.
    pub fn handle_link(&mut self, now: Monotonic, node: NodeId, change: LinkChange) {
        self.observe(now);
        let Some(pair) = self.pairs.get_mut(&node) else { return };
        match (pair.state, change, pair.relink) {
            (State::Up, LinkChange::Lost, None) => {
                pair.relink = Some(Relink { lost: now, deadline: now + pair.doubled(limits::PEER_RELINK_AFTER) });
            }
            // The connection went away and nobody answers where it was: that process is gone. Only a peer that made
            // us look foolish before gets the benefit of the doubt.
            (State::Up, LinkChange::DialFailed, Some(relink)) if pair.doublings == 0 => {
                pair.relink = Some(Relink { deadline: now, ..relink });
            }
            (State::Up, LinkChange::Lost, Some(_))
            | (State::Up, LinkChange::DialFailed, Some(_) | None)
            | (State::Starting | State::Down { .. }, LinkChange::Lost | LinkChange::DialFailed, _) => {}
        }
    }

    /// Everything that changed since the last call, in order.
    pub fn poll(&mut self, now: Monotonic) -> impl Iterator<Item = Verdict> + '_ {
        self.pass(now);
        for (node, pair) in &mut self.pairs {
            if pair.deadline().is_some_and(|deadline| deadline <= now) {
                pair.give_up(now);
                self.verdicts.push(Verdict::Down(*node));
            }
        }
        self.verdicts.drain(..)
    }

    /// Takes note that this node runs; to be called in every turn in which nothing else is. Returns whether any
    /// deadline moved by it.
    pub fn pass(&mut self, now: Monotonic) -> bool {
        let mut moved = self.observe(now);
        for pair in self.pairs.values_mut() {
            moved |= pair.decay(now);
        }
        moved
    }

    pub fn next_deadline(&self) -> Option<Monotonic> {
        self.pairs.values().fold(None, |next, pair| earliest(next, pair.deadline()))
    }

    /// Whether both directions of the pair work, as far as we know.
    pub fn is_up(&self, node: NodeId) -> bool {
        self.pairs.get(&node).is_some_and(|pair| pair.state == State::Up)
    }

    /// The boot number of the newest process heard of.
    pub fn boot_of(&self, node: NodeId) -> Option<BootNumber> {
        self.pairs.get(&node).and_then(|pair| pair.boot)
    }

    /// Every entry point passes here. Between two turns far apart we did not run, so that silence meanwhile says
    /// nothing about others: all clocks of the pairs stand still for that time. Only what exceeds the normal
    /// distance of turns counts, or an overloaded node would never notice a dead one. Returns whether any did.
    fn observe(&mut self, now: Monotonic) -> bool {
        let since = self.last_turn.map_or(Duration::ZERO, |last| now.since(last));
        let pause = since.saturating_sub(limits::PEER_OWN_PAUSE);
        if !pause.is_zero() {
            for pair in self.pairs.values_mut() {
                pair.stand_still(now, pause);
            }
        }
        self.last_turn = self.last_turn.max(Some(now));
        !pause.is_zero()
    }
}

impl Pair {
    fn new(now: Monotonic) -> Self {
        Self {
            state: State::Starting,
            boot: None,
            heard: None,
            sent: None,
            echoed: None,
            proven: now,
            relink: None,
            doublings: 0,
            calm_since: now,
        }
    }

    /// The peer runs as another process: nothing known of the old one applies to it.
    fn restarted(&mut self, now: Monotonic) {
        self.state = match self.state {
            State::Starting => State::Starting,
            State::Up | State::Down { .. } => State::Down { since: now, cause: Cause::Certain },
        };
        self.heard = None;
        self.relink = None;
    }

    /// Takes an echo of our own; true if the pair came up by it.
    fn prove(&mut self, now: Monotonic, echo: &Echo) -> bool {
        // A ping that we never sent, or whose echo we know, proves nothing.
        if self.sent.is_none_or(|sent| echo.ping > sent) || self.echoed.is_some_and(|echoed| echo.ping <= echoed) {
            return false;
        }
        self.echoed = Some(echo.ping);
        // When the frame was made, not when it came: frames may have waited long in buffers of a cut link. A hold is
        // believed up to the distance of two pings, because a longer one means that later pings of ours were lost.
        let pinged = Monotonic(echo.ping.0);
        self.proven = self.proven.max(pinged + echo.hold.min(limits::PING_INTERVAL)).min(now);
        if self.relink.is_some_and(|relink| pinged >= relink.lost) {
            self.relink = None;
        }
        if now.since(self.proven) >= self.limit() {
            return false;
        }
        match self.state {
            State::Up => false,
            State::Starting => {
                self.come_up(now);
                true
            }
            // Only what was sent after the verdict revises it.
            State::Down { since, .. } if pinged < since => false,
            State::Down { since, cause } => {
                // Back within an election timeout as the same process: without us nobody would have noticed.
                if cause == Cause::Silence && now.since(since) < ELECTION_TIMEOUT && self.limit() < ELECTION_TIMEOUT {
                    self.doublings += 1;
                }
                self.come_up(now);
                true
            }
        }
    }

    fn come_up(&mut self, now: Monotonic) {
        self.state = State::Up;
        self.relink = None;
        self.calm_since = now;
    }

    fn give_up(&mut self, now: Monotonic) {
        let cause = match self.state {
            State::Starting => Cause::Certain,
            State::Up | State::Down { .. } => Cause::Silence,
        };
        self.state = State::Down { since: now, cause };
        self.relink = None;
    }

    /// When the pair counts as down if nothing happens; none if it does already.
    fn deadline(&self) -> Option<Monotonic> {
        match self.state {
            State::Starting | State::Up => {
                earliest(Some(self.proven + self.limit()), self.relink.map(|relink| relink.deadline))
            }
            State::Down { .. } => None,
        }
    }

    fn limit(&self) -> Duration {
        self.doubled(limits::PEER_DOWN_AFTER)
    }

    fn doubled(&self, limit: Duration) -> Duration {
        limit.saturating_mul(1 << self.doublings).min(ELECTION_TIMEOUT)
    }

    /// Returns whether a limit shrank.
    fn decay(&mut self, now: Monotonic) -> bool {
        let before = self.doublings;
        while self.doublings > 0 && self.state == State::Up && now.since(self.calm_since) >= limits::PEER_ALARM_DECAY {
            self.doublings -= 1;
            self.calm_since = self.calm_since + limits::PEER_ALARM_DECAY;
        }
        self.doublings != before
    }

    fn stand_still(&mut self, now: Monotonic, pause: Duration) {
        self.proven = (self.proven + pause).min(now);
        if let Some(relink) = &mut self.relink {
            relink.deadline = relink.deadline + pause;
        }
    }
}

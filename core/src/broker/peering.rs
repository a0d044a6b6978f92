//! What other nodes say.

use slog::{info, warn};

use super::{Broker, controller, joining, repair, segment_repair, transfer};
use crate::{
    ids::NodeId,
    io::Exit,
    replication::peer::{ControlKind, PeerEvent, Rejection},
    time::Now,
};

/// Control messages of formation and of the gossip about leaders; those of calls are in [`controller`].
pub(super) const FORMATION: ControlKind = ControlKind(1);
pub(super) const GOSSIP: ControlKind = ControlKind(2);

impl Broker {
    pub(super) fn other_nodes(&self) -> impl Iterator<Item = NodeId> {
        let own = self.config.node;
        self.config.peers.iter().map(|peer| peer.node).filter(move |node| *node != own)
    }

    pub(super) fn take_peer_events(&mut self, now: Now) {
        // What is handled may make new events; the vectors are reused.
        let mut events = std::mem::take(&mut self.peer_events);
        for event in events.drain(..) {
            match event {
                PeerEvent::Up(node) => {
                    info!(self.logger, "a node can be reached"; "node" => node.0);
                    self.peer_up(node);
                    for bytes in self.leaders.digest() {
                        // If it does not get there, the next connection brings it.
                        let _ = self.peers.send_control(now, node, GOSSIP, bytes);
                    }
                    self.tell_metadata_members(now, node);
                }
                PeerEvent::Down(node) => {
                    info!(self.logger, "a node cannot be reached"; "node" => node.0);
                    self.peer_down(now, node);
                }
                PeerEvent::Unreachable(node) => {
                    self.unreachable(node);
                    // A call may have been lost with the link; what became of it is unknown.
                    self.calls.peer_lost(node);
                }
                PeerEvent::Hello { from, boot: _, cluster: _, hello } => self.heard_hello(from, &hello),
                PeerEvent::Raft { from, envelope, message } => self.step(from, envelope, message),
                PeerEvent::Control { from, kind, bytes } => match kind {
                    FORMATION => self.heard_formation(from, &bytes),
                    GOSSIP => {
                        match self.leaders.merge(from, &bytes, &self.image) {
                            // Whoever created a topic waits for its leaders.
                            Ok(changed) => changed.into_iter().for_each(|group| self.watch.wake(group)),
                            Err(_) => warn!(self.logger, "gossip about leaders cannot be read"; "from" => from.0),
                        }
                    }
                    transfer::QUESTION => self.heard_transfer_question(now, from, &bytes),
                    transfer::ANSWER => self.heard_transfer_answer(now, from, &bytes),
                    repair::QUESTION => self.heard_repair_question(from, &bytes),
                    repair::ANSWER => self.heard_repair_answer(from, &bytes),
                    segment_repair::QUESTION => self.heard_segment_question(from, &bytes),
                    segment_repair::ANSWER => self.heard_segment_answer(now, from, &bytes),
                    controller::FORWARD => self.forwarded(now, from, &bytes),
                    controller::FORWARDED => self.forward_answered(now, from, &bytes),
                    joining::MEMBERS => self.heard_metadata_members(from, &bytes),
                    joining::REPLACED => self.told_replaced(from, &bytes),
                    unknown => {
                        warn!(self.logger, "a message of an unknown kind"; "from" => from.0, "kind" => unknown.0);
                    }
                },
                PeerEvent::Rejected { from, reason, .. } => {
                    if let (Some(node), Rejection::ReplacedDirectory(directory)) = (from, &reason) {
                        self.heard_replaced_directory(now, node, *directory);
                    }
                    if let Rejection::PositionLost { .. } = reason {
                        self.exit.get_or_insert(Exit::Refused(format!(
                            "{reason}: this disk lost what it had made durable, so this node must not vote as itself"
                        )));
                    }
                    warn!(self.logger, "a link was closed"; "node" => from.map(|node| node.0), "reason" => %reason);
                }
            }
        }
        if self.peer_events.is_empty() {
            self.peer_events = events;
        }
    }
}

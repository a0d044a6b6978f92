//! What nodes tell each other, read off the frames that are about to leave one, for checks from the inside.
//!
//! Invariant: nothing is read unless some check asks for it, and reading changes nothing.

use bytes::Bytes;
use kauri_core::{
    io::PeerSend,
    replication::peer::{
        Envelope,
        frame::{Frame, PREFIX_BYTES},
    },
};

use crate::{
    check::inside::acknowledged_is_intact::Acknowledged,
    core::{Core, Depth, NodeView},
    failure::Failure,
    world::World,
};

impl<C: Core> World<C> {
    /// Looks at what replicas of a node acknowledge at the end of a turn.
    pub(crate) fn check_acknowledged(&self, index: usize, sends: &[PeerSend]) -> Result<(), Failure> {
        let check = &self.inside.acknowledged_is_intact;
        let Some(process) = self.nodes[index].process.as_ref().filter(|_| check.is_watched(index)) else {
            return Ok(());
        };
        let acknowledged = sends.iter().flat_map(acknowledged).collect::<Vec<_>>();
        if acknowledged.is_empty() {
            return Ok(());
        }
        let mut view = NodeView::default();
        process.core.view(Depth::Shallow, &mut view);
        check.check(index, &acknowledged, &view).map_err(|failure| failure.at(self.schedule.now()))
    }
}

/// Every acknowledgement in what a node sends to another one.
fn acknowledged(send: &PeerSend) -> Vec<Acknowledged> {
    let mut rest = Bytes::from(send.slices.concat());
    let mut found = Vec::new();
    while let Some(prefix) = rest.first_chunk::<PREFIX_BYTES>() {
        let length = u32::from_be_bytes(*prefix) as usize;
        let frame = rest.slice(PREFIX_BYTES..PREFIX_BYTES + length);
        rest = rest.slice(PREFIX_BYTES + length..);
        let frame = Frame::decode(frame).expect("a node sends whole frames");
        let sections = frame.sections().map(|section| section.expect("a node sends whole sections"));
        found.extend(sections.filter_map(|section| {
            let (Envelope { group, from, .. }, index) = section.acknowledges()?;
            Some(Acknowledged { group, replica: from, index })
        }));
    }
    found
}

//! What a node keeps in buffers and caches stays below the sum of the limits that it was built with.

use kauri_core::limits;

use crate::{core::NodeView, failure::Failure};

/// Every account of a node at its limit at once.
const BUFFERED_BYTES_MAX: usize = limits::ENTRY_CACHE_BYTES
    + limits::SHARD_PROPOSED_BYTES_MAX
    + limits::SHARD_TAIL_BYTES_MAX
    + limits::WAL_WRITE_BYTES_MAX * 2
    + limits::PEER_WINDOW_BYTES * limits::REPLICAS_MAX;

#[derive(Debug)]
pub struct BoundedMemory;

impl BoundedMemory {
    pub fn look(&mut self, node: usize, view: &NodeView) -> Result<(), Failure> {
        if view.buffered_bytes <= BUFFERED_BYTES_MAX {
            return Ok(());
        }
        let explanation =
            format!("node {node} holds {} bytes, and {BUFFERED_BYTES_MAX} are allowed", view.buffered_bytes);
        Err(Failure::new("bounded_memory", explanation))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::story::*, *};

    #[test]
    fn a_node_beyond_its_limits_caught_by() {
        let mut view = node(group());
        view.buffered_bytes = BUFFERED_BYTES_MAX;
        assert_eq!(BoundedMemory.look(0, &view), Ok(()));
        view.buffered_bytes += 1;
        assert!(BoundedMemory.look(0, &view).is_err());
    }
}

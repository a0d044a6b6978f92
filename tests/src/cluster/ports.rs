//! Ports for processes that listen.
//!
//! They lie below the range from which systems take the ports of outgoing connections, so that a node that was killed
//! finds its port free when it starts again. Somebody else may still take one between the choice and the use: a cluster
//! that does not start for that reason is started again with others.

use std::{
    collections::BTreeSet,
    net::TcpListener,
    process,
    sync::atomic::{AtomicU16, Ordering},
};

const FIRST: u16 = 12_000;
const COUNT: u16 = 20_000;

/// Where the search of this process goes on.
static NEXT: AtomicU16 = AtomicU16::new(0);

/// Ports that are free now, all different.
pub fn free(count: usize) -> Vec<u16> {
    let start = u16::try_from(process::id().wrapping_mul(7919) % u32::from(COUNT)).expect("less than COUNT");
    let mut ports = BTreeSet::new();
    for _ in 0..COUNT {
        if ports.len() == count {
            break;
        }
        let step = NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
        let port =
            FIRST + u16::try_from((u32::from(start) + u32::from(step)) % u32::from(COUNT)).expect("less than COUNT");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            ports.insert(port);
        }
    }
    assert_eq!(ports.len(), count, "there are free ports");
    ports.into_iter().collect()
}

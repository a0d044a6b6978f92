//! State transfer: how a replica that is behind the retained log gets what it missed.
//!
//! The replica pulls. An announcement by Raft only starts it: first it fetches applied batches behind its own end,
//! from whoever leads, while it goes on ticking and voting on its old state; when little is missing, it asks the leader
//! for a snapshot of the rest (the state machine's image, the membership, where the log stands) and fetches that and the
//! batches below it. What it then switches to is complete and is a state that was committed.
//!
//! Owns the messages ([`message`]) and both sides as state machines without a clock, a disk or a network. Invariant: at
//! any moment there is at most one question of a replica open; an answer counts only if it answers that one; and a
//! leader that announced a state hears how it ended, or takes the silence for a failure.
//!
//! Does not know what an image or a batch means; does not touch Raft.

pub mod message;
pub mod receiver;
pub mod sender;
mod throttle;

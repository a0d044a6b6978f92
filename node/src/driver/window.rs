//! How much one client connection may have in the node's memory, and all of them together.
//!
//! A [`Window`] is one connection's credit: it may deliver frames while the credit is above zero, so one frame may
//! overdraw it (the largest frames are larger than the window). The core returns credit as it answers.
//!
//! Invariant: beyond a small allowance per connection, every byte read from a client and not yet answered is paid for
//! from the [`Budget`] that all connections of the node share.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kauri_core::limits;
use tokio::sync::{Notify, Semaphore};

/// What a connection may hold without asking the budget, so that small requests never wait for large ones.
pub(crate) const ALLOWANCE_BYTES: usize = 64 << 10;

/// Bytes of clients' frames in memory beyond the allowances. Holds one frame of the largest size.
#[derive(Debug)]
pub(crate) struct Budget(Semaphore);

pub(crate) const BUDGET_BYTES: usize = 128 << 20;
/// What a connection asks for at a time when the budget is used up.
const SCARCE_BYTES: u32 = 64 << 10;

const _: () = assert!(BUDGET_BYTES > limits::PRODUCE_FRAME_BYTES_MAX + limits::CLIENT_WINDOW_BYTES);

#[derive(Debug)]
pub(crate) struct Window {
    budget: Arc<Budget>,
    account: Mutex<Account>,
    credited: Notify,
}

#[derive(Debug)]
struct Account {
    credit: i64,
    /// Bytes read and not yet credited back: frames delivered and the parts of one that is not complete.
    held: usize,
    /// Bytes taken from the budget.
    paid: usize,
}

impl Budget {
    pub(crate) fn new(bytes: usize) -> Self {
        Self(Semaphore::new(bytes))
    }

    #[cfg(test)]
    pub(crate) fn available(&self) -> usize {
        self.0.available_permits()
    }
}

impl Window {
    pub(crate) fn new(budget: Arc<Budget>) -> Self {
        let credit = i64::try_from(limits::CLIENT_WINDOW_BYTES).expect("a window is far below 2^63 bytes");
        Self { budget, account: Mutex::new(Account { credit, held: 0, paid: 0 }), credited: Notify::new() }
    }

    /// Waits until a frame may be delivered.
    pub(crate) async fn open(&self) {
        loop {
            let credited = self.credited.notified();
            if self.account().credit > 0 {
                return;
            }
            credited.await;
        }
    }

    /// Whether a frame may be delivered now.
    pub(crate) fn is_open(&self) -> bool {
        self.account().credit > 0
    }

    /// A frame of so many bytes was delivered.
    pub(crate) fn deliver(&self, bytes: usize) {
        self.account().credit -= signed(bytes);
    }

    /// How many bytes may be read now: up to `wanted`, at least one. Waits for the budget if the allowance is used up.
    pub(crate) async fn room(&self, wanted: usize) -> usize {
        let free = self.account().free();
        let missing = wanted.saturating_sub(free);
        if missing == 0 {
            return wanted;
        }
        let permits = u32::try_from(missing).unwrap_or(u32::MAX);
        let permit = match self.budget.0.try_acquire_many(permits) {
            Ok(permit) => permit,
            Err(_) if free > 0 => return free,
            // Little is asked for, so that many who wait get something each.
            Err(_) => {
                let permits = permits.min(SCARCE_BYTES);
                self.budget.0.acquire_many(permits).await.expect("the budget is never closed")
            }
        };
        let paid = permit.num_permits();
        permit.forget();
        let mut account = self.account();
        account.paid += paid;
        account.free().min(wanted)
    }

    /// So many bytes were read. What was paid for and not read goes back to the budget.
    pub(crate) fn hold(&self, bytes: usize) {
        let mut account = self.account();
        account.held += bytes;
        account.settle(&self.budget);
    }

    /// So many bytes that were read are no part of a frame, and are in memory no longer.
    pub(crate) fn release(&self, bytes: usize) {
        let mut account = self.account();
        account.held = account.held.saturating_sub(bytes);
        account.settle(&self.budget);
    }

    /// The core answered frames of so many bytes.
    pub(crate) fn credit(&self, bytes: usize) {
        self.account().credit += signed(bytes);
        self.release(bytes);
        self.credited.notify_one();
    }

    fn account(&self) -> MutexGuard<'_, Account> {
        // Each change is complete before anything can panic.
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Account {
    /// What may be read without paying more.
    fn free(&self) -> usize {
        (ALLOWANCE_BYTES + self.paid).saturating_sub(self.held)
    }

    fn settle(&mut self, budget: &Budget) {
        let surplus = self.paid.saturating_sub(self.held.saturating_sub(ALLOWANCE_BYTES));
        self.paid -= surplus;
        budget.0.add_permits(surplus);
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        let paid = self.account().paid;
        self.budget.0.add_permits(paid);
    }
}

fn signed(bytes: usize) -> i64 {
    i64::try_from(bytes).expect("a frame is far below 2^63 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        future::Future,
        pin::pin,
        task::{Context, Poll, Waker},
    };

    /// What a future returns if it need not wait.
    fn now<T>(future: impl Future<Output = T>) -> Option<T> {
        match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => Some(value),
            Poll::Pending => None,
        }
    }

    #[test]
    fn a_window_closes_when_it_is_overdrawn_and_opens_with_credit() {
        let window = Window::new(Arc::new(Budget::new(1000)));
        assert!(window.is_open());
        window.deliver(limits::CLIENT_WINDOW_BYTES - 1);
        assert!(window.is_open(), "one byte is left, so one more frame may come");
        window.deliver(500);
        assert!(!window.is_open());
        assert_eq!(now(window.open()), None);
        window.credit(499);
        assert!(!window.is_open());
        window.credit(1);
        assert_eq!(now(window.open()), Some(()));
    }

    #[test]
    fn large_frames_are_paid_for_from_a_common_budget() {
        let budget = Arc::new(Budget::new(1000));
        let (one, other) = (Window::new(Arc::clone(&budget)), Window::new(Arc::clone(&budget)));
        assert_eq!(now(one.room(ALLOWANCE_BYTES)), Some(ALLOWANCE_BYTES));
        assert_eq!(budget.available(), 1000, "the allowance is free");
        one.hold(ALLOWANCE_BYTES);
        assert_eq!(now(one.room(700)), Some(700));
        one.hold(600);
        assert_eq!(budget.available(), 400, "what was not read after all is given back");

        assert_eq!(now(other.room(usize::MAX)), Some(ALLOWANCE_BYTES), "small requests pass while others hold a lot");
        other.hold(ALLOWANCE_BYTES);
        assert_eq!(now(other.room(401)), None, "more has to wait");
        one.credit(1);
        assert_eq!(now(other.room(401)), Some(401));

        drop(one);
        drop(other);
        assert_eq!(budget.available(), 1000, "whatever a connection held ends with it");
    }
}

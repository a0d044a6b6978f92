//! How much one client connection may have in the node's memory, and all of them together.
//!
//! A [`Window`] is one connection's credit: it may deliver frames while the credit is above zero, so one frame may
//! overdraw it (the largest frames are larger than the window). The core returns credit as it answers.
//!
//! Invariant: beyond a small allowance per connection, every byte read from a client and not yet answered is paid for
//! from the [`Budget`] that all connections of the node share. While somebody waits for it, those who hold parts of it are
//! told.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kauri_core::limits;
use tokio::sync::{Notify, Semaphore, watch};

/// What a connection may hold without asking the budget, so that small requests never wait for large ones.
pub(crate) const ALLOWANCE_BYTES: usize = 64 << 10;

/// The length in front of each frame.
const PREFIX_BYTES: usize = 4;

/// Bytes of clients' frames in memory beyond the allowances. Holds one frame of the largest size.
#[derive(Debug)]
pub(crate) struct Budget {
    permits: Semaphore,
    /// How many connections wait for permits. A change is announced when the first begins and the last ends to wait.
    waiting: watch::Sender<usize>,
}

/// One connection that waits, until it is dropped.
struct Waiting<'a>(&'a Budget);

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
    /// Bytes that may be read next. They are paid for, and a credit that comes before they are read leaves them alone.
    reserved: usize,
    /// Bytes taken from the budget: always what is held and reserved beyond the allowance.
    paid: usize,
}

impl Budget {
    pub(crate) fn new(bytes: usize) -> Self {
        Self { permits: Semaphore::new(bytes), waiting: watch::Sender::new(0) }
    }

    fn wait(&self) -> Waiting<'_> {
        self.waiting.send_if_modified(|waiting| {
            *waiting += 1;
            *waiting == 1
        });
        Waiting(self)
    }

    #[cfg(test)]
    pub(crate) fn available(&self) -> usize {
        self.permits.available_permits()
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.send_if_modified(|waiting| {
            *waiting -= 1;
            *waiting == 0
        });
    }
}

impl Window {
    pub(crate) fn new(budget: Arc<Budget>) -> Self {
        let credit = i64::try_from(limits::CLIENT_WINDOW_BYTES).expect("a window is far below 2^63 bytes");
        Self { budget, account: Mutex::new(Account { credit, held: 0, reserved: 0, paid: 0 }), credited: Notify::new() }
    }

    /// How many connections wait for the budget; changes when the first begins and the last ends to.
    pub(crate) fn scarcity(&self) -> watch::Receiver<usize> {
        self.budget.waiting.subscribe()
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

    /// A frame of so many bytes was delivered. Its length prefix is in memory no longer, and nobody returns credit for
    /// that.
    pub(crate) fn deliver(&self, bytes: usize) {
        self.account().credit -= signed(bytes);
        self.release(PREFIX_BYTES);
    }

    /// How many bytes may be read now: up to `wanted`, at least one. Waits for the budget if the allowance is used up.
    pub(crate) async fn room(&self, wanted: usize) -> usize {
        let free = {
            let mut account = self.account();
            let free = ALLOWANCE_BYTES.saturating_sub(account.held).min(wanted);
            // The free part is taken at once; what follows pays for the rest.
            account.reserved = free;
            free
        };
        let missing = u32::try_from(wanted - free).unwrap_or(u32::MAX);
        if missing == 0 {
            return free;
        }
        let permit = match self.budget.permits.try_acquire_many(missing) {
            Ok(permit) => permit,
            Err(_) if free > 0 => return free,
            Err(_) => {
                let _waiting = self.budget.wait();
                // Little is asked for, so that many who wait get something each.
                let permit = self.budget.permits.acquire_many(missing.min(SCARCE_BYTES)).await;
                permit.expect("the budget is never closed")
            }
        };
        let paid = permit.num_permits();
        permit.forget();
        let mut account = self.account();
        account.reserved += paid;
        account.paid += paid;
        // Credit may have come meanwhile, and made part of the payment unnecessary.
        account.settle(&self.budget);
        account.reserved
    }

    /// So many bytes were read. What was paid for and not read goes back to the budget.
    pub(crate) fn hold(&self, bytes: usize) {
        let mut account = self.account();
        assert!(bytes <= account.reserved, "no more is read than there was room for");
        account.held += bytes;
        account.reserved = 0;
        account.settle(&self.budget);
    }

    fn release(&self, bytes: usize) {
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
    /// Gives back what was paid for and is not needed any more.
    fn settle(&mut self, budget: &Budget) {
        let needed = (self.held + self.reserved).saturating_sub(ALLOWANCE_BYTES);
        let surplus = self.paid.checked_sub(needed).expect("what is held and reserved is paid for");
        self.paid = needed;
        budget.permits.add_permits(surplus);
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        let paid = self.account().paid;
        self.budget.permits.add_permits(paid);
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
        assert_eq!(now(window.open()), Some(()));
        window.deliver(limits::CLIENT_WINDOW_BYTES - 1);
        assert_eq!(now(window.open()), Some(()), "one byte is left, so one more frame may come");
        window.deliver(500);
        assert_eq!(now(window.open()), None);
        window.credit(499);
        assert_eq!(now(window.open()), None);
        window.credit(1);
        assert_eq!(now(window.open()), Some(()));
    }

    #[test]
    fn what_was_answered_is_held_no_longer() {
        let budget = Arc::new(Budget::new(1000));
        let window = Window::new(Arc::clone(&budget));
        for _ in 0..ALLOWANCE_BYTES {
            assert_eq!(now(window.room(PREFIX_BYTES + 10)), Some(PREFIX_BYTES + 10));
            window.hold(PREFIX_BYTES + 10);
            window.deliver(10);
            window.credit(10);
        }
        assert_eq!(budget.available(), 1000);
        assert_eq!(now(window.room(usize::MAX)), Some(ALLOWANCE_BYTES));
    }

    #[test]
    fn credit_that_comes_while_a_read_is_under_way_does_not_touch_its_room() {
        let budget = Arc::new(Budget::new(1000));
        let window = Window::new(Arc::clone(&budget));
        assert_eq!(now(window.room(ALLOWANCE_BYTES + 300)), Some(ALLOWANCE_BYTES + 300));
        window.hold(ALLOWANCE_BYTES + 300);
        assert_eq!(now(window.room(500)), Some(500));
        window.credit(ALLOWANCE_BYTES);
        window.hold(500);
        assert_eq!(budget.available(), 1000, "800 bytes are held, which is below the allowance");
        assert_eq!(now(window.room(ALLOWANCE_BYTES)), Some(ALLOWANCE_BYTES));
    }

    #[test]
    fn those_who_hold_memory_learn_that_others_wait_for_it() {
        let budget = Arc::new(Budget::new(100));
        let (holder, waiter) = (Window::new(Arc::clone(&budget)), Window::new(budget));
        let mut scarcity = holder.scarcity();
        assert_eq!(now(holder.room(ALLOWANCE_BYTES + 100)), Some(ALLOWANCE_BYTES + 100));
        holder.hold(ALLOWANCE_BYTES + 100);
        assert_eq!(now(waiter.room(usize::MAX)), Some(ALLOWANCE_BYTES));
        waiter.hold(ALLOWANCE_BYTES);
        assert!(now(scarcity.changed()).is_none(), "nobody waits");
        {
            let room = pin!(waiter.room(10));
            assert_eq!(now(room), None);
        }
        // Whoever gave up waiting is not waited for.
        assert_eq!(*scarcity.borrow_and_update(), 0);
        let mut room = pin!(waiter.room(10));
        assert_eq!(now(room.as_mut()), None);
        assert!(now(scarcity.changed()).is_some());
        assert_eq!(*scarcity.borrow_and_update(), 1);
        holder.credit(10);
        assert_eq!(now(room), Some(10));
        assert!(now(scarcity.changed()).is_some());
        assert_eq!(*scarcity.borrow_and_update(), 0);
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

        one.credit(ALLOWANCE_BYTES);
        other.hold(401);
        assert_eq!(budget.available(), 1000 - 401, "credit for one leaves alone what another pays for");

        drop(one);
        drop(other);
        assert_eq!(budget.available(), 1000, "whatever a connection held ends with it");
    }
}

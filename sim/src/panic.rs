//! Panics of a simulated process: caught, kept as a message, and told as a failure of the run.
//!
//! Invariant: a panic outside a run is printed as ever.

use std::{cell::RefCell, panic, sync::Once};

thread_local! {
    /// None outside a run.
    static MESSAGE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// While one exists, panics of this thread are kept instead of printed.
#[derive(Debug)]
pub(crate) struct Catcher(());

impl Catcher {
    pub(crate) fn new() -> Self {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let printing = panic::take_hook();
            panic::set_hook(Box::new(move |info| {
                let kept = MESSAGE.with_borrow_mut(|message| {
                    let Some(message) = message else { return false };
                    *message = info.to_string().replace('\n', " ");
                    true
                });
                if !kept {
                    printing(info);
                }
            }));
        });
        MESSAGE.with_borrow_mut(|message| *message = Some(String::new()));
        Self(())
    }
}

impl Drop for Catcher {
    fn drop(&mut self) {
        MESSAGE.with_borrow_mut(|message| *message = None);
    }
}

/// What the last panic of this thread said, and where.
pub(crate) fn last_message() -> String {
    MESSAGE.with_borrow(|message| message.clone().unwrap_or_else(|| "it panicked".to_owned()))
}

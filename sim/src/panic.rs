//! Panics of a simulated process: caught, kept as a message, and told as a failure of the run.
//!
//! Invariant: a panic of the simulator itself is none of these: it is printed and goes on as ever.

use std::{
    cell::RefCell,
    panic::{self, AssertUnwindSafe},
    sync::Once,
};

thread_local! {
    /// None unless this thread runs a simulated process right now.
    static MESSAGE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Calls into a simulated process. What it says when it panics is the error.
pub(crate) fn catch<R>(process: impl FnOnce() -> R) -> Result<R, String> {
    install_hook();
    MESSAGE.set(Some(String::new()));
    let result = panic::catch_unwind(AssertUnwindSafe(process));
    let message = MESSAGE.take();
    result.map_err(|_| message.expect("set above, and taken nowhere else"))
}

fn install_hook() {
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_panics_is_quoted_and_the_next_one_runs() {
        let said = catch(|| panic!("the log is {}", "gone")).unwrap_err();
        assert!(said.contains("the log is gone") && said.contains("panic.rs"), "{said}");
        assert_eq!(catch(|| 7), Ok(7));
    }
}

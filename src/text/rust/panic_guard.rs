//! Panics become failures here and nowhere else.

use std::cell::RefCell;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Once;

use crate::failure::{Code, Failure, Result};

thread_local! {
    /// Some(message so far) while a guarded call runs on this thread.
    static PANIC_MESSAGE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs `call`; a panic in it becomes INTERNAL with the panic's message, and stays off stderr.
/// What `call` had borrowed may be in a broken state after that.
pub fn run<T>(call: impl FnOnce() -> Result<T>) -> Result<T> {
    install_hook();
    let outer = exchange(Some(String::new()));
    let outcome = catch_unwind(AssertUnwindSafe(call));
    let panic = exchange(outer);
    outcome.unwrap_or_else(|payload| {
        // A payload's own destructor may panic; leaking it is the safe choice.
        std::mem::forget(payload);
        let text = panic.unwrap_or_default().replace('\n', " ");
        Err(Failure::new(Code::Internal, format!("text library panicked: {text}")))
    })
}

/// Handles that C++ keeps to the very end are freed when the thread's own variables are gone.
fn exchange(message: Option<String>) -> Option<String> {
    PANIC_MESSAGE.try_with(|kept| kept.replace(message)).unwrap_or_default()
}

fn install_hook() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let guarded = PANIC_MESSAGE.try_with(|message| match message.try_borrow_mut() {
                Ok(mut message) if message.is_some() => {
                    *message = Some(info.to_string());
                    true
                }
                _ => false,
            });
            if !guarded.unwrap_or(false) {
                previous(info);
            }
        }));
    });
}

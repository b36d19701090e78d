//! Work that may recurse as deep as its input says, or go on for longer than anybody waits.
//!
//! Compiling a grammar and running a template are recursive in code that is not ours, and a stack
//! that overflows takes the process with it. So they run on a thread of their own, with a stack
//! larger than their limits (source bytes, fuel) let them use; of it only touched pages cost. It
//! also lets the caller leave when the time is over: the work mostly ends by itself once its fuel
//! is spent, and while too many such stragglers are left no new work starts. Work that certainly
//! ends may also run where it is called, on a thread that has such a stack already.

use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::failure::{Failure, Result};
use crate::panic_guard;

/// What became of a call; only the first change counts.
const RUNNING: u8 = 0;
const DONE: u8 = 1;
const ABANDONED: u8 = 2;

/// `kDeepStackBytes` of text.h.
const STACK_BYTES: usize = 512 << 20;

/// Counts the threads that outlived their caller's wait.
#[derive(Clone, Default)]
pub struct Stragglers(Arc<AtomicUsize>);

impl Stragglers {
    const MAX: usize = 4;
}

/// Runs `call` on such a thread and waits for it, at most for `time_max`. `what` names the work in
/// errors: RESOURCE_EXHAUSTED when the time is over, INTERNAL for a panic.
pub fn run<T: Send + 'static>(
    what: &'static str,
    time_max: Duration,
    stragglers: &Stragglers,
    call: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    if stragglers.0.load(Ordering::Relaxed) >= Stragglers::MAX {
        return Err(Failure::exhausted(format!("{what}: earlier ones have not ended yet")));
    }
    let (sender, receiver) = mpsc::sync_channel(1);
    let state = Arc::new(AtomicU8::new(RUNNING));
    let (its_state, left) = (state.clone(), stragglers.0.clone());
    start(Box::new(move || {
        // There is room for one message, so this never waits; without a listener it is lost.
        let _ = sender.send(panic_guard::run(call));
        if its_state.swap(DONE, Ordering::AcqRel) == ABANDONED {
            left.fetch_sub(1, Ordering::Relaxed);
        }
    }))
    .map_err(|error| Failure::exhausted(format!("{what}: no thread: {error}")))?;
    if let Ok(outcome) = receiver.recv_timeout(time_max) {
        return outcome;
    }
    stragglers.0.fetch_add(1, Ordering::Relaxed);
    let abandoned = state.compare_exchange(RUNNING, ABANDONED, Ordering::AcqRel, Ordering::Acquire);
    if abandoned.is_err() {
        stragglers.0.fetch_sub(1, Ordering::Relaxed);
        if let Ok(outcome) = receiver.try_recv() {
            return outcome;
        }
    }
    Err(Failure::exhausted(format!("{what} took more than {} ms", time_max.as_millis())))
}

/// Runs `call` where the stack is deep: here, or on such a thread. It is waited for as long as it takes.
pub fn in_depth<T: Send + 'static>(
    what: &'static str,
    call: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    if is_deep_here() {
        return call();
    }
    let (sender, receiver) = mpsc::sync_channel(1);
    start(Box::new(move || {
        let _ = sender.send(panic_guard::run(call));
    }))
    .map_err(|error| Failure::exhausted(format!("{what}: no thread: {error}")))?;
    receiver
        .recv()
        .map_err(|error| Failure::exhausted(format!("{what}: its thread ended: {error}")))?
}

/// Whether this thread was made with such a stack. Asked once a thread: for the main one the system reads a file.
fn is_deep_here() -> bool {
    thread_local! {
        static DEEP: bool = stack_bytes() + GUARD_BYTES_MAX >= STACK_BYTES;
    }
    DEEP.try_with(|deep| *deep).unwrap_or(false)
}

/// What the system may take off a stack for its guard.
const GUARD_BYTES_MAX: usize = 1 << 20;

fn stack_bytes() -> usize {
    let mut attributes = MaybeUninit::<libc::pthread_attr_t>::zeroed();
    let (mut start, mut bytes) = (std::ptr::null_mut(), 0);
    // SAFETY: the attributes are initialised by the first call, else not used.
    unsafe {
        if libc::pthread_getattr_np(libc::pthread_self(), attributes.as_mut_ptr()) != 0 {
            return 0;
        }
        libc::pthread_attr_getstack(attributes.as_ptr(), &mut start, &mut bytes);
        libc::pthread_attr_destroy(attributes.as_mut_ptr());
    }
    bytes
}

type Job = Box<dyn FnOnce() + Send>;

/// Threads that wait for their next job: making one with its stack costs more than most jobs.
static IDLE: Mutex<Vec<Sender<Job>>> = Mutex::new(Vec::new());
const IDLE_MAX: usize = 16;
/// After so many jobs a thread ends, and with it what its stack had grown to.
const JOBS_MAX: usize = 1000;

fn start(job: Job) -> std::io::Result<()> {
    let idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner).pop();
    match idle {
        // An idle thread listens as long as it is listed.
        Some(thread) => thread.send(job).map_err(|_| std::io::Error::other("it ended")),
        None => spawn(job),
    }
}

fn spawn(first: Job) -> std::io::Result<()> {
    let work = move || {
        let (sender, receiver) = mpsc::channel::<Job>();
        first();
        for _ in 1..JOBS_MAX {
            let mut idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner);
            if idle.len() >= IDLE_MAX {
                return;
            }
            idle.push(sender.clone());
            drop(idle);
            match receiver.recv() {
                Ok(job) => job(),
                Err(_) => return,
            }
        }
    };
    let name = "fathom-text".to_string();
    std::thread::Builder::new().name(name).stack_size(STACK_BYTES).spawn(work).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn deep_recursion_fits() {
        fn depth(n: u64) -> u64 {
            let here = std::hint::black_box([n; 16]);
            if n == 0 {
                here[3]
            } else {
                depth(n - 1) + std::hint::black_box(here)[5] % 2
            }
        }
        let run = run("test", LONG, &Stragglers::default(), || Ok(depth(500_000)));
        assert_eq!(run.unwrap(), 250_000);
    }

    #[test]
    fn a_deep_stack_is_known_and_used_in_place() {
        assert!(!is_deep_here());
        let elsewhere = in_depth("test", || Ok(std::thread::current().id())).unwrap();
        assert_ne!(elsewhere, std::thread::current().id());
        let panicked = in_depth::<()>("test", || panic!("boom"));
        assert!(panicked.unwrap_err().message.contains("boom"));
        let in_place = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(|| {
            let here = std::thread::current().id();
            in_depth("test", move || Ok(std::thread::current().id() == here))
        });
        assert!(in_place.unwrap().join().unwrap().unwrap());
    }

    #[test]
    fn panics_and_failures_come_back() {
        let stragglers = Stragglers::default();
        let failed = run::<()>("test", LONG, &stragglers, || Err(Failure::invalid("no")));
        assert_eq!(failed.unwrap_err().message, "no");
        let panicked = run::<()>("test", LONG, &stragglers, || panic!("boom"));
        assert!(panicked.unwrap_err().message.contains("boom"));
    }

    #[test]
    fn too_many_stragglers_stop_new_work_until_they_end() {
        let stragglers = Stragglers::default();
        let mut gates = Vec::new();
        for _ in 0..Stragglers::MAX {
            let (gate, wait) = mpsc::channel::<()>();
            gates.push(gate);
            let late = run("test", Duration::ZERO, &stragglers, move || Ok(wait.recv().is_ok()));
            assert!(late.unwrap_err().message.contains("took more than"));
        }
        assert!(run("test", LONG, &stragglers, || Ok(())).is_err());
        drop(gates);
        while stragglers.0.load(Ordering::Relaxed) > 0 {
            std::thread::yield_now();
        }
        assert!(run("test", LONG, &stragglers, || Ok(())).is_ok());
    }
}

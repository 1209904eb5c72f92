//! Waiting for others: for a turn, for a lock, for somebody's refresh.
//!
//! A process that serves one request after another lets another one serve meanwhile; one that was started for a single request
//! simply waits.

use super::refusal::MANY_WAIT;
use std::sync::OnceLock;
use std::time::Duration;

/// Asks for another in the place of this process; the answer is whether it may wait.
type StandAside = Box<dyn Fn() -> bool + Send + Sync>;

static STAND_ASIDE: OnceLock<StandAside> = OnceLock::new();

/// What is asked before this process waits, or does what takes long.
pub fn ask_before_waiting(ask: StandAside) {
    let _ = STAND_ASIDE.set(ask);
}

/// Whether waiting takes nothing from others.
pub fn is_free() -> bool {
    STAND_ASIDE.get().is_none()
}

/// What follows waits for others, or takes long. `Err`: too many requests do.
pub fn stand_aside() -> Result<(), &'static str> {
    match STAND_ASIDE.get() {
        Some(ask) if !ask() => Err(MANY_WAIT),
        _ => Ok(()),
    }
}

/// Waits. `Err`: too many requests do.
pub fn pause(duration: Duration) -> Result<(), &'static str> {
    if !duration.is_zero() {
        stand_aside()?;
        std::thread::sleep(duration);
    }
    Ok(())
}

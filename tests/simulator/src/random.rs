//! Names nobody can guess in advance, good enough for a test double (not for real secrets).

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};

/// `length` lower-case hexadecimal digits, different at every call.
pub(crate) fn hex(length: usize) -> String {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let mut text = String::with_capacity(length + 16);
    while text.len() < length {
        let mut hasher = RandomState::new().build_hasher();
        hasher.write_u64(COUNTER.fetch_add(1, Ordering::Relaxed));
        text.push_str(&format!("{:016x}", hasher.finish()));
    }
    text.truncate(length);
    text
}

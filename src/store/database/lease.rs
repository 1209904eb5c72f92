//! Leases: how long they last, and their numbers.

use crate::values::secret::random_hex;
use std::time::Duration;

/// How long a lease lasts, and how often it is renewed.
pub const LEASE_MS: i64 = 10_000;
pub const RENEW: Duration = Duration::from_secs(3);
/// For how long whoever has asked for it, or for more of it, may count on it, however late the answer came.
pub const SURE: Duration = Duration::from_secs(7);
/// How often whoever waits looks again.
pub const POLL: Duration = Duration::from_millis(50);
/// A number that nobody else has.
pub fn new_lease() -> i64 {
    i64::from_str_radix(&random_hex::<8>()[1..], 16).unwrap_or(0).max(1)
}

//! Calls to a portal: one of them ([`relay`]), with its tokens, its idempotency key and its turn under the limit, and many of
//! them ([`bulk`]). Uses app and what lies below it.

pub mod bulk;
pub mod events;
pub mod files;
pub mod idempotency;
pub mod limits;
pub mod outcome;
pub mod payload;
pub mod refresh;
pub mod refusal;
pub mod relay;
pub mod results;
pub mod secrets;
#[cfg(test)]
mod test_kept;

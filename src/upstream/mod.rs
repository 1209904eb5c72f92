//! HTTP to portals and to the OAuth server: connections, TLS, deadlines, and whether anything was sent. Uses config, values
//! and system.

mod dial;
mod failure;
pub mod http;
mod kept;
pub mod oauth;
mod progress;
mod tcp;
#[cfg(test)]
mod test_kept;
#[cfg(test)]
pub mod test_server;
pub mod tls;
mod trust;
mod tunnel;
pub mod unpacked;

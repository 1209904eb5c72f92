//! HTTP to portals and to the OAuth server: connections, TLS, deadlines, and whether anything was sent. Uses config, values
//! and system.

mod dial;
mod failure;
pub mod http;
pub mod oauth;
mod tcp;
mod tls;
mod trust;
mod tunnel;
pub mod unpacked;

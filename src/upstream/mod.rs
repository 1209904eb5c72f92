//! HTTP to portals and to the OAuth server.

pub mod http;
pub mod oauth;

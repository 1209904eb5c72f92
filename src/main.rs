//! b24proxy: one CGI executable between 1C:Enterprise and Bitrix24.
//!
//! The way of a request, in [`serve`]: *environment → route → access → body → portal → token →
//! call → answer*. What decides is a function of values; what reads, writes, locks or calls stands at the edges:
//! [`edge`], [`config`], [`store`], [`upstream`] and [`system`].
#![forbid(unsafe_code)]

mod call;
mod cli;
mod config;
mod edge;
mod install;
mod serve;
mod store;
mod system;
mod upstream;
mod values;

use std::process::ExitCode;

/// `GATEWAY_INTERFACE` alone tells a CGI request from the command line: Apache passes an
/// ISINDEX-style query as arguments (RFC 3875, section 4.4), so arguments decide nothing.
fn main() -> ExitCode {
    if std::env::var_os("GATEWAY_INTERFACE").is_some() {
        edge::cgi::serve();
        ExitCode::SUCCESS
    } else {
        cli::run()
    }
}

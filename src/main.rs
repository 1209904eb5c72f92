//! b24proxy: one executable between 1C:Enterprise and Bitrix24.
//!
//! Started for a request, to serve many (FastCGI), to refresh tokens, or on the command line: decided here, once. The way of a request is in
//! [`serve`]: *variables → route → access → body → portal → token → call → answer*. A room names those below it alone:
//!
//! ```text
//! main → edge, cli → serve → install → call → app → upstream, store → config → values → system
//! ```
//!
//! Uses edge and cli.
#![forbid(unsafe_code)]

mod app;
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

use edge::Purpose;
use std::process::ExitCode;

fn main() -> ExitCode {
    system::process::keep_out_of_core_dumps();
    match edge::purpose() {
        Purpose::Request => edge::cgi::serve(),
        Purpose::Refresh { portal } => edge::refresher::run(&portal),
        #[cfg(unix)]
        Purpose::FastCgi => edge::fastcgi::run(),
        #[cfg(unix)]
        Purpose::Work { at_once } => edge::fastcgi::worker::run(at_once),
        Purpose::CommandLine => cli::run(edge::listen),
    }
}

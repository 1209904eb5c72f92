//! b24proxy: one CGI executable between 1C:Enterprise and Bitrix24.
//!
//! The way of a request, in [`serve`]: *environment → route → access → body → portal → token →
//! call → answer*. What decides is a function of values; what reads, writes, locks or calls stands at the edges:
//! [`edge`], [`config`], [`store`], [`upstream`] and [`system`].
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
    match edge::purpose() {
        Purpose::Request => edge::cgi::serve(),
        Purpose::Refresh { portal } => edge::refresher::run(&portal),
        Purpose::CommandLine => cli::run(),
    }
}

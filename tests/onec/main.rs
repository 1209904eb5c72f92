//! The module for 1C in `deploy/1c`.
//!
//! No 1C runs here. [`module`] reads the source with a parser and compares its parts with what the platform has, with what
//! the program understands and answers, and with `deploy/1c/requests`; [`requests`] sends those to the real executable
//! behind Apache. What the module does between two requests is not executed. `lint.sh` is for what a linter finds.

mod bsl;
#[allow(dead_code)]
#[path = "../contract/fixture.rs"]
mod fixture;
mod http_file;
mod module;
mod platform;
mod requests;

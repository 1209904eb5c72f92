//! The module for 1C in `deploy/1c`.
//!
//! No 1C runs here. [`module`] reads the source with a parser and compares its parts with what the platform has, with what
//! the program understands and answers, and with `deploy/1c/requests`; [`requests`] sends those to the real executable
//! behind Apache. [`language`] runs the module with as much of the platform as it uses: [`decisions`] looks at what it
//! does between two requests, [`samples`] runs the code of the document against the real executable. `lint.sh` is for what
//! a linter finds.

mod abilities;
mod bsl;
mod decisions;
mod dump;
#[allow(dead_code)]
#[path = "../contract/fixture.rs"]
mod fixture;
mod http_file;
mod language;
mod module;
mod platform;
mod requests;
mod samples;
mod script;

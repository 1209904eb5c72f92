//! The executable among what goes wrong: killed at each of its system calls, on disks that are full or read-only, and
//! before an OAuth server and a portal that misbehave; and the refresh protocol, checked as a model. And two nodes at a
//! database: faults at each statement, ways that fall silent, clocks that differ, servers that come and go.
//!
//! `B24PROXY_FULL=1` steps through every system call of the request's process too, from its very first.

mod bench;
mod clocks;
mod disk;
mod events;
#[allow(dead_code)]
#[path = "../contract/fixture.rs"]
mod fixture;
mod kills;
mod misbehaviour;
mod model;
mod nodes;
mod partitions;
mod servers;
mod statements;

//! The machine: its clock, disk, log and users.

pub mod clock;
pub mod disk;
pub mod log;
pub mod user;

//! The machine: its clock, disk, log and users. Uses nothing of the program.

pub mod clock;
pub mod disk;
pub mod log;
pub mod user;

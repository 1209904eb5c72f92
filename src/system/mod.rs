//! The machine: its clock, disk, log and users, and the process itself. Uses nothing of the program.

pub mod clock;
pub mod disk;
pub mod log;
pub mod process;
pub mod ready;
pub mod refusal;
pub mod user;
pub mod wait;

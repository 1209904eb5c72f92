//! The house itself: its rooms, and what it is built on.

mod rooms;

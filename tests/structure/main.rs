//! What the program is made of: its rooms, and what it depends on.

mod bill;
mod dependencies;
mod rooms;

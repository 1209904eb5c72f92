//! What the program is made of: what it depends on.

mod dependencies;

//! Where the program meets the process that it runs in.

pub mod cgi;

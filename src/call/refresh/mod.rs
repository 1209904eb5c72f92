//! Refreshing a portal's tokens: once for all processes ([`once`]), in a process of its own that outlives the request
//! ([`process`]), which spends the refresh token ([`spend`]).

pub mod once;
pub mod process;
pub mod spend;

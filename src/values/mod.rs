//! What the program speaks of: values, and decisions on them, without a file or a socket. Uses system, for its clock.

pub mod answer;
pub mod bucket;
pub mod connector;
#[cfg_attr(not(feature = "postgres"), allow(dead_code))]
pub mod database;
pub mod encoding;
pub mod error;
pub mod event;
pub mod file_address;
pub mod foreign;
pub mod form;
pub mod grant;
pub mod idn;
pub mod json;
pub mod listening;
pub mod mask;
pub mod method;
pub mod moved;
pub mod multipart;
pub mod nested;
pub mod oauth_server;
pub mod parts;
pub mod percent;
pub mod portal;
pub mod proxy;
pub mod request;
pub mod secret;
pub mod signed;
pub mod spelling;
pub mod tally;
pub mod upload;
pub mod verdict;

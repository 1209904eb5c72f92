//! b24proxy: one CGI executable between 1C:Enterprise and Bitrix24.
//!
//! The way of a request, in [`serve`]: *environment → route → access → body → portal → token →
//! call → answer*. What decides is a function of values; what reads, writes, locks or calls stands at the edges:
//! [`edge`], [`config`], [`store`], [`upstream`] and [`system`].
#![forbid(unsafe_code)]

pub mod call;
pub mod cli;
pub mod config;
pub mod edge;
pub mod install;
pub mod serve;
pub mod store;
pub mod system;
pub mod upstream;
pub mod values;

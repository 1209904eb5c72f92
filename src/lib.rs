//! b24proxy: one CGI executable between 1C:Enterprise and Bitrix24.
//!
//! The way of a request, in [`serve`]: *environment → route → access → body → portal → token →
//! call → answer*. What decides is a function of values; what reads, writes, locks or calls stands at the edges:
//! [`boundary`], [`config`], [`disk`], [`store`], [`limits`], [`idempotency`], [`refresh`], [`http`] and [`log`].
#![forbid(unsafe_code)]

pub mod access;
pub mod answer;
pub mod batch;
pub mod boundary;
pub mod bulk;
pub mod cli;
pub mod clock;
pub mod config;
pub mod cors;
pub mod disk;
pub mod envelope;
pub mod error;
pub mod form;
pub mod http;
pub mod idempotency;
pub mod install;
pub mod json;
pub mod limits;
pub mod log;
pub mod method;
pub mod multipart;
pub mod oauth;
pub mod page;
pub mod payload;
pub mod percent;
pub mod portal;
pub mod refresh;
pub mod relay;
pub mod results;
pub mod route;
pub mod secret;
pub mod serve;
pub mod spelling;
pub mod state;
pub mod status;
pub mod store;
pub mod user;
pub mod verdict;
pub mod webhook;

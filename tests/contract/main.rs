//! What users rely on, sentence by sentence, on the real executable: as a CGI process against the simulator.
//! The names of the tests are the sentences.

mod access;
mod allow_list;
mod answers;
mod attacks;
mod calls;
mod configuration;
mod connector;
mod counters;
mod dialing;
mod encodings;
mod events;
mod files;
mod files_under_servers;
#[allow(dead_code)]
mod fixture;
mod footprint;
mod health;
mod host_limits;
mod idempotency;
mod idn;
mod installation;
mod installing;
mod limits;
mod list_families;
mod lists;
mod logging;
mod memory;
mod nodes;
mod oauth_servers;
mod outbound;
mod pages;
mod refresh;
mod refusals;
mod relay;
mod requests;
mod root;
mod secrets;
mod server_logs;
mod status_page;
mod tls;
mod token_folder;
mod uninstalling;
mod uploads;
#[allow(dead_code)]
mod visitor;
mod web_servers;
mod webhook;

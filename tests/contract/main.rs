//! What users rely on, sentence by sentence, on the real executable: as a CGI process against the simulator.
//! The names of the tests are the sentences.

mod access;
mod configuration;
#[allow(dead_code)]
mod fixture;
mod footprint;
mod installation;
mod logging;
mod refresh;
mod relay;
mod requests;
mod web_servers;

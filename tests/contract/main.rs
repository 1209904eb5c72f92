//! What users rely on, sentence by sentence, on the real executable: as a CGI process against the simulator.
//! The names of the tests are the sentences.

mod allow_list;
#[allow(dead_code)]
mod fixture;
mod relay;
mod root;
mod webhook;
